"""JSON as Go's encoding/json writes it, and its words for what it can't read."""

import json
import struct
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

_ESCAPED = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}
_ESCAPED |= {"\u2028": "\\u2028", "\u2029": "\\u2029"}

_KEY_EXPECTED = "looking for beginning of object key string"
_CONTEXT = {
    "Expecting property name enclosed in double quotes": _KEY_EXPECTED,
    "Expecting value": "looking for beginning of value",
    "Expecting ':' delimiter": "after object key",
    "Invalid control character at": "in string literal",
    "Illegal trailing comma before end of object": _KEY_EXPECTED,
    "Illegal trailing comma before end of array": "looking for beginning of value",
}


def encode(value: Any) -> bytes:
    """Encode without spaces, `<`, `>` and `&` escaped, numbers as Go prints them.

    A mapping keeps its order: sort it where Go has a map, leave it where Go has a struct.
    """
    return _text(value).encode()


def number(value: float) -> str:
    """Go's shortest decimal for a float64: no exponent from 1e-6 up to 1e21."""
    if value.is_integer() and abs(value) < 1e21:
        return str(int(value))
    if 1e-6 <= abs(value) < 1e21:
        return format(Decimal(repr(value)), "f")
    mantissa, _, exponent = repr(value).partition("e")
    return f"{mantissa}e{int(exponent):+d}" if exponent else mantissa


def float32(value: float) -> float:
    """The shortest decimal that is the same float32, which is what Go prints for one."""
    for digits in range(1, 10):
        candidate = float(f"{value:.{digits}g}")
        if struct.pack("<f", candidate) == struct.pack("<f", value):
            return candidate
    return value


def decode(body: bytes) -> Any:
    """Read the first JSON value of `body`; what follows it is ignored, as gin does.

    Raises EOFError for an empty body, ValueError with Go's message for any other flaw.
    """
    text = body.decode(errors="replace").lstrip(" \t\r\n")
    if not text:
        raise EOFError
    try:
        return json.JSONDecoder().raw_decode(text)[0]
    except json.JSONDecodeError as error:
        raise ValueError(_words_of_go(error, text)) from None
    except RecursionError:
        raise ValueError("exceeded max depth") from None


def _words_of_go(error: json.JSONDecodeError, text: str) -> str:
    at = error.pos
    # Python points at a trailing comma, or at the quote of a string without end.
    while at < len(text) and text[at] in " \t\r\n,":
        at += 1
    if at == len(text) or error.msg.startswith("Unterminated string"):
        return "unexpected EOF"
    if error.msg == "Expecting ',' delimiter":
        inside_object = text.rfind("{", 0, at) > text.rfind("[", 0, at)
        context = "after object key:value pair" if inside_object else "after array element"
    else:
        context = _CONTEXT.get(error.msg, "in string escape code")
    return f"invalid character {text[at]!r} {context}"


def _text(value: Any) -> str:
    match value:
        case bool() | None:
            return json.dumps(value)
        case int():
            return str(value)
        case float():
            return number(value)
        case str():
            return _string(value)
        case Mapping():
            return "{" + ",".join(f"{_string(k)}:{_text(v)}" for k, v in value.items()) + "}"
        case _:
            return "[" + ",".join(map(_text, value)) + "]"


def _string(value: str) -> str:
    quoted = json.dumps(value, ensure_ascii=False)
    return "".join(_ESCAPED.get(character, character) for character in quoted)

"""What a client asked for beside the model: the optional fields of create and deploy."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from dataclasses import fields as fields_of
from math import isfinite, nan
from typing import Any

from app.formats import counted_json
from app.formats.tensor_types import QUANTIZATIONS

MERGE_CHOICES = ("auto", "always", "never")
SAID_BY_MODELFILE = ("system", "template", "modelfile_template", "parameters", "license")
QUANTIZE_TYPES = QUANTIZATIONS
FIELDS = (
    *("from", *SAID_BY_MODELFILE, "modelfile", "quantize", "replace", "merge", "adapter_scale"),
    *("projector", "verify"),
)
"""The names of the optional fields, as requests spell them."""


TEXT_CHARACTERS = 500_000
NO_TEXT = (
    "holds a NUL character or half of a character (a lone surrogate), which Ollama can't take."
    " Remove it."
)


class BadRequest(Exception):
    """A field is missing or isn't what it should be."""


@dataclass(frozen=True)
class Options:
    """The optional fields, checked; None where a field wasn't sent. `quantize_by_default` is the
    service's own setting, for models that aren't quantized yet; `converter` is its command for
    safetensors models that it doesn't know, if any."""

    from_: str | None = None
    system: str | None = None
    template: str | None = None
    modelfile_template: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    license: str | None = None
    modelfile: str | None = None
    quantize: str | None = None
    quantize_by_default: str | None = None
    converter: tuple[str, ...] = ()
    replace: bool = True
    merge: str | None = None
    adapter_scale: float = 1.0
    projector: str | None = None
    verify: bool | None = None

    def stated(self) -> dict[str, Any]:
        """The fields that were sent, by their names in a request; without `modelfile`."""
        own = ("modelfile", "quantize_by_default", "converter")
        return {
            each.name.rstrip("_"): getattr(self, each.name)
            for each in fields_of(self)
            if each.name not in own and getattr(self, each.name) != getattr(Options, each.name, {})
        }


def text(fields: Mapping[str, Any], name: str, most: int = TEXT_CHARACTERS) -> str:
    """The text of a field that must be there. Raises BadRequest."""
    value = optional_text(fields, name, most)
    if not value:
        raise BadRequest(f"The field {name!r} is missing or empty. Send it as text.")
    return value


def optional_text(fields: Mapping[str, Any], name: str, most: int = TEXT_CHARACTERS) -> str | None:
    """The text of a field, or None where it isn't there. Raises BadRequest, also for one of more
    than `most` characters."""
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise BadRequest(f"The field {name!r} must be text.")
    if value is not None and len(value) > most:
        raise BadRequest(
            f"The field {name!r} has {len(value)} characters; it takes {most} at most."
        )
    if value is not None and not _is_text(value):
        raise BadRequest(f"The field {name!r} {NO_TEXT}")
    return value


def options(fields: Mapping[str, Any]) -> Options:
    """Read the optional fields of a JSON object or a form. Raises BadRequest."""
    quantize = optional_text(fields, "quantize") or None
    if quantize is not None:
        quantize = quantize.upper()
        if quantize not in QUANTIZE_TYPES:
            raise BadRequest(
                f"The field 'quantize' takes one of {', '.join(QUANTIZE_TYPES)}, not {quantize!r}."
            )
    modelfile = optional_text(fields, "modelfile") or None
    for name in SAID_BY_MODELFILE if modelfile else ():
        if fields.get(name):
            raise BadRequest(f"The field 'modelfile' says all that {name!r} says: send one.")
    return Options(
        from_=optional_text(fields, "from") or None,
        system=optional_text(fields, "system") or None,
        template=optional_text(fields, "template") or None,
        modelfile_template=optional_text(fields, "modelfile_template") or None,
        parameters=_object(fields, "parameters"),
        license=optional_text(fields, "license") or None,
        modelfile=modelfile,
        quantize=quantize,
        replace=_flag(fields, "replace") is not False,
        merge=_merge(fields),
        adapter_scale=_number(fields, "adapter_scale", default=1.0),
        projector=optional_text(fields, "projector") or None,
        verify=_flag(fields, "verify"),
    )


def read_json(content: str | bytes) -> Any:
    """A stranger's JSON. Raises ValueError, also where it nests too deeply, has too many values, a
    number beyond 64 bits or beyond a double's range, or NaN or Infinity, which JSON doesn't know
    (RFC 8259); BadRequest for a text with what can't go on to Ollama."""
    if isinstance(content, bytes):
        content = content.decode(json.detect_encoding(content), "surrogatepass")
    with counted_json.alone(content):
        value = counted_json.loads(
            content, parse_int=_integer, parse_float=_finite, parse_constant=_not_json
        )
        # Neither can stand there but by an escape, or as half of a character itself.
        is_plain = "\\u" not in content and _is_text(content)
        if not is_plain and not all(map(_is_text, _texts(value))):
            raise BadRequest(f"A text of the JSON {NO_TEXT}")
    return value


def _texts(value: Any) -> Iterator[str]:
    """All texts in what JSON says, keys too."""
    left = [value]
    while left:
        match left.pop():
            case str(text):
                yield text
            case list(values):
                left += values
            case dict(values):
                left += values
                left += values.values()


def _is_text(text: str) -> bool:
    """Whether UTF-8 can carry it, and llama.cpp reads it to its end."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def _integer(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= int(text) < 2**64:
        raise ValueError(f"the number {text[:20]}... exceeds 64 bits")
    return int(text)


def _finite(text: str) -> float:
    if not isfinite(float(text)):
        raise ValueError(f"the number {text[:20]} is out of range")
    return float(text)


def _not_json(text: str) -> float:
    raise ValueError(f"{text} is no JSON number")


def _merge(fields: Mapping[str, Any]) -> str | None:
    value = optional_text(fields, "merge") or None
    if value is not None and value not in MERGE_CHOICES:
        raise BadRequest(f"The field 'merge' takes one of {', '.join(MERGE_CHOICES)}.")
    return value


def _number(fields: Mapping[str, Any], name: str, *, default: float) -> float:
    value = fields.get(name, "")
    if value == "" or value is None:
        return default
    try:
        number = float(value) if isinstance(value, int | float | str) else nan
    except ValueError:
        number = nan
    if isinstance(value, bool) or not isfinite(number):
        raise BadRequest(f"The field {name!r} takes a finite number.")
    return number


def _object(fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = fields.get(name)
    if isinstance(value, str):
        try:
            value = read_json(value) if value.strip() else None
        except ValueError as error:
            raise BadRequest(f"The field {name!r} isn't JSON: {error}.") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadRequest(f'The field {name!r} must be a JSON object such as {{"temperature": 0}}.')
    return value


def _flag(fields: Mapping[str, Any], name: str) -> bool | None:
    value = fields.get(name)
    if value is None or value == "":
        return None
    flags = {"true": True, "1": True, "false": False, "0": False}
    flag = flags.get(str(value).lower())
    if flag is None:
        raise BadRequest(f"The field {name!r} takes true or false.")
    return flag

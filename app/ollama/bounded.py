"""What a server answers, read within bounds: whatever it sends, memory and time stay small."""

import json
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

ANSWER_BYTES = 16 * 2**20
LINE_BYTES = 2**20
STREAM_BYTES = 256 * 2**20
DEPTH = 32
DIGITS = 19


class TooMuch(ValueError):
    """An answer beyond its bounds; the message is the end of a sentence."""


def whole(blocks: Iterable[bytes], most: int = ANSWER_BYTES) -> bytes:
    """All blocks in one. Raises TooMuch beyond `most` bytes."""
    content = bytearray()
    for block in blocks:
        content += block
        if len(content) > most:
            raise TooMuch(f"an answer of more than {most} bytes")
    return bytes(content)


def lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The lines that are not empty. Raises TooMuch for one of more than LINE_BYTES, and for more
    than STREAM_BYTES in all."""
    rest, total = b"", 0
    for block in blocks:
        total += len(block)
        if total > STREAM_BYTES:
            raise TooMuch(f"more than {STREAM_BYTES} bytes of lines")
        *complete, rest = (rest + block).split(b"\n")
        for line in complete:
            if line.strip():
                yield line
        if len(rest) > LINE_BYTES:
            raise TooMuch(f"a line of more than {LINE_BYTES} bytes")
    if rest.strip():
        yield rest


def parse_json(content: bytes) -> Any:
    """A JSON value. Raises ValueError for what isn't one, for one that is nested more than DEPTH
    levels deep, and for numbers that aren't finite or have more than DIGITS digits."""
    try:
        value = json.loads(
            content, parse_int=_integer, parse_float=_number, parse_constant=_no_constant
        )
    except RecursionError:
        raise TooMuch("an answer that is nested too deep") from None
    _check_depth(value)
    return value


def number(value: object) -> float | None:
    """`value` where it is a number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value


def _integer(digits: str) -> int:
    if len(digits) > DIGITS + 1:
        raise TooMuch("a number that is too long")
    return int(digits)


def _number(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise TooMuch("a number that is too large")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} isn't JSON")


def _check_depth(value: object) -> None:
    level = [value]
    for _ in range(DEPTH + 1):
        if not level:
            return
        level = [
            item
            for each in level
            for item in (
                each.values() if isinstance(each, dict) else each if isinstance(each, list) else ()
            )
            if isinstance(item, dict | list)
        ]
    if level:
        raise TooMuch("an answer that is nested too deep")

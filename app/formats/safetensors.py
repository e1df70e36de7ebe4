"""The headers of safetensors files; nothing after them is read.

The format is that of the safetensors README. Its reference implementation takes headers of up to
100 MB; here HEADER_BYTES and a count of what separates values, room for some 50,000 tensors, bound
what the JSON can take of memory, and every number is checked before anything is computed from it.
So no header needs a process of its own (`make fuzz` checks this with a coverage-guided fuzzer).
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from app.formats import counted_json
from app.formats.files import UNKNOWN_SIZE
from app.formats.magic import BEGINNING_BYTES, SAFETENSORS, recognise

HEADER_BYTES = 8 * 2**20
NAME_CHARACTERS = 512
RANK = 16
LIMIT = 2**63
DTYPE_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
    **dict.fromkeys(("F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}


class SafetensorsError(ValueError):
    """The file can't be used; the message is a sentence that follows the file's name."""


class Truncated(SafetensorsError):
    """The stream ended within the header; with more of the file, it might be right."""


@dataclass(frozen=True)
class Tensor:
    """A tensor's place: `shape` row-major, `offset` in bytes from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Header:
    """A safetensors file's header; `size` is the whole file's, in bytes."""

    size: int
    metadata: Mapping[str, str]
    tensors: Mapping[str, Tensor]

    @property
    def parameter_count(self) -> int:
        return sum(prod(tensor.shape) for tensor in self.tensors.values())


def open_header(path: Path) -> Header:
    """The header of a file on disk. Raises SafetensorsError and OSError."""
    with path.open("rb") as file:
        return read_header(file, path.stat().st_size)


def read_header(stream: BinaryIO, size: int) -> Header:
    """The header of the file that `stream` reads from its first byte on, forward only.

    `size` is the whole file's, in bytes. Raises SafetensorsError; Truncated where `stream` ends
    before its header.
    """
    start = _read(stream, 8) if size >= 8 else b""
    if len(start) < 8:
        raise SafetensorsError("isn't a safetensors file: it is too short")
    length: int = struct.unpack("<Q", start)[0]
    if length > HEADER_BYTES or 8 + length > size:
        kind = recognise(start + (stream.read(BEGINNING_BYTES) if length > size else b""))
        if kind not in (None, SAFETENSORS):
            raise SafetensorsError(f"is {kind.name}; {kind.advice}")
        raise SafetensorsError("isn't a safetensors file, or is cut off within its header")
    text = _read(stream, length)
    with counted_json.alone(text):
        return _header(text, size)


def _header(text: bytes, size: int) -> Header:
    table, start = _header_table(text), 8 + len(text)
    metadata = table.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise SafetensorsError("has a __metadata__ that isn't a JSON object of texts")
    tensors = {name: _tensor(name, info, start) for name, info in table.items()}
    _check_places(tensors, start, size)
    return Header(size, metadata, tensors)


def header_bytes(stream: BinaryIO) -> int:
    """How long the header is that `stream` begins with, its length's eight bytes included."""
    return 8 + int.from_bytes(_read(stream, 8), "little")


def json_object(
    text: bytes, problem: str, excess: str = "has more values than any model needs"
) -> dict[str, Any]:
    """The JSON object that `text` is, without a key twice. Raises SafetensorsError: `problem`, or
    `excess` for too many values."""
    try:
        value = counted_json.loads(text, object_pairs_hook=_without_repeats)
    except ValueError as error:
        if isinstance(error, counted_json.TooManyValues):
            raise SafetensorsError(excess) from error
        value = None
    if not isinstance(value, dict):
        raise SafetensorsError(problem)
    return value


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key stands twice")
    return value


def _header_table(text: bytes) -> dict[str, Any]:
    excess = "has a header of more tensors than any model has"
    return json_object(text, "has a header that isn't a JSON object", excess)


def _tensor(name: str, info: Any, data: int) -> Tensor:
    if len(name) > NAME_CHARACTERS or not name.isprintable():
        raise SafetensorsError(
            f"has a tensor name that is too long or can't be printed: {name!a:.80}"
        )
    try:
        dtype, shape, (start, end) = info["dtype"], info["shape"], info["data_offsets"]
        bits = DTYPE_BITS[dtype]
        numbers = [*shape, start, end] if isinstance(shape, list) else [None]
    except (LookupError, TypeError, ValueError):
        raise SafetensorsError(f"has an unknown or incomplete description of {name}") from None
    if len(numbers) > RANK + 2 or not all(
        type(number) is int and 0 <= number < LIMIT for number in numbers
    ):
        raise SafetensorsError(f"has an impossible shape or place of {name}")
    bits *= prod(shape)
    if bits >= LIMIT:
        raise SafetensorsError(f"has an impossible shape or place of {name}")
    if bits % 8 or end - start != bits // 8:
        raise SafetensorsError(f"gives {name} {end - start} bytes where it needs {bits // 8}")
    return Tensor(name, dtype, tuple(shape), data + start, end - start)


def _check_places(tensors: Mapping[str, Tensor], start: int, size: int) -> None:
    end = start
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.offset, tensor.nbytes)):
        if tensor.offset != end:
            raise SafetensorsError(f"has a gap or an overlap before {tensor.name}")
        end += tensor.nbytes
    if end > size:
        raise SafetensorsError(
            f"is cut off: it should have {end} bytes, but has {size}. Copy it again"
        )
    if end < size != UNKNOWN_SIZE:
        raise SafetensorsError("has other data after its tensors")


def _read(stream: BinaryIO, count: int) -> bytes:
    pieces = []
    while count and (piece := stream.read(count)):
        pieces.append(piece)
        count -= len(piece)
    if count:
        raise Truncated("is cut off within its header")
    return b"".join(pieces)

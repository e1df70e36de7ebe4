"""A reader of GGUF headers that fails where Ollama's does, in Ollama's words (fs/ggml/gguf.go).

It is written for the stand-in alone and shares nothing with the service's reader, so that a mistake
in one doesn't hide in the other. Memory is bounded: long values and further entries are walked over
and not kept.
"""

import math
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

MAX_STRING = 16 << 20
MAX_ARRAY = 64 << 20
MAX_DIMENSIONS = 4

_KEPT_VALUE = 1 << 20
_KEPT_BYTES = 16 << 20
_KEPT_TENSORS = 1 << 17

_STRING, _ARRAY = 8, 9
_SCALARS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}

_FILE_TYPES = {
    **dict(enumerate(("F32", "F16", "Q4_0", "Q4_1"))),
    **dict(enumerate(("Q8_0", "Q5_0", "Q5_1", "Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L"), 7)),
    **dict(enumerate(("Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "IQ2_XXS", "IQ2_XS"), 14)),
    **dict(enumerate(("Q2_K_S", "IQ3_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ3_M"), 21)),
    **dict(enumerate(("IQ2_S", "IQ2_M", "IQ4_XS", "IQ1_M", "BF16"), 28)),
}

# ggml type number: name, elements in a block, bytes of a block.
_TENSOR_TYPES = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 36),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    39: ("MXFP4", 32, 17),
}


class GGUFError(Exception):
    """The file is no GGUF that Ollama takes; the message is Ollama's."""


@dataclass(frozen=True)
class Tensor:
    """One tensor's entry: shape with the row length first, `offset` from the start of the data."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int

    @property
    def type_name(self) -> str:
        """The name of its ggml type."""
        return _TENSOR_TYPES.get(self.kind, ("unknown", 1, 0))[0]

    @property
    def size(self) -> int | None:
        """Its bytes, or None where type and row length don't go together."""
        _, block, block_bytes = _TENSOR_TYPES.get(self.kind, ("unknown", 1, 0))
        if not block_bytes or (self.shape and self.shape[0] % block):
            return None
        return math.prod(self.shape) // block * block_bytes


@dataclass
class Header:
    """What the header says. An array is kept as None: show prints it as null."""

    version: int
    order: str
    values: dict[str, Any] = field(default_factory=dict)
    spans: dict[str, tuple[int, int]] = field(default_factory=dict)
    tensors: list[Tensor] = field(default_factory=list)
    tensor_count: int = 0
    parameters: int = 0
    data_start: int = 0

    @property
    def architecture(self) -> str:
        """The value of `general.architecture`, which Ollama takes to be "unknown" if absent."""
        return str(self.values.get("general.architecture", "unknown"))

    @property
    def kind(self) -> str:
        """The value of `general.type`: model, adapter, projector, mmproj."""
        return str(self.values.get("general.type", "unknown"))

    @property
    def file_type(self) -> str:
        """The file type's name; number 0, which is F32, counts as unknown, as in Ollama."""
        number = self.values.get("general.file_type", 0)
        return _FILE_TYPES.get(number, "unknown") if number else "unknown"

    @property
    def alignment(self) -> int:
        """What tensor data is aligned to, in bytes."""
        alignment = self.values.get("general.alignment", 32)
        return alignment if isinstance(alignment, int) and alignment >= 0 else 32

    def of_architecture(self, key: str) -> Any:
        """The value of `<architecture>.<key>`, or None."""
        return self.values.get(f"{self.architecture}.{key}")


def read_header(path: Path, *, check_bounds: bool) -> Header:
    """Read the header of the file at `path`.

    `check_bounds` says whether a tensor that lies outside of the file is an error. Raises GGUFError
    and OSError.
    """
    with path.open("rb") as file:
        return _Reader(file, os.fstat(file.fileno()).st_size).read(check_bounds)


class _Reader:
    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size
        self._order = "<"
        self._kept = 0

    def read(self, check_bounds: bool) -> Header:
        magic = self._file.read(4)
        if magic not in (b"GGUF", b"FUGG"):
            raise GGUFError("supplied file was not in GGUF format")
        self._order = "<" if magic == b"GGUF" else ">"
        header = Header(version=self._number("I"), order=self._order)
        counts = "I" if header.version == 1 else "Q"
        header.tensor_count, value_count = self._number(counts), self._number(counts)
        for _ in range(value_count):
            self._read_value_into(header)
        for tensor in self._tensors(header):
            if len(header.tensors) < _KEPT_TENSORS:
                header.tensors.append(tensor)
            header.parameters += math.prod(tensor.shape)
        self._finish(header, check_bounds)
        return header

    def _finish(self, header: Header, check_bounds: bool) -> None:
        if not header.alignment:
            raise GGUFError("invalid GGUF alignment: 0")
        header.data_start = -(-self._file.tell() // header.alignment) * header.alignment
        for tensor in header.tensors if check_bounds else ():
            if tensor.size is None:
                raise GGUFError(f'tensor "{tensor.name}" size overflow')
            end = header.data_start + tensor.offset + tensor.size
            if end > self._size:
                raise GGUFError(
                    f'tensor "{tensor.name}" offset+size ({end}) exceeds file size ({self._size})'
                )

    def _read_value_into(self, header: Header) -> None:
        start = self._file.tell()
        key = self._string().decode(errors="replace")
        kind = self._number("I")
        if kind == _STRING:
            value: Any = self._string().decode(errors="replace")
        elif kind == _ARRAY:
            value = None
            self._skip_array()
        elif kind in _SCALARS:
            value = self._number(_SCALARS[kind])
        else:
            raise GGUFError(f"invalid type: {kind}")
        self._kept += len(key) + len(value if isinstance(value, str) else "") + 64
        if self._kept < _KEPT_BYTES:
            header.values[key] = value
            header.spans[key] = start, self._file.tell()

    def _skip_array(self) -> None:
        kind, count = self._number("I"), self._number("Q")
        if kind != _STRING and kind not in _SCALARS:
            raise GGUFError(f"invalid array type: {kind}")
        if count > MAX_ARRAY:
            raise GGUFError(f"GGUF array size {count} exceeds maximum {MAX_ARRAY}")
        if kind == _STRING:
            for _ in range(count):
                self._string()
            return
        width = struct.calcsize(_SCALARS[kind])
        left = self._size - self._file.tell()
        if count * width > left:
            raise GGUFError("unexpected EOF" if left % width else "EOF")
        self._file.seek(count * width, os.SEEK_CUR)

    def _tensors(self, header: Header) -> Iterator[Tensor]:
        for _ in range(header.tensor_count):
            name = self._within("name", self._string).decode(errors="replace")
            dimensions = self._within("dimensions", self._number, "I")
            if dimensions > MAX_DIMENSIONS:
                raise GGUFError(
                    f'tensor "{name}" dimensions {dimensions} exceeds maximum {MAX_DIMENSIONS}'
                )
            shape = tuple(self._within("shape", self._number, "Q") for _ in range(dimensions))
            kind = self._within("kind", self._number, "I")
            yield Tensor(name, shape, kind, self._within("offset", self._number, "Q"))

    @staticmethod
    def _within(part: str, read: Any, *arguments: str) -> Any:
        try:
            return read(*arguments)
        except GGUFError as error:
            raise GGUFError(f"failed to read tensor {part}: {error}") from None

    def _string(self) -> bytes:
        length = self._number("Q")
        if length > MAX_STRING:
            raise GGUFError(f"GGUF string length {length} exceeds maximum {MAX_STRING}")
        text = self._take(length)
        return text if length <= _KEPT_VALUE else b""

    def _number(self, code: str) -> Any:
        (number,) = struct.unpack(
            self._order + code, self._take(struct.calcsize(self._order + code))
        )
        return number

    def _take(self, count: int) -> bytes:
        taken = self._file.read(count)
        if len(taken) < count:
            raise GGUFError("unexpected EOF" if taken else "EOF")
        return taken

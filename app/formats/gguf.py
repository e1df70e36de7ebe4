"""The headers of GGUF files; nothing after them is read.

The format is that of ggml's docs/gguf.md; where that is silent, what llama.cpp's gguf.cpp takes.
Whatever the bytes are, reading takes at most HEADER_BYTES of input and ITEMS strings of arrays,
and stays below 64 MiB of memory. That needs no process of its own: each value is checked before
anything is made of it (`make fuzz` checks this with a coverage-guided fuzzer).
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite, prod
from pathlib import Path
from typing import BinaryIO

from app.formats.gguf_values import CutOff, GGUFError, GgufStream, Truncated
from app.formats.magic import recognise
from app.formats.tensor_types import (
    ARRAY,
    FILE_TYPE_IS_GUESSED,
    FILE_TYPES,
    NEWER,
    SCALARS,
    STRING,
    TENSOR_TYPES,
    type_name,
)

__all__ = [
    "Array",
    "CutOff",
    "GGUFError",
    "Header",
    "Tensor",
    "Truncated",
    "open_header",
    "read_header",
]

KEYS = 16_384
TENSORS = 32_768
KEPT_ITEMS = 64
ALIGNMENT = 2**16


@dataclass(frozen=True)
class Array:
    """An array among the metadata; its items are kept only where they are few finite numbers."""

    type: int
    length: int
    items: tuple[int | float | bool, ...] | None


Value = int | float | bool | str | Array


@dataclass(frozen=True)
class Tensor:
    """A tensor's place: `shape` as GGUF has it, fastest-varying dimension first; `offset` in bytes
    from the start of the file."""

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int
    nbytes: int

    @property
    def elements(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True)
class Header:
    """A GGUF file's header.

    `size` is the whole file's, in bytes. Texts of `metadata` beyond KEPT_TEXT characters are cut;
    `spans` is where each key-value pair begins and ends in the file. `special_tokens` are those of
    SPECIAL_TOKENS in the vocabulary, with their ids.
    """

    version: int
    size: int
    metadata: Mapping[str, Value]
    spans: Mapping[str, tuple[int, int]]
    tensors: Mapping[str, Tensor]
    alignment: int
    data_offset: int
    special_tokens: Mapping[str, int]

    @property
    def declares_kind(self) -> bool:
        """Whether the metadata says what kind of file this is."""
        return self.text("general.type") is not None or self.text("adapter.type") is not None

    @property
    def kind(self) -> str:
        """`model`, `adapter` or `mmproj`."""
        declared = self.text("general.type")
        if declared in ("model", "adapter", "mmproj"):
            return declared
        if self.text("adapter.type") or any(name.endswith(".lora_a") for name in self.tensors):
            return "adapter"
        return "mmproj" if self.architecture == "clip" else "model"

    @property
    def architecture(self) -> str | None:
        return self.text("general.architecture")

    @property
    def name(self) -> str | None:
        return self.text("general.name")

    @property
    def base_model(self) -> str | None:
        """What an adapter calls its base model."""
        return self.text("general.base_model.0.name")

    @property
    def parameter_count(self) -> int:
        return sum(tensor.elements for tensor in self.tensors.values())

    @cached_property
    def quantization(self) -> str:
        """As `general.file_type` says, else the type that most of the tensors' bytes have."""
        declared = self.integer("general.file_type")
        if declared is not None and declared & ~FILE_TYPE_IS_GUESSED in FILE_TYPES:
            return FILE_TYPES[declared & ~FILE_TYPE_IS_GUESSED]
        by_type: dict[int, int] = {}
        for tensor in self.tensors.values():
            by_type[tensor.type] = by_type.get(tensor.type, 0) + tensor.nbytes
        if not by_type:
            return "unknown"
        return type_name(max(by_type, key=lambda number: by_type[number]))

    @property
    def unknown_types(self) -> set[int]:
        """The tensor types, by number, that are newer than what is known here."""
        return {tensor.type for tensor in self.tensors.values()} - TENSOR_TYPES.keys()

    @property
    def context_length(self) -> int | None:
        """In tokens."""
        return self.integer(f"{self.architecture}.context_length")

    @property
    def lora_alpha(self) -> float | None:
        value = self.metadata.get("adapter.lora.alpha")
        return float(value) if isinstance(value, int | float) else None

    @property
    def shard(self) -> tuple[int, int] | None:
        """Number (from 0) and count of a shard."""
        number, count = self.integer("split.no"), self.integer("split.count")
        return None if number is None or count is None else (number, count)

    def text(self, key: str) -> str | None:
        """The text under `key`, if there is one."""
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None

    def integer(self, key: str) -> int | None:
        """The whole number under `key`, if there is one."""
        value = self.metadata.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None


def open_header(path: Path) -> Header:
    """The header of a file on disk. Raises GGUFError and OSError."""
    with path.open("rb") as file:
        return read_header(file, path.stat().st_size)


def read_header(stream: BinaryIO, size: int) -> Header:
    """The header of the file that `stream` reads from its first byte on, forward only.

    `size` is the whole file's, in bytes. Raises GGUFError for a file that llama.cpp wouldn't load,
    and for one whose header is beyond all reason; Truncated where `stream` ends before its header.
    """
    reader = GgufStream(stream, size)
    version = _read_version(reader)
    tensor_count, key_count = reader.number("Q"), reader.number("Q")
    if tensor_count > TENSORS or key_count > KEYS:
        raise GGUFError(f"says that it has {tensor_count} tensors and {key_count} metadata keys")
    metadata, spans, special_tokens = _read_metadata(reader, key_count)
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
        raise GGUFError("has a general.alignment that isn't a power of two")
    if alignment > ALIGNMENT:
        raise GGUFError(f"has a general.alignment of {alignment}; it can be {ALIGNMENT} at most")
    infos = [_read_tensor(reader) for _ in range(tensor_count)]
    data_offset = -(-reader.position // alignment) * alignment
    tensors = _place(infos, alignment, data_offset, size)
    if not tensors and "split.count" not in metadata:
        raise GGUFError("holds no tensors; it may be a vocabulary alone")
    return Header(version, size, metadata, spans, tensors, alignment, data_offset, special_tokens)


def _read_version(reader: GgufStream) -> int:
    if reader.size == 0:
        raise GGUFError("is empty")
    start = bytes(reader.take(min(24, reader.size)))
    if not start.startswith(b"GGUF"):
        if kind := recognise(start):
            raise GGUFError(f"isn't a GGUF file but {kind.name}; {kind.advice}")
        raise GGUFError("isn't a GGUF file: it doesn't begin with GGUF")
    if len(start) < 24:
        raise CutOff("is cut off within its header")
    reader.back(16)
    version: int = struct.unpack_from("<I", start, 4)[0]
    if version in (2, 3):
        return version
    if version in (2 << 24, 3 << 24):
        raise GGUFError("is a big-endian GGUF file; convert the model again, little-endian")
    raise GGUFError(f"is GGUF version {version}; versions 2 and 3 can be used. Convert it again")


def _read_metadata(
    reader: GgufStream, count: int
) -> tuple[dict[str, Value], dict[str, tuple[int, int]], dict[str, int]]:
    metadata: dict[str, Value] = {}
    spans: dict[str, tuple[int, int]] = {}
    special_tokens: dict[str, int] = {}
    for _ in range(count):
        start = reader.position
        key = reader.name("metadata key")
        if key in metadata:
            raise GGUFError(f"has the metadata key {key} twice")
        metadata[key] = _read_value(reader, key, special_tokens)
        spans[key] = (start, reader.position)
    return metadata, spans, special_tokens


def _read_value(reader: GgufStream, key: str, special_tokens: dict[str, int]) -> Value:
    kind = reader.number("I")
    if kind in SCALARS:
        value = reader.scalar(SCALARS[kind])
        if not isfinite(value):
            raise GGUFError(f"has {value} under {key}, where a finite number belongs")
        return value
    if kind == STRING:
        return reader.text()
    if kind != ARRAY:
        raise GGUFError(f"has a value of unknown type {kind} under {key}")
    kind, length = reader.number("I"), reader.number("Q")
    if kind == STRING:
        wanted = special_tokens if key == "tokenizer.ggml.tokens" else None
        reader.skip_strings(length, wanted)
        return Array(kind, length, None)
    if kind not in SCALARS:
        raise GGUFError(f"has an array of unknown or nested type {kind} under {key}")
    code = SCALARS[kind]
    if length > KEPT_ITEMS:
        reader.skip(length * struct.calcsize(f"<{code}"))
        return Array(kind, length, None)
    items = tuple(reader.scalar(code) for _ in range(length))
    return Array(kind, length, items if all(map(isfinite, items)) else None)


def _read_tensor(reader: GgufStream) -> tuple[str, tuple[int, ...], int, int]:
    name = reader.name("tensor name")
    dimensions = reader.number("I")
    if not 1 <= dimensions <= 4:
        raise GGUFError(f"has {dimensions} dimensions in {name}; there can be 1 to 4")
    shape = tuple(reader.number("Q") for _ in range(dimensions))
    return name, shape, reader.number("I"), reader.number("Q")


def _place(
    infos: Sequence[tuple[str, tuple[int, ...], int, int]], alignment: int, start: int, size: int
) -> dict[str, Tensor]:
    """The tensors, each checked to have a place of its own inside the file."""
    tensors: dict[str, Tensor] = {}
    for name, shape, number, offset in infos:
        # A newer llama.cpp may know a newer type, of which only the beginning can be checked here.
        kind = TENSOR_TYPES.get(number) or (NEWER if number > max(TENSOR_TYPES) else None)
        if kind is None:
            raise GGUFError(f"has the tensor type {number} in {name}, which llama.cpp has given up")
        if name in tensors:
            raise GGUFError(f"has the tensor {name} twice")
        elements = prod(shape)
        if not 0 < elements < 2**63 or shape[0] % kind.block:
            sides = "x".join(map(str, shape))
            raise GGUFError(f"has an impossible shape in {name}: {sides} of {kind.name}")
        if offset % alignment:
            raise GGUFError(f"has {name} at {offset}, which isn't aligned to {alignment} bytes")
        tensor = Tensor(name, shape, number, start + offset, elements // kind.block * kind.size)
        if (past := tensor.offset + tensor.nbytes) > size:
            words = f"is cut off: {name} should end at byte {past}, but the file has {size}."
            raise CutOff(f"{words} Copy it again", name, past)
        tensors[name] = tensor
    end, last = start, ""
    for tensor in sorted(tensors.values(), key=lambda tensor: tensor.offset):
        if tensor.offset < end:
            raise GGUFError(f"has {tensor.name} overlapping {last}")
        end, last = tensor.offset + tensor.nbytes, tensor.name
    return tensors

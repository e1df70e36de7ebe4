"""A copy of a GGUF with other metadata, or of several shards as one file.

It stands for what llama-quantize does to a base model during create: the tensors' bytes stay as
they are (the stand-in quantizes nothing), the header changes, and so does the digest.
"""

import struct
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from .gguf_header import Header

_UINT32, _STRING = 4, 8
_CHUNK = 1 << 18


def write_copy(
    parts: Sequence[tuple[Path, Header]],
    target: BinaryIO,
    *,
    put: Mapping[str, int],
    drop: Collection[str] = (),
) -> None:
    """Write the tensors of all `parts`, below the first part's metadata, to `target`.

    `put` sets unsigned 32-bit values, `drop` leaves keys out. Each part is a file and its header,
    whose tensors were found to lie within the file.
    """
    source, first = parts[0]
    order, alignment = first.order, first.alignment
    kept = {k: span for k, span in first.spans.items() if k not in put and k not in drop}
    tensors = [(path, header, tensor) for path, header in parts for tensor in header.tensors]
    magic = b"GGUF" if order == "<" else b"FUGG"
    target.write(
        magic + struct.pack(order + "IQQ", first.version, len(tensors), len(kept) + len(put))
    )
    with source.open("rb") as file:
        for start, end in kept.values():
            _copy_range(file, target, start, end - start)
    for key, value in put.items():
        target.write(_string(order, key) + struct.pack(order + "II", _UINT32, value))
    offset = 0
    for _, _, tensor in tensors:
        shape = struct.pack(f"{order}I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
        place = struct.pack(order + "IQ", tensor.kind, offset)
        target.write(_string(order, tensor.name) + shape + place)
        offset += (tensor.size or 0) + -(tensor.size or 0) % alignment
    _pad(target, alignment)
    for path, header, tensor in tensors:
        with path.open("rb") as file:
            _copy_range(file, target, header.data_start + tensor.offset, tensor.size or 0)
        _pad(target, alignment)


def write_minimal(target: BinaryIO, texts: Mapping[str, str], numbers: Mapping[str, int]) -> None:
    """Write a GGUF with these values and no tensors: what a conversion leaves in the stand-in."""
    target.write(b"GGUF" + struct.pack("<IQQ", 3, 0, len(texts) + len(numbers)))
    for key, text in texts.items():
        target.write(_string("<", key) + struct.pack("<I", _STRING) + _string("<", text))
    for key, number in numbers.items():
        target.write(_string("<", key) + struct.pack("<II", _UINT32, number))
    _pad(target, 32)


def _string(order: str, text: str) -> bytes:
    raw = text.encode()
    return struct.pack(order + "Q", len(raw)) + raw


def _pad(target: BinaryIO, alignment: int) -> None:
    target.write(bytes(-target.tell() % alignment))


def _copy_range(file: BinaryIO, target: BinaryIO, start: int, length: int) -> None:
    file.seek(start)
    while length > 0:
        chunk = file.read(min(length, _CHUNK))
        if not chunk:
            return
        target.write(chunk)
        length -= len(chunk)

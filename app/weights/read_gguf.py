"""A GGUF file, or its shards, as a model: nothing but headers is read here."""

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from app.formats import gguf
from app.formats.gguf import Array, GGUFError, Header
from app.formats.tensor_types import ARRAY
from app.weights.model import Model, Tensor, Value, WeightsError
from app.weights.rows import StoredRows


def read_gguf(paths: Sequence[Path]) -> Model:
    """The model in a GGUF file, or in all its shards, in order.

    Metadata are the first shard's, without what says that it is one; they are copied from where
    they lie, however long. Raises WeightsError, which names the file, and OSError.
    """
    headers = [_open(path) for path in paths]
    tensors: dict[str, Tensor] = {}
    for path, header in zip(paths, headers, strict=True):
        if header.unknown_types:
            raise WeightsError(
                f"{path.name} has tensors of type {min(header.unknown_types)}, which is newer than"
                " what can be read here.",
                "Send the model as it is, or one in 16 bit.",
            )
        for tensor in header.tensors.values():
            if tensor.name in tensors:
                raise WeightsError(f"{path.name} has the tensor {tensor.name} once more.")
            columns, count = tensor.shape[0], tensor.elements // tensor.shape[0]
            rows = StoredRows(str(path), tensor.offset, tensor.type, columns, count)
            tensors[tensor.name] = Tensor(tensor.name, tensor.shape, tensor.type, rows)
    first = headers[0]
    return Model(first.architecture or "", _metadata(paths[0], first), tensors, first.alignment)


def _open(path: Path) -> Header:
    try:
        return gguf.open_header(path)
    except GGUFError as error:
        raise WeightsError(f"{path.name} {error}.") from error


def _metadata(path: Path, header: Header) -> dict[str, Value]:
    with path.open("rb") as file:
        return {
            key: _value(path, file, header, key)
            for key in header.spans
            if not key.startswith("split.")
        }


def _value(path: Path, file: BinaryIO, header: Header, key: str) -> Value:
    begin, end = header.spans[key]
    file.seek(begin)
    length: int = struct.unpack("<Q", file.read(8))[0]
    file.seek(length, 1)
    kind: int = struct.unpack("<I", file.read(4))[0]
    value = header.metadata[key]
    items, content = (value.type, value.items) if isinstance(value, Array) else (None, value)
    assert (kind == ARRAY) == isinstance(value, Array)
    return Value(kind, content, items, (str(path), begin + 8 + length + 4, end))

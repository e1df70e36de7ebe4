"""Importance matrices: how much the values of each column of a tensor matter when it is quantised.

Written by llama.cpp's llama-imatrix, as GGUF or as the .dat of before 2025; read as its
llama-quantize does (tools/quantize/quantize.cpp). The means are only read when they are used.
"""

import os
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from app.formats import gguf
from app.formats.gguf import Array, GGUFError, Header
from app.formats.tensor_types import STRING, UINT32
from app.weights import quants
from app.weights.model import Floats, Model, Rows, Value, WeightsError
from app.weights.rows import ChangedRows, ReshapedRows, StoredRows

ENTRIES = 32_768
NAME_BYTES = 256
_NOT_ONE = "isn't an imatrix, or is cut off; make it again with llama-imatrix"


@dataclass(frozen=True)
class Imatrix:
    """`entries` are the mean squares of what each tensor was given, by the tensor's name: a value
    for each column, of each expert. `dataset` is the text it was made with, `chunks` of it."""

    file: str
    entries: Mapping[str, Rows]
    dataset: str | None
    chunks: int | None

    @property
    def metadata(self) -> dict[str, Value]:
        """What llama-quantize says of it in the model."""
        values = {
            "quantize.imatrix.file": Value(STRING, self.file),
            "quantize.imatrix.entries_count": Value(UINT32, len(self.entries)),
        }
        if self.dataset is not None:
            values["quantize.imatrix.dataset"] = Value(STRING, self.dataset)
        if self.chunks is not None:
            values["quantize.imatrix.chunks_count"] = Value(UINT32, self.chunks)
        return values


def read_imatrix(path: Path) -> Imatrix:
    """Read a file of either format. Raises WeightsError, which names the file, and OSError."""
    with path.open("rb") as file:
        is_gguf = file.read(4) == b"GGUF"
        file.seek(0)
        try:
            return _from_gguf(path) if is_gguf else _from_dat(path, file)
        except (GGUFError, struct.error, UnicodeDecodeError) as error:
            reason = str(error) if isinstance(error, GGUFError) else _NOT_ONE
            raise WeightsError(f"{path.name} {reason}.") from error


def importance_of(imatrix: Imatrix, model: Model) -> dict[str, Rows]:
    """What the imatrix says of the model's tensors: for each expert a row of a value a column.

    Raises WeightsError where a size differs, and where it knows none of the model's tensors.
    """
    known: dict[str, Rows] = {}
    for name, tensor in model.tensors.items():
        entry = imatrix.entries.get(name)
        if entry is None:
            continue
        experts = tensor.shape[2] if len(tensor.shape) > 2 else 1
        if entry.count * entry.columns == tensor.shape[0] * experts:
            known[name] = ReshapedRows(entry, tensor.shape[0])
        elif name != "token_embd.weight":
            raise WeightsError(
                f"{imatrix.file} has {entry.count * entry.columns} values for {name}, where the"
                f" model has {tensor.shape[0] * experts}: it is another model's imatrix."
            )
    if not known:
        raise WeightsError(f"{imatrix.file} knows none of the model's tensors.")
    return known


def _from_gguf(path: Path) -> Imatrix:
    header = gguf.open_header(path)
    entries: dict[str, Rows] = {}
    for name, sums in header.tensors.items():
        stem = name.removesuffix(".in_sum2")
        counts = header.tensors.get(f"{stem}.counts")
        if stem == name:
            continue
        if counts is None or {sums.type, counts.type} != {quants.F32}:
            raise GGUFError(f"has no usable counts for {stem}")
        columns, experts = sums.shape[0], sums.elements // sums.shape[0]
        if counts.elements != experts:
            raise GGUFError(f"has {counts.elements} counts for the {experts} matrices of {stem}")
        stored = StoredRows(str(path), sums.offset, quants.F32, columns, experts)
        number = StoredRows(str(path), counts.offset, quants.F32, 1, experts)
        entries[stem] = ChangedRows(stored, _means(path.name, stem, number))
    if not entries:
        raise GGUFError("holds no importance matrix")
    datasets = header.metadata.get("imatrix.datasets")
    first = _first_text(path, header) if isinstance(datasets, Array) and datasets.length else None
    return Imatrix(path.name, entries, first, header.integer("imatrix.chunk_count"))


def _first_text(path: Path, header: Header) -> str | None:
    """The first text of an array, of which headers keep none."""
    begin, end = header.spans["imatrix.datasets"]
    with path.open("rb") as file:
        file.seek(begin)
        data = file.read(min(end - begin, 2**16))
    at = 8 + struct.unpack_from("<Q", data)[0]
    _, kind, _, length = struct.unpack_from("<IIQQ", data, at)
    return data[at + 24 : at + 24 + length].decode(errors="replace") if kind == STRING else None


def _means(file: str, name: str, counts: Rows) -> Callable[[Floats, int], Floats]:
    def means(sums: Floats, first: int) -> Floats:
        count = counts.read(first, first + len(sums))
        # An expert that was never asked has no say: all its columns count alike.
        values = np.where(count > 0, sums / np.where(count > 0, count, 1), np.float32(1))
        return _finite(file, name, values)

    return means


def _finite(file: str, name: str, values: Floats) -> Floats:
    if not np.isfinite(values).all():
        raise WeightsError(f"{file} holds infinity or NaN for {name}.")
    return values


def _from_dat(path: Path, file: BinaryIO) -> Imatrix:
    size = os.fstat(file.fileno()).st_size
    entries = dict(_dat_entries(path, file, size))
    chunks, dataset = None, None
    if len(end := file.read(8)) == 8:
        chunks, length = struct.unpack("<ii", end)
        dataset = file.read(min(max(length, 0), NAME_BYTES)).decode(errors="replace")
    return Imatrix(path.name, entries, dataset, chunks if chunks is None else max(chunks, 0))


def _dat_entries(path: Path, file: BinaryIO, size: int) -> Iterator[tuple[str, Rows]]:
    count = _int32(file)
    if not 0 < count <= ENTRIES:
        raise GGUFError(_NOT_ONE)
    for _ in range(count):
        length = _int32(file)
        if not 0 < length <= NAME_BYTES:
            raise GGUFError(_NOT_ONE)
        name = file.read(length).decode()
        calls, values = _int32(file), _int32(file)
        begin = file.tell()
        if values <= 0 or begin + 4 * values > size:
            raise GGUFError(_NOT_ONE)
        stored = StoredRows(str(path), begin, quants.F32, values, 1)
        yield name, ChangedRows(stored, _divided(path.name, name, calls))
        file.seek(begin + 4 * values)


def _divided(file: str, name: str, calls: int) -> Callable[[Floats, int], Floats]:
    divisor = np.float32(max(calls, 1))
    return lambda values, _: _finite(file, name, values / divisor)


def _int32(file: BinaryIO) -> int:
    value: int = struct.unpack("<i", file.read(4))[0]
    return value

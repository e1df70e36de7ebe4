"""The one GGUF file that a model becomes: each byte is made, checked, hashed and written once.

Threads read, change and encode pieces of tensors; the caller's own writes and hashes them in
order. What is unchanged is passed on byte for byte. The format is that of ggml's docs/gguf.md.
"""

import os
import struct
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from app.formats.tensor_types import ARRAY, SCALARS, STRING, TENSOR_TYPES
from app.weights import quants
from app.weights.job import Progress
from app.weights.model import Model, Tensor, Value, WeightsError
from app.weights.quants import Bytes
from app.weights.rows import StoredRows

ALIGNMENT = 2**16
PIECE_BYTES = 4 * 2**20
IN_WORK_BYTES = 32 * 2**20
WIDEST_ROW = 2**22


@dataclass(frozen=True)
class Written:
    """A file that was written: its sha256 (hex) and its size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True)
class _Piece:
    """Part of a tensor: rows from `first` up to `last`, or, where they are only copied, bytes."""

    tensor: Tensor
    first: int
    last: int
    is_copy: bool

    def make(self) -> Bytes:
        tensor = self.tensor
        if self.is_copy:
            assert isinstance(tensor.rows, StoredRows)
            data = tensor.rows.stored(self.first, self.last)
        else:
            data = self._encoded()
        if not quants.is_finite(tensor.type, data):
            raise _not_finite(tensor)
        return data

    def _encoded(self) -> Bytes:
        tensor = self.tensor
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                rows = tensor.rows.read(self.first, self.last)
        except quants.NoDecoder as error:
            raise WeightsError(f"{tensor.name} can't be changed: {error}.") from error
        if not np.isfinite(rows).all():
            raise _not_finite(tensor)
        importance = None
        if tensor.importance is not None:
            expert = self.first // _rows_per_expert(tensor)
            importance = tensor.importance.read(expert, expert + 1)
        return quants.encode(tensor.type, rows, importance)


def _not_finite(tensor: Tensor) -> WeightsError:
    return WeightsError(
        f"{tensor.name} isn't finite: it holds infinity or NaN, or values too large for"
        f" {TENSOR_TYPES[tensor.type].name}."
    )


def size_of(model: Model) -> int:
    """Bytes of the file that write_gguf makes of the model. Raises WeightsError."""
    return _header_size(model) + sum(
        _padded(_nbytes(tensor), model.alignment) for tensor in model.tensors.values()
    )


def write_gguf(
    model: Model, target: Path, report: Callable[[Progress], None] = lambda progress: None
) -> Written:
    """Write the model to `target`, a new file, which is removed again where that fails.

    Memory stays below some slabs of rows, whatever the model's size. Raises WeightsError, which
    names the tensor, where a value isn't finite or can't be encoded, FileExistsError and OSError.
    """
    total = size_of(model)
    with target.open("xb", buffering=0) as file:
        try:
            output = _Output(file)
            for block in _header(model):
                output.write(block)
            for done, tensors in _write_tensors(model, output):
                report(Progress(done, total, tensors))
            os.fsync(file.fileno())
        except BaseException:
            target.unlink(missing_ok=True)
            raise
    return Written(output.digest.hexdigest(), output.size)


class _Output:
    """The file as it grows, and the digest of all that was written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self.digest = sha256()
        self.size = 0
        self._file = file

    def write(self, block: bytes | memoryview, hashers: ThreadPoolExecutor | None = None) -> None:
        hashed = hashers.submit(self.digest.update, block) if hashers else None
        rest = memoryview(block)
        while rest:
            rest = rest[self._file.write(rest) :]
        if hashed is None:
            self.digest.update(block)
        else:
            hashed.result()
        self.size += len(block)


def _write_tensors(model: Model, output: _Output) -> Iterator[tuple[int, int]]:
    """Write all tensors; yields bytes and tensors written, after each piece."""
    workers = max(1, len(os.sched_getaffinity(0)))
    tensors = 0
    with (
        ThreadPoolExecutor(1, "hasher") as hashers,
        ThreadPoolExecutor(workers, "encoder") as encoders,
    ):
        pending: deque[tuple[_Piece, Future[Bytes]]] = deque()
        try:
            for piece in _pieces(model, max(2**20, min(PIECE_BYTES, IN_WORK_BYTES // workers))):
                pending.append((piece, encoders.submit(piece.make)))
                while len(pending) > 2 * workers:
                    tensors += _write_piece(model, output, hashers, *pending.popleft())
                    yield output.size, tensors
            while pending:
                tensors += _write_piece(model, output, hashers, *pending.popleft())
                yield output.size, tensors
        finally:
            encoders.shutdown(wait=False, cancel_futures=True)


def _write_piece(
    model: Model,
    output: _Output,
    hashers: ThreadPoolExecutor,
    piece: _Piece,
    made: "Future[Bytes]",
) -> bool:
    """Write a piece; whether it was its tensor's last."""
    output.write(made.result().data, hashers)
    tensor = piece.tensor
    is_last = piece.last == (_nbytes(tensor) if piece.is_copy else tensor.rows.count)
    if is_last:
        output.write(bytes(-output.size % model.alignment))
    return is_last


def _pieces(model: Model, nbytes: int) -> Iterator[_Piece]:
    """The pieces of all tensors in order, of some `nbytes` bytes of float32 each."""
    for tensor in model.tensors.values():
        if isinstance(tensor.rows, StoredRows) and tensor.rows.type == tensor.type:
            step = nbytes // TENSOR_TYPES[tensor.type].size * TENSOR_TYPES[tensor.type].size
            for begin in range(0, _nbytes(tensor), step):
                yield _Piece(tensor, begin, min(begin + step, _nbytes(tensor)), is_copy=True)
            continue
        columns, per_expert = tensor.rows.columns, _rows_per_expert(tensor)
        if columns > WIDEST_ROW:
            raise WeightsError(f"{tensor.name} has rows of {columns} values, too long to change.")
        step = max(1, nbytes // (4 * columns))
        for expert in range(0, tensor.rows.count, per_expert):
            end = min(expert + per_expert, tensor.rows.count)
            for row in range(expert, end, step):
                yield _Piece(tensor, row, min(row + step, end), is_copy=False)


def _rows_per_expert(tensor: Tensor) -> int:
    return tensor.shape[1] if len(tensor.shape) > 1 else 1


def _nbytes(tensor: Tensor) -> int:
    return tensor.rows.count * quants.row_bytes(tensor.type, tensor.rows.columns)


def _padded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def _header(model: Model) -> Iterator[bytes]:
    """All before the tensor data, padded."""
    size = 0
    for part in _header_parts(model):
        for block in [part] if isinstance(part, bytes) else _copied(*part):
            size += len(block)
            yield block
    yield bytes(-size % model.alignment)


def _header_size(model: Model) -> int:
    size = 0
    for part in _header_parts(model):
        size += len(part) if isinstance(part, bytes) else part[2] - part[1]
    return _padded(size, model.alignment)


def _header_parts(model: Model) -> Iterator[bytes | tuple[str, int, int]]:
    """The header's bytes, or where they are copied from: path, begin and end."""
    alignment = model.alignment
    if not 0 < alignment <= ALIGNMENT or alignment & (alignment - 1):
        raise WeightsError(f"general.alignment is {alignment}; it can be up to {ALIGNMENT}.")
    yield struct.pack("<4sIQQ", b"GGUF", 3, len(model.tensors), len(model.metadata))
    for key, value in model.metadata.items():
        yield _text(key) + struct.pack("<I", value.type)
        yield value.span or _encoded(value)
    offset = 0
    for tensor in model.tensors.values():
        shape = tensor.shape
        yield _text(tensor.name) + struct.pack("<I", len(shape))
        yield struct.pack(f"<{len(shape)}QIQ", *shape, tensor.type, offset)
        offset += _padded(_nbytes(tensor), alignment)


def _encoded(value: Value) -> bytes:
    if value.type != ARRAY:
        return _item(value.type, value.content)
    assert value.items is not None
    start = struct.pack("<IQ", value.items, len(value.content))
    if value.items in SCALARS:
        return start + struct.pack(f"<{len(value.content)}{SCALARS[value.items]}", *value.content)
    return start + b"".join(_item(value.items, item) for item in value.content)


def _item(kind: int, content: Any) -> bytes:
    return _text(content) if kind == STRING else struct.pack(f"<{SCALARS[kind]}", content)


def _text(text: str) -> bytes:
    encoded = text.encode(errors="surrogateescape")
    return struct.pack("<Q", len(encoded)) + encoded


def _copied(path: str, begin: int, end: int) -> Iterator[bytes]:
    with open(path, "rb") as file:
        file.seek(begin)
        while begin < end:
            block = file.read(min(2**20, end - begin))
            if not block:
                raise WeightsError("A file of the model became shorter while it was read.")
            begin += len(block)
            yield block

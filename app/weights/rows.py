"""Where a tensor's rows come from: read from files, or made of other rows, piece by piece.

None of these holds more than a small tensor; each `read` takes memory in proportion to the rows
that are asked for. They are read by several threads at once.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from app.weights import quants
from app.weights.model import Floats, Rows, WeightsError

Indices = np.ndarray[tuple[int, ...], np.dtype[np.integer]]
SCATTER = 4096
"""Rows between those wanted that are read along rather than skipped."""


@dataclass(frozen=True)
class StoredRows:
    """Rows as they lie in a file at `path` from byte `offset` on, of ggml's type `type`."""

    path: str
    offset: int
    type: int
    columns: int
    count: int

    @property
    def nbytes(self) -> int:
        return self.count * quants.row_bytes(self.type, self.columns)

    def stored(self, begin: int, end: int) -> quants.Bytes:
        """The bytes from `begin` up to `end` of the tensor, as they are."""
        data = np.empty(end - begin, np.uint8)
        filled = 0
        with open(self.path, "rb", buffering=0) as file:
            while filled < data.nbytes:
                got = os.preadv(file.fileno(), [data[filled:].data], self.offset + begin + filled)
                if not got:
                    raise WeightsError("A file of the model became shorter while it was read.")
                filled += got
        return data

    def read(self, first: int, last: int) -> Floats:
        width = quants.row_bytes(self.type, self.columns)
        data = self.stored(first * width, last * width)
        return quants.decode(self.type, data, self.columns)


@dataclass(frozen=True)
class ArrayRows:
    """The rows of a small matrix in memory."""

    array: Floats

    @property
    def columns(self) -> int:
        return int(self.array.shape[1])

    @property
    def count(self) -> int:
        return int(self.array.shape[0])

    def read(self, first: int, last: int) -> Floats:
        return self.array[first:last]


@dataclass(frozen=True)
class SlicedRows:
    """`count` of another matrix's rows from `start` on: one part of a fused tensor, one expert."""

    rows: Rows
    start: int
    count: int

    @property
    def columns(self) -> int:
        return self.rows.columns

    def read(self, first: int, last: int) -> Floats:
        return self.rows.read(self.start + first, self.start + last)


@dataclass(frozen=True)
class JoinedRows:
    """The rows of several matrices of as many columns, one after the other: experts, or the parts
    of a fused tensor."""

    parts: Sequence[Rows]

    @property
    def columns(self) -> int:
        return self.parts[0].columns

    @cached_property
    def count(self) -> int:
        return sum(part.count for part in self.parts)

    def read(self, first: int, last: int) -> Floats:
        pieces, start = [], 0
        for part in self.parts:
            begin, end = max(first - start, 0), min(last - start, part.count)
            if begin < end:
                pieces.append(part.read(begin, end))
            start += part.count
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


@dataclass(frozen=True)
class PickedRows:
    """`count` rows of another matrix: `order` says, for an array of row numbers of the new one,
    which rows of the old one they are."""

    rows: Rows
    order: Callable[[Indices], Indices]
    count: int

    @property
    def columns(self) -> int:
        return self.rows.columns

    def read(self, first: int, last: int) -> Floats:
        wanted = self.order(np.arange(first, last))
        low, high = int(wanted.min()), int(wanted.max()) + 1
        if high - low <= 2 * len(wanted) + SCATTER:
            return self.rows.read(low, high)[wanted - low]
        runs = np.split(wanted, np.flatnonzero(np.diff(wanted) != 1) + 1)
        return np.concatenate([self.rows.read(int(run[0]), int(run[-1]) + 1) for run in runs])


@dataclass(frozen=True)
class PickedColumns:
    """Another matrix's columns of these numbers."""

    rows: Rows
    numbers: Indices

    @property
    def columns(self) -> int:
        return len(self.numbers)

    @property
    def count(self) -> int:
        return self.rows.count

    def read(self, first: int, last: int) -> Floats:
        return np.ascontiguousarray(self.rows.read(first, last)[:, self.numbers])


@dataclass(frozen=True)
class ChangedRows:
    """Another matrix's rows, each piece changed by `change`, which gets float32 rows that it may
    write to and the number of the first of them, and returns as many of as many columns."""

    rows: Rows
    change: Callable[[Floats, int], Floats]

    @property
    def columns(self) -> int:
        return self.rows.columns

    @property
    def count(self) -> int:
        return self.rows.count

    def read(self, first: int, last: int) -> Floats:
        rows = self.rows.read(first, last)
        return self.change(rows if rows.flags.writeable else rows.copy(), first)


def shifted(rows: Rows, offset: float) -> Rows:
    """`rows` with `offset` added to each value, as Gemma's norms need it."""
    return ChangedRows(rows, lambda values, _: values + np.float32(offset))


def scaled(rows: Rows, factor: float) -> Rows:
    """`rows` with each value multiplied by `factor`."""
    return ChangedRows(rows, lambda values, _: values * np.float32(factor))


@dataclass(frozen=True)
class TransposedRows:
    """A small matrix turned over: its columns become rows. With several `experts`, each one's part
    of the rows is such a matrix, and they are turned one by one. One is read whole each time."""

    rows: Rows
    experts: int = 1

    @property
    def columns(self) -> int:
        return self.rows.count // self.experts

    @property
    def count(self) -> int:
        return self.rows.columns * self.experts

    def read(self, first: int, last: int) -> Floats:
        width, height, pieces = self.rows.columns, self.columns, []
        while first < last:
            expert, row = divmod(first, width)
            end = min(width, row + last - first)
            matrix = self.rows.read(expert * height, (expert + 1) * height)
            pieces.append(np.ascontiguousarray(matrix[:, row:end].T))
            first += end - row
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


@dataclass(frozen=True)
class ReshapedRows:
    """The same values in rows of another length: `columns` divides the old length, or is a multiple
    of it."""

    rows: Rows
    columns: int

    @property
    def count(self) -> int:
        return self.rows.count * self.rows.columns // self.columns

    def read(self, first: int, last: int) -> Floats:
        begin, end = first * self.columns, last * self.columns
        low, high = begin // self.rows.columns, -(-end // self.rows.columns)
        values = self.rows.read(low, high).reshape(-1)
        start = begin - low * self.rows.columns
        return values[start : start + end - begin].reshape(-1, self.columns)

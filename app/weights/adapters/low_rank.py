"""Rows that an adapter makes: products of two thin matrices, and a tensor's rows with its changes.

Nothing is read before the rows are asked for, and then only what they need.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from threading import Lock

import numpy as np

from app.weights import quants
from app.weights.model import Floats, Rows, Tensor
from app.weights.rows import Indices, JoinedRows, SlicedRows, StoredRows

BLOCK_BYTES = 8 * 2**20


@dataclass(frozen=True)
class ProductRows:
    """`factor` * left @ right."""

    left: Rows
    right: Rows
    factor: float

    @property
    def columns(self) -> int:
        return self.right.columns

    @property
    def count(self) -> int:
        return self.left.count

    def read(self, first: int, last: int) -> Floats:
        left = self.left.read(first, last)
        product = np.zeros((last - first, self.columns), np.float32)
        step = max(1, BLOCK_BYTES // (4 * self.columns))
        for begin in range(0, self.right.count, step):
            end = min(begin + step, self.right.count)
            product += left[:, begin:end] @ self.right.read(begin, end)
        product *= np.float32(self.factor)
        return product


def product_of_experts(left: Sequence[Rows], right: Sequence[Rows], factor: float) -> Rows:
    """The products of each expert, one after the other."""
    products = [ProductRows(b, a, factor) for b, a in zip(left, right, strict=True)]
    return products[0] if len(products) == 1 else JoinedRows(products)


def stack(rows: Rows, experts: int) -> list[Rows]:
    """The matrices of each expert, which follow one another in `rows`."""
    height = rows.count // experts
    if experts == 1:
        return [rows]
    return [SlicedRows(rows, number * height, height) for number in range(experts)]


@dataclass(frozen=True)
class TurnedStoredRows:
    """A stored matrix of few, long rows (F32, F16 or BF16), turned over: pieces of all of them are
    read for some rows of this one."""

    stored: StoredRows

    @property
    def columns(self) -> int:
        return self.stored.count

    @property
    def count(self) -> int:
        return self.stored.columns

    def read(self, first: int, last: int) -> Floats:
        size = quants.row_bytes(self.stored.type, 1)
        width = self.stored.columns * size
        pieces = [
            quants.decode(
                self.stored.type,
                self.stored.stored(row * width + first * size, row * width + last * size),
                last - first,
            )
            for row in range(self.stored.count)
        ]
        return np.ascontiguousarray(np.concatenate(pieces).T)


@dataclass(frozen=True)
class Edit(ABC):
    """What an adapter does to some rows of a tensor: from `start` on, by default one for each of
    `rows`."""

    rows: Rows
    start: int = field(default=0, kw_only=True)

    @property
    def count(self) -> int:
        """How many rows are changed."""
        return self.rows.count

    @abstractmethod
    def apply(self, values: Floats, first: int) -> None:
        """Change `values`, the rows from `first` on, counted from `start`."""


class Replaced(Edit):
    """Rows whose place others take."""

    def apply(self, values: Floats, first: int) -> None:
        values[:] = self.rows.read(first, first + len(values))


class Added(Edit):
    """Rows to which others are added."""

    def apply(self, values: Floats, first: int) -> None:
        values += self.rows.read(first, first + len(values))


@dataclass(frozen=True)
class Normed(Edit):
    """DoRA: rows to which others are added, and which then get the length that `lengths`, of one
    column, says. Source: peft, tuners/lora/dora.py."""

    lengths: Rows

    def apply(self, values: Floats, first: int) -> None:
        last = first + len(values)
        values += self.rows.read(first, last)
        now = np.sqrt(np.einsum("ij,ij->i", values, values, dtype=np.float64))
        values *= (self.lengths.read(first, last)[:, 0] / now)[:, None]


@dataclass(frozen=True)
class NormedColumns(Edit):
    """DoRA of an embedding, where each column gets a length: that of the changed one is found once
    by reading all rows. `before` are the embedding's, `lengths` has one row."""

    before: Rows
    lengths: Rows
    _lock: Lock = field(default_factory=Lock)

    def apply(self, values: Floats, first: int) -> None:
        values += self.rows.read(first, first + len(values))
        with self._lock:
            factors = self._factors
        values *= factors

    @cached_property
    def _factors(self) -> Floats:
        squares = np.zeros(self.rows.columns, np.float64)
        step = max(1, BLOCK_BYTES // (4 * self.rows.columns))
        for first in range(0, self.count, step):
            last = min(first + step, self.count)
            changed = self.before.read(first, last) + self.rows.read(first, last)
            squares += np.einsum("ij,ij->j", changed, changed, dtype=np.float64)
        factors: Floats = (self.lengths.read(0, 1)[0] / np.sqrt(squares)).astype(np.float32)
        return factors


@dataclass(frozen=True)
class ReplacedSingly(Edit):
    """Single rows whose place others take: row n of `rows` is for row numbers[n], of `total`."""

    numbers: Indices
    total: int

    @property
    def count(self) -> int:
        return self.total

    def apply(self, values: Floats, first: int) -> None:
        for number in np.flatnonzero(
            (self.numbers >= first) & (self.numbers < first + len(values))
        ):
            values[self.numbers[number] - first] = self.rows.read(int(number), int(number) + 1)[0]


@dataclass(frozen=True)
class EditedRows:
    """Another matrix's rows, or zeros where it has no more of them, with edits in turn."""

    rows: Rows
    edits: tuple[Edit, ...]
    count: int

    @property
    def columns(self) -> int:
        return self.rows.columns

    def read(self, first: int, last: int) -> Floats:
        values = np.zeros((last - first, self.columns), np.float32)
        end = min(last, self.rows.count)
        if first < end and not self._replaced(first, last):
            values[: end - first] = self.rows.read(first, end)
        for edit in self.edits:
            begin, stop = max(edit.start, first), min(edit.start + edit.count, last)
            if begin < stop:
                edit.apply(values[begin - first : stop - first], begin - edit.start)
        return values

    def _replaced(self, first: int, last: int) -> bool:
        return any(
            isinstance(edit, Replaced) and edit.start <= first and last <= edit.start + edit.count
            for edit in self.edits
        )


def with_rows(tensor: Tensor, rows: Rows) -> Tensor:
    """The tensor with other rows, in its own type or one that can be written."""
    shape = tensor.shape
    if rows.count != tensor.rows.count:
        shape = (rows.columns, rows.count)
    kind = quants.writable_type(tensor.type, tensor.shape[0])
    return replace(tensor, rows=rows, shape=shape, type=kind)

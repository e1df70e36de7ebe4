"""A model on its way to one GGUF file: its metadata, its tensors, and where their rows come from.

Everything in this package speaks of a model in these terms: a GGUF or a safetensors folder is read
as one, an adapter and a quantisation each make another one of it, and the writer writes it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, Protocol

import numpy as np

from app.weights.errors import WeightsError as WeightsError

Floats = np.ndarray[Any, np.dtype[np.float32]]


class Rows(Protocol):
    """A matrix of `count` rows of `columns` float32 values, read in any piece.

    A tensor of three dimensions counts as one matrix: the rows of one expert follow those of the
    one before. What is read from files is only read when `read` is called, by several threads at
    once.
    """

    @property
    def columns(self) -> int: ...

    @property
    def count(self) -> int: ...

    def read(self, first: int, last: int) -> Floats:
        """Rows `first` up to but not including `last`, of shape (last - first, columns)."""


Change = Callable[[Rows], Rows]
"""What an adapter does to a tensor: its new rows, given the old ones."""


@dataclass(frozen=True)
class Value:
    """A value of GGUF's metadata: `type` is GGUF's number for it; an array's items are of type
    `items`. `content` is a number, a truth value, a text, or a list of these; None for an array too
    long to be kept, which `span` says where to copy from.

    `span` is where the encoded value (what follows its key and its type) lies in a file: path,
    begin, end. It is written from there, whatever `content` is; a changed value has none.
    """

    type: int
    content: Any
    items: int | None = None
    span: tuple[str, int, int] | None = None


@dataclass(frozen=True)
class Tensor:
    """A tensor to be written: `shape` as GGUF has it, fastest-varying dimension first; `type` is
    ggml's number of the type that it is written in. `importance` has a row for each expert (one,
    where there are none): how much the values of each column matter when it is quantised."""

    name: str
    shape: tuple[int, ...]
    type: int
    rows: Rows
    importance: Rows | None = None

    @property
    def elements(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True)
class Model:
    """A model to be written: `metadata` by GGUF's keys, `tensors` by their names in GGUF, in the
    order in which they are written. `notes` are sentences on what became of it, for reports."""

    architecture: str
    metadata: Mapping[str, Value]
    tensors: Mapping[str, Tensor]
    alignment: int = 32
    notes: tuple[str, ...] = field(default=())

    def integer(self, key: str, block: int | None = None) -> int | None:
        """The whole number under `<architecture>.<key>`; of a list, the one for that block."""
        value = self.metadata.get(f"{self.architecture}.{key}")
        content = value.content if value is not None else None
        if isinstance(content, list | tuple) and block is not None and block < len(content):
            content = content[block]
        return content if isinstance(content, int) and not isinstance(content, bool) else None

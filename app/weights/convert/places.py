"""Where a tensor of transformers goes in GGUF, and how its rows change on the way.

An architecture lists what it changes as pairs of a pattern, searched in the tensor's name, and a
Step. A step gets the rows of one tensor and the numbers of the model, so that it does for an
adapter's change of a tensor whatever it does for the tensor.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from app.weights.model import Model, Rows, WeightsError
from app.weights.rows import Indices, PickedRows, ReshapedRows, TransposedRows, shifted

Step = Callable[[Rows, Model, int], Rows]
"""Rows of a tensor of transformers to those of GGUF, given the model's numbers and the block."""


@dataclass(frozen=True)
class Place:
    """A tensor of GGUF, or one expert's part of it, that a tensor of transformers fills; `change`
    makes its rows of that tensor's."""

    name: str
    change: Callable[[Rows], Rows]
    expert: int | None = None


def interleaved(size: int, indices: Indices) -> Indices:
    """Of `size` rows of a head, where those come from that llama.cpp's rotation wants: it turns
    neighbours, transformers' turns row i of the first half with row i of the second."""
    head, row = np.divmod(indices, size)
    turned: Indices = head * size + row % 2 * (size // 2) + row // 2
    return turned


def per_head(key: str) -> Step:
    """Put the rows of each head into llama.cpp's order; `key` counts the heads."""

    def step(rows: Rows, model: Model, block: int) -> Rows:
        heads = model.integer(key, block) or model.integer("attention.head_count", block)
        vector = rows.count == 1
        matrix = ReshapedRows(rows, 1) if vector else rows
        if not heads or matrix.count % (2 * heads):
            raise WeightsError(
                f"{matrix.count} rows of queries or keys can't be those of {heads} heads."
            )
        order = partial(interleaved, matrix.count // heads)
        turned = PickedRows(matrix, order, matrix.count)
        return ReshapedRows(turned, rows.columns) if vector else turned

    return step


def plus_one(rows: Rows, model: Model, block: int) -> Rows:
    """What transformers adds to a norm's weights when it runs."""
    return shifted(rows, 1.0)


def _experts(rows: Rows, model: Model) -> int:
    experts = model.integer("expert_count")
    if not experts or rows.count % experts:
        raise WeightsError(f"{rows.count} rows of experts can't be those of {experts} experts.")
    return experts


def half_of_experts(which: int) -> Step:
    """The first (0) or second (1) half of each expert's rows."""

    def step(rows: Rows, model: Model, block: int) -> Rows:
        height = rows.count // _experts(rows, model)
        return PickedRows(rows, partial(_half, which, height), rows.count // 2)

    return step


def _half(which: int, height: int, indices: Indices) -> Indices:
    expert, row = np.divmod(indices, height // 2)
    return expert * height + which * (height // 2) + row


def turned_experts(rows: Rows, model: Model, block: int) -> Rows:
    """Experts that have a column for each output."""
    return TransposedRows(rows, _experts(rows, model))


def odd_or_even(which: int) -> Step:
    """Every second row, from row `which` on."""

    def step(rows: Rows, model: Model, block: int) -> Rows:
        return PickedRows(rows, partial(_every_other, which), rows.count // 2)

    return step


def _every_other(which: int, indices: Indices) -> Indices:
    return 2 * indices + which


def chained(steps: Sequence[Step], model: Model, block: int, rows: Rows) -> Rows:
    """Apply the steps in turn."""
    for step in steps:
        rows = step(rows, model, block)
    return rows

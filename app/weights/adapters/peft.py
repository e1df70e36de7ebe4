"""Adapters of PEFT's or mlx-lm's, in safetensors, merged into a model."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from app.formats import safetensors
from app.formats.adapter_config import AdapterConfig
from app.weights.adapters import names
from app.weights.adapters.changes import Change, changes, stored
from app.weights.adapters.low_rank import (
    Added,
    Edit,
    EditedRows,
    Normed,
    ProductRows,
    Replaced,
    with_rows,
)
from app.weights.adapters.tables import EMBEDDING, OUTPUT, Table, apply_tables
from app.weights.adapters.targets import height, is_vector, places, targets
from app.weights.adapters.vocabulary import with_rows_for
from app.weights.model import Model, Tensor, WeightsError
from app.weights.rows import ReshapedRows, TransposedRows

_BLOCKS = re.compile(r"\blayers\.(\d{1,9})\.")


def apply_peft(
    model: Model,
    path: Path,
    config: AdapterConfig,
    header: safetensors.Header,
    beside: Mapping[str, Path],
    scale: float,
) -> Model:
    """The model with the adapter at `path` merged into it; `header` is that file's, and `beside`
    are the tokenizer's files, by name.

    `scale` multiplies alpha; what the adapter replaces as a whole isn't scaled. Only headers are
    read. Raises WeightsError, which names the tensor, and OSError.
    """
    return _Merge(model, path, config, scale).result(header, beside)


class _Merge:
    """The merged model, as it is put together."""

    def __init__(self, model: Model, path: Path, config: AdapterConfig, scale: float) -> None:
        self._model, self._path, self._config, self._scale = model, path, config, scale
        self._edits: dict[str, list[Edit]] = {}
        self._tables: dict[str, Table] = {}
        self._replaced = 0

    def result(self, header: safetensors.Header, beside: Mapping[str, Path]) -> Model:
        contents = names.read_names(header.tensors, self._config.mlx_scale is not None)
        if not contents.modules and not contents.whole:
            raise WeightsError("The adapter holds no weights.")
        self._check_blocks([*contents.modules, *contents.whole])
        for name, tensor in contents.whole.items():
            self._replace(name, tensor)
        for change in changes(contents, self._path, self._config, self._model, self._scale):
            self._change(change)
        for module, parts in contents.modules.items():
            if names.TOKENS in parts:
                self._train_tokens(module, parts[names.TOKENS])
        tensors = dict(self._model.tensors)
        for name, edits in self._edits.items():
            tensors[name] = _edited(tensors[name], edits)
        shared = self._config.ensure_weight_tying or self._config.mlx_scale is not None
        model = replace(self._model, tensors=tensors, notes=(*self._model.notes, *self._notes()))
        model, rows = apply_tables(model, self._tables, shared)
        return with_rows_for(model, rows, beside) if rows else model

    def _notes(self) -> list[str]:
        if self._scale == 1 or not self._replaced:
            return []
        return [
            f"The scale of {self._scale:g} applies to low-rank changes; {self._replaced} tensors"
            " that the adapter replaces were taken whole."
        ]

    def _check_blocks(self, named: Iterable[str]) -> None:
        """Refuse blocks that the model doesn't have, before anything is made of their numbers."""
        for name in named:
            match = _BLOCKS.search(name)
            blocks = self._model.integer("block_count")
            if match and blocks is not None and int(match[1]) >= blocks:
                raise WeightsError(
                    f"The adapter changes {name}, which the base model doesn't have.",
                    "Send it with the base model that it was trained on.",
                )

    def _table(self, name: str) -> Table | None:
        """The embedding or the output, where transformers' tensor is that."""
        for place in places(name, self._model):
            if place.name in (EMBEDDING, OUTPUT):
                return self._tables.setdefault(place.name, Table())
        if name.removeprefix("language_model.").endswith("lm_head.weight"):
            return self._tables.setdefault(OUTPUT, Table())
        return None

    def _replace(self, name: str, tensor: safetensors.Tensor) -> None:
        rows = stored(self._path, tensor)
        self._replaced += 1
        table = self._table(name)
        if table is not None:
            table.whole = rows
            return
        for target in targets(name, rows, self._model):
            self._edits.setdefault(target.tensor, []).append(
                Replaced(target.rows, start=target.start)
            )

    def _change(self, change: Change) -> None:
        added = change.added
        if isinstance(added, ProductRows) and added.factor == 0 and change.lengths is None:
            return
        table = self._table(change.name)
        if table is not None:
            table.added.append((change.added, change.lengths, change.by_column))
            return
        if change.by_column:
            raise WeightsError(f"The adapter changes {change.name} as if it were an embedding.")
        try:
            found = targets(change.name, change.added, self._model, change.lengths)
        except WeightsError:
            if not change.turned or not isinstance(change.added, ProductRows):
                raise
            product = change.added
            added = ProductRows(
                TransposedRows(product.right), TransposedRows(product.left), product.factor
            )
            found = targets(change.name, added, self._model)
        for target in found:
            edit: Edit = Added(target.rows, start=target.start)
            if target.lengths is not None:
                edit = Normed(target.rows, target.lengths, start=target.start)
            self._edits.setdefault(target.tensor, []).append(edit)

    def _train_tokens(self, module: str, tensor: safetensors.Tensor) -> None:
        table = self._table(f"{module}.weight")
        numbers = self._config.token_indices.get("")
        for name, indices in self._config.token_indices.items():
            if name and f".{module}".endswith(f".{name}"):
                numbers = indices
        if table is None or numbers is None:
            raise WeightsError(
                f"The adapter trains tokens of {module}, but its trainable_token_indices don't say"
                " which."
            )
        table.tokens = (stored(self._path, tensor), np.array(numbers, np.int64))


def _edited(tensor: Tensor, edits: list[Edit]) -> Tensor:
    edits = sorted(edits, key=lambda edit: not isinstance(edit, Replaced))
    if not is_vector(tensor):
        return with_rows(tensor, EditedRows(tensor.rows, tuple(edits), tensor.rows.count))
    column = EditedRows(ReshapedRows(tensor.rows, 1), tuple(edits), height(tensor))
    return with_rows(tensor, ReshapedRows(column, tensor.rows.columns))

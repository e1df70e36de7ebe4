"""An adapter merged into a model: each tensor that it changes gets other rows."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np

from app.formats import gguf, safetensors
from app.formats.adapter_config import AdapterConfig, AdapterConfigError, read_adapter_config
from app.formats.gguf import GGUFError
from app.formats.safetensors import SafetensorsError
from app.formats.tensor_types import STRING
from app.weights.adapters import names
from app.weights.adapters.changes import Change, changes, stored
from app.weights.adapters.lora_gguf import apply_lora_gguf
from app.weights.adapters.low_rank import Added, Edit, EditedRows, Normed, ProductRows, Replaced
from app.weights.adapters.tables import EMBEDDING, OUTPUT, Table, apply_tables, with_rows
from app.weights.adapters.targets import height, is_vector, places, targets
from app.weights.adapters.vocabulary import with_rows_for
from app.weights.model import Model, Tensor, Value, WeightsError
from app.weights.rows import ReshapedRows, TransposedRows

CONFIG = "adapter_config.json"
NOTE_KEY = "model_handler.merged"
ADAPTERS_KEY = "model_handler.adapters"
"""The sha256 (hex) of the adapters that were merged into a model, with commas between."""
CONFIG_BYTES = 2**20
_BLOCKS = re.compile(r"\blayers\.(\d{1,9})\.")


def apply_adapter(model: Model, files: Sequence[Path], scale: float = 1.0) -> Model:
    """The model with the adapter in `files` merged into it.

    They are a LoRA GGUF, or the config and weights of PEFT's or mlx-lm's, with the tokenizer's
    files beside them, if any. `scale` multiplies alpha; what an adapter replaces as a whole isn't
    scaled. Changed tensors keep their types, where those can be written. Only headers are read.
    Raises WeightsError, which names the tensor or the key, and OSError.
    """
    by_name = {path.name: path for path in files}
    weights = [path for path in files if path.suffix in (".safetensors", ".gguf")]
    (path,) = weights or [next(path for path in files if path.suffix != ".json")]
    model = _marked(model, path)
    try:
        if not any(name.endswith(".json") for name in by_name):
            return apply_lora_gguf(model, path, gguf.open_header(path), scale)
        config_path = by_name.get(CONFIG) or next(file for file in files if file.suffix == ".json")
        config = _read_config(config_path)
        header = safetensors.open_header(path)
    except (GGUFError, SafetensorsError) as error:
        raise WeightsError(f"{path.name} {error}.") from error
    beside = {name: file for name, file in by_name.items() if file not in (path, config_path)}
    return _Merge(model, path, config, scale).result(header, beside)


def _read_config(path: Path) -> AdapterConfig:
    if path.stat().st_size > CONFIG_BYTES:
        raise WeightsError(f"{path.name} is too large for its kind.")
    try:
        config = read_adapter_config(path.read_bytes())
    except AdapterConfigError as error:
        raise WeightsError(f"{path.name} {error}.", error.hint) from error
    if config.peft_type != "LORA":
        raise WeightsError(f"The adapter is {config.peft_type}; only LoRA can be merged.")
    return config


def named_as_merged(model: Model, base: str, adapter: Sequence[str]) -> Model:
    """The model, saying in its metadata what it was merged with."""
    names = [name for name in adapter if name.endswith((".safetensors", ".gguf"))]
    weights = (names or [name for name in adapter if not name.endswith(".json")])[0]
    note = f"merged with {Path(weights).name}"
    name = model.metadata.get("general.name")
    known = name.content if name and isinstance(name.content, str) else Path(base).stem
    own = {"general.name": f"{known} ({note})", NOTE_KEY: note}
    kept = {key: value for key, value in model.metadata.items() if key not in own}
    texts = {key: Value(STRING, text) for key, text in own.items()}
    return replace(model, metadata={**kept, **texts})


def _marked(model: Model, adapter: Path) -> Model:
    """The model, which now says what was merged into it. Raises WeightsError for a second time."""
    digest = sha256()
    with adapter.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    merged = model.metadata.get(ADAPTERS_KEY)
    known = merged.content.split(",") if merged and isinstance(merged.content, str) else []
    if digest.hexdigest() in known:
        raise WeightsError(
            f"The base is the merged model of {adapter.name} already.",
            "Send it without the adapter, or send the model that the adapter was trained on.",
        )
    value = Value(STRING, ",".join([*known[-63:], digest.hexdigest()]))
    return replace(model, metadata={**model.metadata, ADAPTERS_KEY: value})


class _Merge:
    """A merge of a safetensors adapter, as it is put together."""

    def __init__(self, model: Model, path: Path, config: AdapterConfig, scale: float) -> None:
        self._model, self._path, self._config, self._scale = model, path, config, scale
        self._edits: dict[str, list[Edit]] = {}
        self._tables: dict[str, Table] = {}
        self._replaced = 0

    def result(self, header: safetensors.Header, beside: Mapping[str, Path]) -> Model:
        """The merged model; `beside` are the tokenizer's files, by name."""
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

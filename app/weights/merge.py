"""A LoRA adapter merged into its base model: each tensor that it changes gets other rows."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from app.formats import gguf, safetensors
from app.formats.adapter_config import read_adapter_config
from app.formats.gguf import GGUFError, Header, Tensor
from app.formats.safetensors import SafetensorsError
from app.formats.tensor_types import STRING
from app.weights import quants
from app.weights.model import Floats, Model, Rows, Value, WeightsError
from app.weights.rows import StoredRows

NOTE_KEY = "model_handler.merged"

MergeError = WeightsError


@dataclass(frozen=True)
class Pair:
    """A low-rank change of one base tensor: `factor` * B @ A is added to it.

    `load` gives A, of shape (experts, rank, columns), and B, of shape (experts, rows, rank); a
    tensor of two dimensions counts as one expert.
    """

    load: Callable[[], tuple[Floats, Floats]]
    factor: float


def gguf_pairs(path: Path, header: Header) -> dict[str, Pair]:
    """The pairs of a LoRA GGUF, by the base tensor's name; see gguf.check_adapter_fits.

    The scale is alpha / rank, the rank being the pair's own: llama.cpp, src/llama-adapter.h.
    """
    alpha = header.lora_alpha
    assert alpha is not None
    pairs = {}
    for name, a in header.tensors.items():
        if not name.endswith(".lora_a"):
            continue
        stem = name.removesuffix(".lora_a")
        b = header.tensors[f"{stem}.lora_b"]
        flipped = stem == "token_embd.weight"
        rank = a.shape[0] if flipped else a.shape[1]
        pairs[stem] = Pair(_loader(path, a, b, flipped), alpha / rank)
    return pairs


def _loader(path: Path, a: Tensor, b: Tensor, flipped: bool) -> Callable[[], tuple[Floats, Floats]]:
    def load() -> tuple[Floats, Floats]:
        one, other = _read_tensor(path, a), _read_tensor(path, b)
        # Of an embedding, A has a row for each token and B one for each column.
        return (other.transpose(0, 2, 1), one) if flipped else (one, other)

    return load


def _read_tensor(path: Path, tensor: Tensor) -> Floats:
    with path.open("rb") as file:
        data = os.pread(file.fileno(), tensor.nbytes, tensor.offset)
    values = quants.decode(tensor.type, data, tensor.shape[0])
    return values.reshape(-1, tensor.shape[1], tensor.shape[0])


@dataclass(frozen=True)
class MergedRows:
    """A tensor's rows with a pair's product, `factor` times, added."""

    rows: Rows
    pair: Pair
    factor: float
    experts: int

    @property
    def columns(self) -> int:
        return self.rows.columns

    @property
    def count(self) -> int:
        return self.rows.count

    def read(self, first: int, last: int) -> Floats:
        rows, a_b = self.rows.read(first, last), _loaded(self.pair)
        per_expert = self.count // self.experts
        for begin in range(first // per_expert * per_expert, last, per_expert):
            start, end = max(begin, first), min(begin + per_expert, last)
            a, b = (side[begin // per_expert] for side in a_b)
            change = b[start - begin : end - begin] @ a
            rows[start - first : end - first] += np.float32(self.factor) * change
        return rows


@lru_cache(maxsize=4)
def _loaded(pair: Pair) -> tuple[Floats, Floats]:
    return pair.load()


def apply_pairs(model: Model, pairs: Mapping[str, Pair], scale: float = 1.0) -> Model:
    """The model with `scale` times the pairs added, each by its tensor's name.

    A changed tensor keeps its type, or where that has no encoder, gets the one that
    quants.writable_type says.
    """
    tensors = dict(model.tensors)
    for name, pair in pairs.items():
        factor = pair.factor * scale
        if factor == 0:
            continue
        tensor = tensors[name]
        experts = tensor.shape[2] if len(tensor.shape) > 2 else 1
        rows = MergedRows(tensor.rows, pair, factor, experts)
        kind = quants.writable_type(tensor.type, tensor.shape[0])
        tensors[name] = replace(tensor, rows=rows, type=kind)
    return replace(model, tensors=tensors)


def apply_adapter(model: Model, files: Sequence[Path], scale: float) -> Model:
    """The model with the adapter in `files` merged into it: a GGUF, or PEFT's config and weights.

    Raises WeightsError and OSError.
    """
    weights = next(path for path in files if path.suffix != ".json")
    try:
        if len(files) == 1:
            return apply_pairs(model, gguf_pairs(weights, gguf.open_header(weights)), scale)
        from app.weights.peft import peft_pairs  # which needs this module

        (config,) = (path for path in files if path.suffix == ".json")
        settings = read_adapter_config(config.read_bytes())
        header = safetensors.open_header(weights)
        pairs = peft_pairs(weights, header, settings, _headers(model))
        return apply_pairs(model, pairs, scale)
    except (GGUFError, SafetensorsError) as error:
        raise WeightsError(f"{weights.name} {error}.") from error


def _headers(model: Model) -> list[Header]:
    rows = [tensor.rows for tensor in model.tensors.values()]
    paths = dict.fromkeys(each.path for each in rows if isinstance(each, StoredRows))
    return [gguf.open_header(Path(path)) for path in paths]


def named_as_merged(model: Model, base: str, adapter: Sequence[str]) -> Model:
    """The model, saying in its metadata what it was merged with."""
    weights = next(name for name in adapter if not name.endswith(".json"))
    note = f"merged with {Path(weights).name}"
    name = model.metadata.get("general.name")
    known = name.content if name and isinstance(name.content, str) else Path(base).stem
    own = {"general.name": f"{known} ({note})", NOTE_KEY: note}
    kept = {key: value for key, value in model.metadata.items() if key not in own}
    texts = {key: Value(STRING, text) for key, text in own.items()}
    return replace(model, metadata={**kept, **texts})

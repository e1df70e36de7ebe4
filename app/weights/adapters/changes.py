"""What the tensors in an adapter's file do to those of transformers, as rows and edits.

Source: peft, tuners/lora/layer.py (get_delta_weight of Linear, Embedding and ParamWrapper) and
dora.py; mlx-lm, tuner/lora.py and dora.py (fuse).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import isfinite, sqrt
from pathlib import Path

import numpy as np

from app.formats import safetensors
from app.formats.adapter_config import LARGEST_RANK, MERGE_WITH_PEFT, AdapterConfig
from app.weights import quants
from app.weights.adapters import names
from app.weights.adapters.low_rank import (
    ProductRows,
    TurnedStoredRows,
    product_of_experts,
    stack,
)
from app.weights.adapters.patterns import first_matches
from app.weights.model import Model, Rows, WeightsError
from app.weights.rows import PickedColumns, StoredRows, TransposedRows, scaled

_EXPERT_PARAMETERS = ("gate_up_proj", "down_proj")
_TURNED_EXPERTS = frozenset(("gpt-oss", "llama4"))
MOST_EXPERTS = 4096


@dataclass(frozen=True)
class Change:
    """A change of transformers' tensor `name`: `added` rows, and for DoRA the `lengths` of the
    changed rows (a matrix of one column), or, where `by_column`, of the columns (of one row)."""

    name: str
    added: Rows
    lengths: Rows | None = None
    by_column: bool = False
    turned: bool = False


def stored(path: Path, tensor: safetensors.Tensor) -> StoredRows:
    """The rows of a tensor of an adapter's file; a vector is one row."""
    columns = tensor.shape[-1]
    count = tensor.nbytes * 8 // safetensors.DTYPE_BITS[tensor.dtype] // columns
    return StoredRows(str(path), tensor.offset, quants.DTYPES[tensor.dtype], columns, count)


def changes(
    contents: names.AdapterTensors, path: Path, config: AdapterConfig, model: Model, scale: float
) -> Iterator[Change]:
    """The low-rank changes. Raises WeightsError, which names the module."""
    modules = {
        module: parts for module, parts in contents.modules.items() if names.TOKENS not in parts
    }
    known_as = {module: _parameter(module, config) or module for module in modules}
    alphas = first_matches("alpha_pattern", config.alpha_pattern, known_as.values())
    for module, parts in modules.items():
        reader = _Reader(path, parts)
        alpha = alphas.get(known_as[module], config.lora_alpha)

        def factor(rank: int, module: str = module, alpha: float = alpha) -> float:
            return scale * _factor(config, module, alpha, rank)

        if names.EMBEDDING_A in parts:
            yield _embedding(module, reader, factor)
        elif names.MLX_A in parts:
            yield _mlx(module, reader, factor, model)
        elif known_as[module] != module:
            yield _experts(known_as[module], reader, factor, model)
        else:
            yield _linear(module, reader, factor, config)
            if names.B_BIAS in parts:
                (rank,) = parts[names.B].shape[1:]
                bias = reader.rows(names.B_BIAS)
                yield Change(f"{module}.bias", scaled(bias, factor(rank)))


class _Reader:
    """The parts of one module."""

    def __init__(self, path: Path, parts: Mapping[str, safetensors.Tensor]) -> None:
        self._path = path
        self.parts = parts

    def rows(self, part: str) -> StoredRows:
        return stored(self._path, self.parts[part])

    def lengths(self) -> Rows | None:
        """DoRA's magnitudes as a matrix of one column."""
        tensor = self.parts.get(names.MAGNITUDE)
        if tensor is None:
            return None
        rows = stored(self._path, tensor)
        count = rows.columns * rows.count
        return StoredRows(rows.path, rows.offset, rows.type, 1, count)


def _linear(
    module: str, reader: _Reader, factor: Callable[[int], float], config: AdapterConfig
) -> Change:
    a, b = reader.rows(names.A), reader.rows(names.B)
    lengths = reader.lengths()
    _check_dora(module, lengths, b.count)
    return Change(
        f"{module}.weight",
        ProductRows(b, a, factor(a.count)),
        lengths,
        turned=config.fan_in_fan_out and lengths is None,
    )


def _embedding(module: str, reader: _Reader, factor: Callable[[int], float]) -> Change:
    a, b = reader.rows(names.EMBEDDING_A), reader.rows(names.EMBEDDING_B)
    lengths = reader.lengths()
    _check_dora(module, lengths, b.count)
    added = ProductRows(TurnedStoredRows(a), TransposedRows(b), factor(a.count))
    if lengths is None:
        return Change(f"{module}.weight", added)
    return Change(f"{module}.weight", added, TransposedRows(lengths), by_column=True)


def _mlx(module: str, reader: _Reader, factor: Callable[[int], float], model: Model) -> Change:
    shape = reader.parts[names.MLX_A].shape
    a, b = reader.rows(names.MLX_A), reader.rows(names.MLX_B)
    lengths = reader.lengths()
    name = module.replace("block_sparse_moe.", "mlp.").replace(".switch_mlp.", ".experts.")
    if len(shape) == 3:
        if shape[0] > MOST_EXPERTS:
            raise WeightsError(f"The adapter has {shape[0]} experts of {module}.")
        left, right = stack(b, shape[0]), stack(a, shape[0])
        return Change(f"{name}.weight", product_of_experts(left, right, factor(shape[1])))
    embedding = module.rpartition(".")[2] in ("embed_tokens", "wte", "tok_embeddings")
    if embedding:
        added = ProductRows(a, b, factor(shape[1]))
    else:
        added = ProductRows(TurnedStoredRows(b), TransposedRows(a), factor(shape[1]))
    _check_dora(module, lengths, added.count)
    return Change(f"{name}.weight", added, lengths)


def _experts(
    parameter: str, reader: _Reader, factor: Callable[[int], float], model: Model
) -> Change:
    """A parameter of all experts: A has `rank` rows of each in turn, B's columns are each rank's of
    all experts in turn."""
    a, b = reader.rows(names.A), reader.rows(names.B)
    experts = model.integer("expert_count")
    if not experts or not 0 < experts <= MOST_EXPERTS or a.count % experts:
        raise WeightsError(
            f"The adapter's pair for {parameter} has {a.count} ranks, which can't be those of"
            f" {experts or 'no'} experts."
        )
    if names.MAGNITUDE in reader.parts:
        raise WeightsError(f"The adapter has DoRA's magnitudes for {parameter}.", MERGE_WITH_PEFT)
    left: list[Rows] = [
        PickedColumns(b, np.arange(number, b.columns, experts)) for number in range(experts)
    ]
    right = stack(a, experts)
    if model.architecture in _TURNED_EXPERTS:
        left, right = (
            [TransposedRows(rows) for rows in right],
            [TransposedRows(rows) for rows in left],
        )
    return Change(parameter, product_of_experts(left, right, factor(a.count // experts)))


def _parameter(module: str, config: AdapterConfig) -> str | None:
    """The parameter that a wrapper around experts is for: wrappers of several are nested, the last
    parameter's outside."""
    depth = 0
    while module.endswith(".base_layer"):
        module, depth = module.removesuffix(".base_layer"), depth + 1
    if module.rpartition(".")[2] != "experts":
        return None
    wrapped = [
        name
        for name in _EXPERT_PARAMETERS
        if any(f".{module}.{name}".endswith(f".{each}") for each in config.target_parameters)
    ]
    unknown = [
        each
        for each in config.target_parameters
        if ".experts." in f".{each}" and each.rpartition(".")[2] not in _EXPERT_PARAMETERS
    ]
    if depth >= len(wrapped) or unknown:
        raise WeightsError(
            f"The adapter changes {module}, but its target_parameters don't say which of its"
            " parameters.",
            MERGE_WITH_PEFT,
        )
    return f"{module}.{wrapped[-1 - depth]}"


def _check_dora(module: str, lengths: Rows | None, count: int) -> None:
    if lengths is not None and lengths.count != count:
        raise WeightsError(
            f"The adapter has {lengths.count} magnitudes for {module}, where {count} are needed."
        )


def _factor(config: AdapterConfig, module: str, alpha: float, rank: int) -> float:
    """alpha / rank, alpha / sqrt(rank) with rsLoRA, or MLX's own scale."""
    if rank > LARGEST_RANK:
        raise WeightsError(f"The adapter's rank for {module} is {rank}, beyond {LARGEST_RANK}.")
    if config.mlx_scale is not None:
        return config.mlx_scale
    factor = alpha / (sqrt(rank) if config.use_rslora else rank)
    if not isfinite(factor):
        raise WeightsError(f"The adapter's scale for {module} isn't finite.")
    return factor

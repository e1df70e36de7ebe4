"""PEFT's safetensors adapters as pairs for a GGUF base: names, scales and the order of rows.

Names go through the `gguf` package's map. Where llama.cpp's converter reorders the rows of a base's
query and key projections (convert_hf_to_gguf.py, LlamaModel.permute), B's rows are reordered alike.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from math import isfinite, sqrt
from pathlib import Path

import numpy as np
from gguf.constants import MODEL_ARCH, MODEL_ARCH_NAMES
from gguf.tensor_mapping import get_tensor_name_map

from app.formats import safetensors
from app.formats.adapter_config import AdapterConfig
from app.formats.gguf import Array, Header, Tensor
from app.weights import quants
from app.weights.adapters.patterns import first_matches
from app.weights.merge import MergeError, Pair
from app.weights.model import Floats

PERMUTED = frozenset(("llama", "granite", "minicpm", "deci", "arcee", "smollm3"))
IN_ORDER = frozenset(
    ("gemma", "gemma2", "gemma3", "qwen2", "qwen3", "phi3", "starcoder2", "stablelm", "olmo2")
)
DTYPES = {"F32": quants.F32, "F16": quants.F16, "BF16": quants.BF16}
_KEY = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<side>[AB])(?:\.\w+)?\.weight")


def check_config(config: AdapterConfig) -> None:
    """Raise MergeError for what isn't plain LoRA."""
    if config.peft_type != "LORA":
        raise MergeError(f"The adapter is {config.peft_type}; only LoRA can be merged.")
    if config.use_dora:
        raise MergeError("The adapter uses DoRA, whose magnitudes can't be merged here.")
    if config.modules_to_save:
        names = ", ".join(config.modules_to_save)
        raise MergeError(f"The adapter replaces whole modules (modules_to_save: {names}).")
    if config.bias != "none":
        raise MergeError(f"The adapter trains biases (bias={config.bias!r}).")


def peft_pairs(
    adapter: Path, header: safetensors.Header, config: AdapterConfig, base: Sequence[Header]
) -> dict[str, Pair]:
    """The pairs of an `adapter_model.safetensors`, by the name of the GGUF base's tensor.

    The file itself is only read when a pair is loaded. `base` are the headers of its shards. Raises
    MergeError, which names the tensor, for what can't be merged or doesn't fit.
    """
    check_config(config)
    architecture = base[0].architecture or ""
    if architecture not in PERMUTED | IN_ORDER:
        raise MergeError(f"Adapters in safetensors can't be merged into {architecture} models.")
    names = _name_map(base[0], architecture)
    tensors = {name: tensor for each in base for name, tensor in each.tensors.items()}
    pairs = {}
    modules = _modules(header)
    alphas = first_matches("alpha_pattern", config.alpha_pattern, modules)
    for module, (a, b) in modules.items():
        name = names(module)
        if name is None or name not in tensors:
            raise MergeError(f"The adapter changes {module}, which the base model doesn't have.")
        reorder = _reorder(base[0], architecture, name)
        load = _loader(adapter, a, b, tensors[name], config.fan_in_fan_out, reorder)
        pairs[name] = Pair(
            load, _factor(config, module, alphas.get(module, config.lora_alpha), a.shape[0])
        )
    return pairs


def _modules(
    header: safetensors.Header,
) -> dict[str, tuple[safetensors.Tensor, safetensors.Tensor]]:
    """A and B of each module that the adapter changes."""
    sides: dict[str, dict[str, safetensors.Tensor]] = {}
    for key, tensor in header.tensors.items():
        match = _KEY.fullmatch(key)
        if match is None or len(tensor.shape) != 2 or tensor.dtype not in DTYPES:
            raise MergeError(f"The adapter holds {key}, which is no half of a LoRA pair.")
        sides.setdefault(match["module"], {})[match["side"]] = tensor
    for module, found in sides.items():
        if len(found) != 2:
            raise MergeError(f"The adapter holds only half of the pair for {module}.")
        if found["A"].shape[0] != found["B"].shape[1]:
            raise MergeError(f"The adapter's two halves for {module} differ in rank.")
    return {module: (found["A"], found["B"]) for module, found in sides.items()}


def _factor(config: AdapterConfig, module: str, alpha: float, rank: int) -> float:
    """alpha / rank, or alpha / sqrt(rank) with rsLoRA."""
    factor = alpha / (sqrt(rank) if config.use_rslora else rank)
    if not isfinite(factor):
        raise MergeError(f"The adapter's scale for {module} isn't finite.")
    return factor


def _name_map(header: Header, architecture: str) -> Callable[[str], str | None]:
    arch = {name: arch for arch, name in MODEL_ARCH_NAMES.items()}.get(architecture)
    if arch is None:
        raise MergeError(f"Adapters in safetensors can't be merged into {architecture} models.")
    blocks = header.integer(f"{architecture}.block_count") or 0
    known = get_tensor_name_map(MODEL_ARCH(arch), blocks)

    def name(module: str) -> str | None:
        found = known.get_name(f"{module}.weight", try_suffixes=(".weight",))
        return found if isinstance(found, str) else None

    return name


def _reorder(header: Header, architecture: str, name: str) -> "Callable[[Floats], Floats] | None":
    match = re.fullmatch(r"blk\.(\d+)\.attn_([qk])\.weight", name)
    if match is None or architecture not in PERMUTED:
        return None
    block = int(match[1])
    heads = _per_block(header.metadata, f"{architecture}.attention.head_count", block)
    if match[2] == "k":
        kv = _per_block(header.metadata, f"{architecture}.attention.head_count_kv", block)
        heads = kv or heads
    if not heads:
        raise MergeError(f"The base model doesn't say how many heads {name} has.")
    count = heads

    def reorder(b: Floats) -> Floats:
        rows, rank = b.shape
        if rows % (2 * count):
            raise MergeError(f"{name} doesn't have as many rows as its {count} heads need.")
        halves = b.reshape(count, 2, rows // count // 2, rank)
        return halves.swapaxes(1, 2).reshape(rows, rank)

    return reorder


def _per_block(metadata: Mapping[str, object], key: str, block: int) -> int | None:
    value = metadata.get(key)
    if isinstance(value, Array) and value.items is not None and block < len(value.items):
        value = value.items[block]
    return value if isinstance(value, int) else None


def _loader(
    adapter: Path,
    a: safetensors.Tensor,
    b: safetensors.Tensor,
    base: Tensor,
    fan_in_fan_out: bool,
    reorder: "Callable[[Floats], Floats] | None",
) -> Callable[[], tuple[Floats, Floats]]:
    sides = (b.shape[0], a.shape[1])
    straight = sides == base.shape[::-1]
    if not straight and not (fan_in_fan_out and sides == base.shape):
        raise MergeError(
            f"The adapter's pair for {base.name} makes {sides[0]}x{sides[1]}"
            f" where the base has {'x'.join(map(str, base.shape[::-1]))}."
        )

    def load() -> tuple[Floats, Floats]:
        one, other = _read(adapter, a), _read(adapter, b)
        if not straight:
            one, other = other.T, one.T
        if reorder is not None:
            other = reorder(other)
        return one[np.newaxis], other[np.newaxis]

    return load


def _read(path: Path, tensor: safetensors.Tensor) -> Floats:
    with path.open("rb") as file:
        data = os.pread(file.fileno(), tensor.nbytes, tensor.offset)
    return quants.decode(DTYPES[tensor.dtype], data, tensor.shape[1])

"""Which type each tensor gets in a quantised model: the one that llama.cpp's llama-quantize gives.

The rules are those of its src/llama-quant.cpp. They go by a tensor's name, by the place of its
block among all, and by some numbers of the architecture; rows that don't come in a type's blocks
get a type of smaller blocks.
"""

import re
from dataclasses import dataclass, replace

from app.formats.tensor_types import (
    FILE_TYPES,
    QUANTIZATIONS,
    TENSOR_TYPES,
    UINT32,
)
from app.weights import quants
from app.weights.imatrix import Imatrix, importance_of
from app.weights.model import Model, Tensor, Value, WeightsError

_TYPES = {kind.name: number for number, kind in TENSOR_TYPES.items()}
_FILE_TYPES = {name: number for number, name in FILE_TYPES.items()}
_SMALLER_BLOCKS = {
    **{"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"},
    "IQ4_XS": "IQ4_NL",
}
_NEVER = re.compile(
    r"_norm\.weight|ffn_gate_inp\.weight|ffn_gate_tid2eid\.weight|altup|laurel|per_layer_model_proj"
    r"|^position_embd\.weight$|^token_types\.weight$|ssm_conv1d|shortconv\.conv\.weight"
    r"|indexer\.[kq]_proj\.weight|time_mix_(first|[wav][012]|g[12]|decay_w[12]|lerp_fused)\.weight"
    r"|attn_rel_b\.weight|\.position_embd|sam\.(pos_embd|neck\.|net_)|\.rel_pos|\.patch_embd"
    r"|\.patch_merger|a\.rvq\.codebook|mm\.a\.code_embd"
)
_ALWAYS_70B = ("qwen2", "deci")
_EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")


def quantize(model: Model, name: str, imatrix: Imatrix | None = None) -> Model:
    """The model in one of QUANTIZATIONS. Raises WeightsError where it is quantised already, where
    that isn't one of them, and where the imatrix is another model's."""
    if name not in QUANTIZATIONS:
        raise WeightsError(
            f"Models can't be quantised to {name!r:.40}.", f"Use {', '.join(QUANTIZATIONS)}."
        )
    _check_not_quantized(model)
    types = choose_types(model, name, has_imatrix=imatrix is not None)
    importance = importance_of(imatrix, model) if imatrix else {}
    tensors = {
        tensor.name: replace(
            tensor, type=types[tensor.name], importance=importance.get(tensor.name)
        )
        for tensor in model.tensors.values()
    }
    metadata = {
        **model.metadata,
        **(imatrix.metadata if imatrix else {}),
        "general.file_type": Value(UINT32, _FILE_TYPES[name]),
        "general.quantization_version": Value(UINT32, quants.QUANTIZATION_VERSION),
    }
    return replace(model, metadata=metadata, tensors=tensors)


def _check_not_quantized(model: Model) -> None:
    for tensor in model.tensors.values():
        if tensor.type not in quants.FLOATS and _may_change(tensor):
            raise WeightsError(
                f"The model is quantised already ({tensor.name} is"
                f" {TENSOR_TYPES[tensor.type].name}); quantising it once more would lose more.",
                "Send it in F32, F16 or BF16, or don't ask for another quantisation.",
            )


def choose_types(model: Model, name: str, *, has_imatrix: bool = False) -> dict[str, int]:
    """The number of each tensor's type, by its name."""
    rules = _Rules.of(model, name, has_imatrix)
    types = {}
    for tensor in sorted(model.tensors.values(), key=_by_block):
        if not _may_change(tensor):
            types[tensor.name] = tensor.type
        elif rules.base in ("F32", "F16", "BF16"):
            types[tensor.name] = _TYPES[rules.base]
        else:
            types[tensor.name] = _TYPES[_fitting(rules.choose(tensor), tensor.shape[0])]
    return types


def _may_change(tensor: Tensor) -> bool:
    """Whether a tensor is a matrix of weights that quantising may touch."""
    is_matrix = any(side > 1 for side in tensor.shape[1:])
    return is_matrix and tensor.name.endswith("weight") and not _NEVER.search(tensor.name)


def _by_block(tensor: Tensor) -> tuple[int, str]:
    """llama-quantize's order, in which it counts tensors of a kind."""
    block = _block(tensor.name)
    return (-1 if block is None else block), tensor.name


def _block(name: str) -> int | None:
    match = re.match(r"blk\.(\d+)\.", name)
    return int(match[1]) if match else None


def _fitting(kind: str, columns: int) -> str:
    """The type, or one of smaller blocks where rows of `columns` need it."""
    if columns % TENSOR_TYPES[_TYPES[kind]].block:
        kind = _SMALLER_BLOCKS.get(kind, "F16")
    return "F16" if columns % TENSOR_TYPES[_TYPES[kind]].block else kind


@dataclass
class _Rules:
    """What the choice goes by, and how many tensors of a kind have been seen."""

    name: str
    base: str
    architecture: str
    blocks: int
    experts: int
    heads_per_kv: int
    is_70b: bool
    is_tied: bool
    has_imatrix: bool
    values: int
    values_seen: int = 0
    downs_seen: int = 0

    @classmethod
    def of(cls, model: Model, name: str, has_imatrix: bool) -> "_Rules":
        blocks = model.integer("block_count") or 0
        heads = model.integer("attention.head_count", 0) or 0
        kv_heads = model.integer("attention.head_count_kv", 0)
        kv_heads = heads if kv_heads is None else kv_heads
        architecture = model.architecture
        return cls(
            name=name,
            base=re.sub(r"(Q\d_K)_[SML]", r"\1", name),
            architecture=architecture,
            blocks=blocks,
            experts=model.integer("expert_count") or 0,
            heads_per_kv=heads // kv_heads if kv_heads else 0,
            is_70b=blocks == 80
            and (architecture in _ALWAYS_70B or (architecture == "llama" and heads != kv_heads)),
            is_tied="output.weight" not in model.tensors,
            has_imatrix=has_imatrix,
            values=sum(map(_is_value, model.tensors)),
        )

    def choose(self, tensor: Tensor) -> str:
        name, kind = tensor.name, None
        if name == "output.weight" or (self.is_tied and name in _EMBEDDINGS):
            kind = self._output(tensor.shape[0])
        elif name in _EMBEDDINGS:
            kind = None
        elif _is_value(name):
            kind = self._value()
            self.values_seen += 1
        elif "attn_k.weight" in name:
            kind = "Q8_0" if self.experts == 8 else None
        elif "attn_output.weight" in name:
            kind = self._attention_output()
        elif "ffn_down" in name:
            kind = self._down(_block(name) if self.experts > 1 else self.downs_seen)
            self.downs_seen += 1
        return kind or self.base

    def _output(self, columns: int) -> str:
        if self.architecture == "falcon" or columns % TENSOR_TYPES[_TYPES[self.base]].block:
            return "Q8_0"
        return "Q8_0" if self.base == "Q8_0" else "Q6_K"

    def _value(self) -> str:
        kind, seen = self.base, self.values_seen
        match self.name:
            case "Q2_K":
                kind = "Q4_K" if self.heads_per_kv >= 4 else "Q3_K"
            case "Q3_K_M":
                kind = "Q5_K" if seen < 2 else "Q4_K"
            case "Q3_K_L":
                kind = "Q5_K"
            case "IQ4_NL" | "IQ4_XS" if self.heads_per_kv >= 4:
                kind = "Q5_K"
            case "Q4_K_M" | "Q5_K_M" if _needs_more_bits(seen, self.values):
                kind = "Q6_K"
            case "Q4_K_S" if seen < 4:
                kind = "Q5_K"
        if self.is_70b and kind in ("Q3_K", "Q4_K"):
            kind = "Q5_K"
        return "Q8_0" if self.experts == 8 else kind

    def _attention_output(self) -> str | None:
        if self.architecture == "falcon":
            return "Q4_K" if self.name == "Q3_K_L" else None
        if self.experts == 8:
            keeps = ("Q3_K_L", "Q5_0", "Q5_K_S", "Q5_K_M", "Q6_K", "Q8_0", "Q4_0")
            return None if self.name in keeps else "Q5_K"
        return {"Q2_K": "Q3_K", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K"}.get(self.name)

    def _down(self, block: int | None) -> str | None:
        if block is None:
            raise WeightsError("A model of several experts has a ffn_down outside of its blocks.")
        falcon, is_early = self.architecture == "falcon", block < self.blocks // 8
        more = _needs_more_bits(block, self.blocks)
        match self.name:
            case "Q2_K":
                return "Q3_K"
            case "Q3_K_M":
                if block < self.blocks // 16:
                    return "Q5_K"
                return "Q3_K" if falcon and not more else "Q4_K"
            case "Q3_K_L":
                return "Q4_K" if falcon else "Q5_K"
            case "Q4_K_M" if falcon:
                return "Q6_K" if block < self.blocks // 16 else "Q5_K" if more else None
            case "Q4_K_M" | "Q5_K_M" if more:
                return "Q6_K"
            case "IQ4_NL" | "IQ4_XS" if is_early and not self.has_imatrix:
                return "Q5_K"
            case "Q4_K_S" if is_early and not falcon:
                return "Q5_K"
            case "Q4_0" | "Q5_0" if is_early and self.has_imatrix:
                return {"Q4_0": "Q4_1", "Q5_0": "Q5_1"}[self.name]
        return None


def _is_value(name: str) -> bool:
    return any(f"attn_{part}.weight" in name for part in ("v", "qkv", "kv_b"))


def _needs_more_bits(index: int, count: int) -> bool:
    """Whether a tensor of the first or last eighth, or every third of those between."""
    eighth = count // 8
    return index < eighth or index >= 7 * count // 8 or (index - eighth) % 3 == 2

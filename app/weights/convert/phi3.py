"""Phi 3 and 4: queries, keys and values in one matrix, gate and up in another."""

import math
from collections.abc import Iterator, Mapping

import numpy as np

from app.weights.convert.architecture import Architecture
from app.weights.convert.config import Config, Rope
from app.weights.convert.keys import Keys, common, real, rotation, whole
from app.weights.convert.shapes import (
    BLOCK_NORMS,
    Expected,
    Shapes,
    Sizes,
    decoder,
    linear,
    norms,
)
from app.weights.model import Floats, WeightsError


def _phi3_turned(config: Config) -> int:
    """How many values of a head have rotary positions."""
    share = Rope(config).full.number("partial_rotary_factor")
    turned = int((1.0 if share is None else share) * config.need("hidden_size"))
    return max(0, turned) // config.need("num_attention_heads")


def _phi3_keys(config: Config) -> Keys:
    rope = Rope(config)
    original = rope.full.whole("original_max_position_embeddings") or config.need(
        "max_position_embeddings"
    )
    keys = common(config)
    keys |= {
        "rope.scaling.original_context_length": whole(original),
        "rope.dimension_count": whole(_phi3_turned(config)),
        "attention.sliding_window": whole(config.whole("sliding_window", least=0) or 0),
    }
    if not _factors(rope):
        return keys | rotation(config)
    return keys | {
        "rope.freq_base": real(rope.full.number("rope_theta") or 10000.0),
        "rope.scaling.attn_factor": real(_attention_factor(rope, config, original)),
    }


def _factors(rope: Rope) -> bool:
    return rope.type in ("longrope", "su", "yarn") and bool(rope.full.values.get("long_factor"))


def _attention_factor(rope: Rope, config: Config, original: int) -> float:
    scale = config.need("max_position_embeddings") / original
    if scale <= 1:
        return 1.0
    if rope.type == "yarn":
        return 0.1 * math.log(scale) + 1.0
    return math.sqrt(1 + math.log(scale) / math.log(max(2, original)))


def _phi3_factors(config: Config) -> Mapping[str, Floats]:
    """The frequencies' factors for texts within the original context, and for longer ones."""
    rope = Rope(config)
    if not _factors(rope):
        return {}
    wanted = _phi3_turned(config) // 2
    tensors = {}
    for name in ("long", "short"):
        factors = rope.full.numbers(f"{name}_factor")
        if factors is None or len(factors) != wanted:
            raise WeightsError(
                f"config.json's rotary positions have {len(factors or ())} values of"
                f" {name}_factor; {wanted} are needed."
            )
        tensors[f"rope_factors_{name}.weight"] = np.array(factors, np.float32)
    return tensors


def _phi3_shapes(config: Config) -> Iterator[tuple[str, Expected]]:
    sizes = Sizes(config)

    def block(number: int) -> Shapes:
        return {
            **linear("self_attn.qkv_proj", sizes.queries + 2 * sizes.keys, sizes.hidden),
            **linear("self_attn.o_proj", sizes.hidden, sizes.queries),
            **linear("mlp.gate_up_proj", 2 * sizes.ff, sizes.hidden),
            **linear("mlp.down_proj", sizes.hidden, sizes.ff),
            **norms(sizes.hidden, *BLOCK_NORMS),
        }

    return decoder(config, block)


ARCHITECTURES = (
    Architecture(
        "phi3",
        ("Phi3ForCausalLM",),
        _phi3_keys,
        _phi3_shapes,
        {"rope_theta": 10000.0, "rms_norm_eps": 1e-5, "max_position_embeddings": 4096},
        extra=_phi3_factors,
    ),
)

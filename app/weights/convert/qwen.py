"""Qwen 2, 2.5 and 3, with and without experts."""

from collections.abc import Iterator

from app.weights.convert.architecture import Architecture, Split
from app.weights.convert.config import Config
from app.weights.convert.keys import Keys, common, head_size, rotation, whole
from app.weights.convert.places import half_of_experts
from app.weights.convert.shapes import (
    HEAD_NORMS,
    Expected,
    Shapes,
    experts,
    gated,
    linear,
    usual_decoder,
)

DEFAULTS = {"rope_theta": 10000.0, "rms_norm_eps": 1e-6, "max_position_embeddings": 32768}
STACKED: tuple[Split, ...] = (
    (
        r"experts\.gate_up_proj(\.weight)?$",
        (
            ("experts.gate_proj.weight", (half_of_experts(0),)),
            ("experts.up_proj.weight", (half_of_experts(1),)),
        ),
    ),
    (r"experts\.down_proj$", (("experts.down_proj.weight", ()),)),
)


def _qwen2_keys(config: Config) -> Keys:
    return common(config, config.whole("head_dim")) | rotation(config)


def _qwen3_keys(config: Config) -> Keys:
    return common(config, head_size(config)) | rotation(config)


def _qwen2_shapes(config: Config) -> Iterator[tuple[str, Expected]]:
    return usual_decoder(config, bias=True, out_bias=False)


def _qwen3_shapes(config: Config) -> Iterator[tuple[str, Expected]]:
    return usual_decoder(config, bias=config.flag("attention_bias"), head_norms=HEAD_NORMS)


def _expert_keys(config: Config) -> Keys:
    """The keys of feed-forward networks of experts."""
    lengths = {
        "expert_feed_forward_length": config.whole("moe_intermediate_size"),
        "expert_shared_feed_forward_length": config.whole("shared_expert_intermediate_size"),
    }
    return {key: whole(length) for key, length in lengths.items() if length is not None}


def _expert_shapes(config: Config) -> Shapes:
    """Experts as a tensor each, which are stacked in GGUF, and the router's."""
    count, inner = experts(config), config.need("moe_intermediate_size")
    hidden = config.need("hidden_size")
    shapes = linear("mlp.gate", count, hidden)
    for expert in range(count):
        shapes |= gated(f"mlp.experts.{expert}", hidden, inner)
    return shapes


def _qwen2moe_keys(config: Config) -> Keys:
    return _qwen2_keys(config) | _expert_keys(config)


def _qwen2moe_shapes(config: Config) -> Iterator[tuple[str, Expected]]:
    hidden, shared = config.need("hidden_size"), config.need("shared_expert_intermediate_size")
    mlp = {
        **_expert_shapes(config),
        **gated("mlp.shared_expert", hidden, shared),
        **linear("mlp.shared_expert_gate", 1, hidden),
    }
    return usual_decoder(config, bias=config.flag("qkv_bias", True), out_bias=False, mlp=mlp)


def _qwen3moe_keys(config: Config) -> Keys:
    return _qwen3_keys(config) | _expert_keys(config)


def _qwen3moe_shapes(config: Config) -> Iterator[tuple[str, Expected]]:
    bias, mlp = config.flag("attention_bias"), _expert_shapes(config)
    return usual_decoder(config, bias=bias, head_norms=HEAD_NORMS, mlp=mlp)


ARCHITECTURES = (
    Architecture("qwen2", ("Qwen2ForCausalLM",), _qwen2_keys, _qwen2_shapes, DEFAULTS),
    Architecture(
        "qwen3", ("Qwen3ForCausalLM",), _qwen3_keys, _qwen3_shapes, {**DEFAULTS, "head_dim": 128}
    ),
    Architecture(
        "qwen2moe",
        ("Qwen2MoeForCausalLM",),
        _qwen2moe_keys,
        _qwen2moe_shapes,
        {
            **DEFAULTS,
            "num_experts": 60,
            "num_experts_per_tok": 4,
            "moe_intermediate_size": 1408,
            "shared_expert_intermediate_size": 5632,
        },
        splits=STACKED,
    ),
    Architecture(
        "qwen3moe",
        ("Qwen3MoeForCausalLM",),
        _qwen3moe_keys,
        _qwen3moe_shapes,
        {
            **DEFAULTS,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 768,
        },
        splits=STACKED,
    ),
)

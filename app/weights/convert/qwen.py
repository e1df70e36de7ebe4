"""Qwen 2, 2.5 and 3, with and without experts."""

from collections.abc import Iterator

from app.weights.convert.architecture import Architecture, Split
from app.weights.convert.config import Config
from app.weights.convert.keys import Keys, common, head_size, rotation, whole
from app.weights.convert.places import half_of_experts
from app.weights.convert.shapes import (
    Expected,
    Shapes,
    Sizes,
    attention,
    decoder,
    experts,
    gated,
    linear,
    norms,
)

BLOCK_NORMS = ("input_layernorm", "post_attention_layernorm")
HEAD_NORMS = ("self_attn.q_norm", "self_attn.k_norm")
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


def qwen2_keys(config: Config) -> Keys:
    return common(config, config.whole("head_dim")) | rotation(config)


def qwen3_keys(config: Config) -> Keys:
    return common(config, head_size(config)) | rotation(config)


def qwen2_shapes(config: Config) -> Iterator[tuple[str, Expected]]:
    sizes = Sizes(config)

    def block(number: int) -> Shapes:
        return {
            **attention(sizes, bias=True, out_bias=False),
            **norms(sizes.hidden, *BLOCK_NORMS),
            **gated("mlp", sizes.hidden, sizes.ff),
        }

    return decoder(config, block)


def qwen3_shapes(config: Config) -> Iterator[tuple[str, Expected]]:
    sizes, bias = Sizes(config), config.flag("attention_bias")

    def block(number: int) -> Shapes:
        return {
            **attention(sizes, bias=bias),
            **norms(sizes.head, *HEAD_NORMS),
            **norms(sizes.hidden, *BLOCK_NORMS),
            **gated("mlp", sizes.hidden, sizes.ff),
        }

    return decoder(config, block)


def expert_keys(config: Config) -> Keys:
    """The keys of feed-forward networks of experts."""
    lengths = {
        "expert_feed_forward_length": config.whole("moe_intermediate_size"),
        "expert_shared_feed_forward_length": config.whole("shared_expert_intermediate_size"),
    }
    return {key: whole(length) for key, length in lengths.items() if length is not None}


def expert_shapes(config: Config, hidden: int) -> Shapes:
    """Experts as a tensor each, which are stacked in GGUF, and the router's."""
    count, inner = experts(config), config.need("moe_intermediate_size")
    shapes = linear("mlp.gate", count, hidden)
    for expert in range(count):
        shapes |= gated(f"mlp.experts.{expert}", hidden, inner)
    return shapes


def qwen2moe_keys(config: Config) -> Keys:
    return qwen2_keys(config) | expert_keys(config)


def qwen2moe_shapes(config: Config) -> Iterator[tuple[str, Expected]]:
    sizes, shared = Sizes(config), config.need("shared_expert_intermediate_size")
    bias = config.flag("qkv_bias", True)

    def block(number: int) -> Shapes:
        return {
            **attention(sizes, bias=bias, out_bias=False),
            **norms(sizes.hidden, *BLOCK_NORMS),
            **expert_shapes(config, sizes.hidden),
            **gated("mlp.shared_expert", sizes.hidden, shared),
            **linear("mlp.shared_expert_gate", 1, sizes.hidden),
        }

    return decoder(config, block)


def qwen3moe_keys(config: Config) -> Keys:
    return qwen3_keys(config) | expert_keys(config)


def qwen3moe_shapes(config: Config) -> Iterator[tuple[str, Expected]]:
    sizes, bias = Sizes(config), config.flag("attention_bias")

    def block(number: int) -> Shapes:
        return {
            **attention(sizes, bias=bias),
            **norms(sizes.head, *HEAD_NORMS),
            **norms(sizes.hidden, *BLOCK_NORMS),
            **expert_shapes(config, sizes.hidden),
        }

    return decoder(config, block)


ARCHITECTURES = (
    Architecture("qwen2", ("Qwen2ForCausalLM",), qwen2_keys, qwen2_shapes, DEFAULTS),
    Architecture(
        "qwen3", ("Qwen3ForCausalLM",), qwen3_keys, qwen3_shapes, {**DEFAULTS, "head_dim": 128}
    ),
    Architecture(
        "qwen2moe",
        ("Qwen2MoeForCausalLM",),
        qwen2moe_keys,
        qwen2moe_shapes,
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
        qwen3moe_keys,
        qwen3moe_shapes,
        {
            **DEFAULTS,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 768,
        },
        splits=STACKED,
    ),
)

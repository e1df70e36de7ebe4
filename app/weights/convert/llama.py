"""Llama and those that are made after it."""

from collections.abc import Iterator, Mapping

from app.weights.convert.architecture import Architecture
from app.weights.convert.config import Config, Rope
from app.weights.convert.keys import (
    Keys,
    common,
    head_size,
    llama3_factors,
    present,
    real,
    rotation,
    whole,
)
from app.weights.convert.places import Step, per_head
from app.weights.convert.shapes import Expected, Sizes, experts, gated, linear, usual_decoder
from app.weights.model import Floats

PERMUTED: tuple[tuple[str, Step], ...] = (
    (r"\.q_proj\.(weight|bias)$", per_head("attention.head_count")),
    (r"\.k_proj\.(weight|bias)$", per_head("attention.head_count_kv")),
)


def _rope_factors(config: Config) -> Mapping[str, Floats]:
    """Llama 3's frequency factors, where config.json asks for them."""
    factors = llama3_factors(config)
    return {} if factors is None else {"rope_freqs.weight": factors}


def _llama_keys(config: Config) -> Keys:
    # transformers fills in head_dim for Llama and Mistral, not for Mixtral.
    said = None if experts(config) else head_size(config)
    return {
        **common(config, config.whole("head_dim") or said),
        **rotation(config, factors=True),
        "vocab_size": whole(config.need("vocab_size")),
        "rope.dimension_count": whole(head_size(config)),
    }


def _llama_shapes(config: Config) -> Iterator[tuple[str, Expected]]:
    sizes, count = Sizes(config), experts(config)
    mlp = gated("mlp", sizes.hidden, sizes.ff, config.flag("mlp_bias"))
    if count:
        mlp = linear("block_sparse_moe.gate", count, sizes.hidden)
        for expert in range(count):
            name = f"block_sparse_moe.experts.{expert}"
            mlp |= linear(f"{name}.w1", sizes.ff, sizes.hidden)
            mlp |= linear(f"{name}.w2", sizes.hidden, sizes.ff)
            mlp |= linear(f"{name}.w3", sizes.ff, sizes.hidden)
    return usual_decoder(config, bias=config.flag("attention_bias"), mlp=mlp)


def _granite_keys(config: Config) -> Keys:
    sizes = Sizes(config)
    head = None if sizes.queries == sizes.hidden else sizes.head
    numbers = {
        "attention.scale": config.number("attention_multiplier"),
        "embedding_scale": config.number("embedding_multiplier"),
        "residual_scale": config.number("residual_multiplier"),
        "logit_scale": config.number("logits_scaling"),
    }
    return {
        **common(config, head),
        **rotation(config, factors=True),
        **present({key: real(number) if number else None for key, number in numbers.items()}),
        "vocab_size": whole(sizes.vocabulary),
        "rope.dimension_count": whole(sizes.head),
    }


def _smollm3_keys(config: Config) -> Keys:
    return {
        **common(config, config.whole("head_dim")),
        **rotation(config, factors=True),
        "vocab_size": whole(config.need("vocab_size")),
        "rope.dimension_count": whole(head_size(config)),
    }


def _mistral3_keys(config: Config) -> Keys:
    keys, rope = _llama_keys(config), Rope(config).full
    if config.text("model_type") == "ministral3":
        numbers = {
            "rope.scaling.yarn_log_multiplier": rope.number("mscale_all_dim"),
            "attention.temperature_scale": rope.number("llama_4_scaling_beta"),
        }
        keys |= {key: real(number) for key, number in numbers.items() if number is not None}
    return keys


DEFAULTS = {"rope_theta": 10000.0, "rms_norm_eps": 1e-6, "max_position_embeddings": 2048}
ARCHITECTURES = (
    Architecture(
        "llama",
        ("LlamaForCausalLM", "LLaMAForCausalLM", "MistralForCausalLM", "MixtralForCausalLM"),
        _llama_keys,
        _llama_shapes,
        DEFAULTS,
        changes=PERMUTED,
        extra=_rope_factors,
    ),
    Architecture(
        "granite",
        ("GraniteForCausalLM",),
        _granite_keys,
        _llama_shapes,
        DEFAULTS,
        changes=PERMUTED,
        extra=_rope_factors,
    ),
    Architecture(
        "smollm3",
        ("SmolLM3ForCausalLM",),
        _smollm3_keys,
        _llama_shapes,
        {
            "rope_theta": 2e6,
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 32768,
            "tie_word_embeddings": True,
        },
        changes=PERMUTED,
        extra=_rope_factors,
    ),
    Architecture(
        "mistral3",
        ("Mistral3ForConditionalGeneration", "Ministral3ForCausalLM"),
        _mistral3_keys,
        _llama_shapes,
        {**DEFAULTS, "max_position_embeddings": 131072, "num_key_value_heads": 8, "head_dim": 128},
        changes=PERMUTED,
        extra=_rope_factors,
    ),
)

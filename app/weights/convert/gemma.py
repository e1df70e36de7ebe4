"""Gemma 1, 2 and 3."""

from collections.abc import Iterator

from app.weights.convert.architecture import Architecture
from app.weights.convert.config import Config
from app.weights.convert.keys import Keys, common, head_size, real, rotation, whole
from app.weights.convert.places import Step, plus_one
from app.weights.convert.shapes import BLOCK_NORMS, HEAD_NORMS, Expected, usual_decoder
from app.weights.model import WeightsError

NORMS_PLUS_ONE: tuple[tuple[str, Step], ...] = ((r"norm\.weight$", plus_one),)
MORE_NORMS = (*BLOCK_NORMS, "pre_feedforward_layernorm", "post_feedforward_layernorm")
DEFAULTS = {
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}


def without_rotation(config: Config) -> Keys:
    """Gemma 1 and 2 leave the usual rotation unsaid; another one can't be said."""
    keys = rotation(config)
    if keys.pop("rope.freq_base", real(10000.0)) == real(10000.0):
        return keys
    return rotation(config)


def _gemma_keys(config: Config) -> Keys:
    return common(config, head_size(config)) | without_rotation(config)


def check_attention_scale(config: Config, largest: int) -> None:
    """llama.cpp divides by the root of a head's size, in the model of `largest` blocks by that of
    the embedding's over the heads; GGUF has no key for another number."""
    scalar = config.number("query_pre_attn_scalar")
    right = float(head_size(config))
    if config.need("num_hidden_layers") == largest:
        right = float(config.need("hidden_size") // config.need("num_attention_heads"))
    if scalar is not None and scalar != right:
        raise WeightsError(
            f"config.json has query_pre_attn_scalar={scalar:g}; llama.cpp takes {right:g} for this"
            " model, and GGUF can't tell it otherwise."
        )


def _gemma2_keys(config: Config) -> Keys:
    check_attention_scale(config, 46)
    keys = _gemma_keys(config)
    for key, name in (
        ("attn_logit_softcapping", "attn_logit_softcapping"),
        ("final_logit_softcapping", "final_logit_softcapping"),
    ):
        value = config.number(name)
        if value is not None:
            keys[key] = real(value)
    return keys | {"attention.sliding_window": whole(config.need("sliding_window"))}


def _gemma3_keys(config: Config) -> Keys:
    check_attention_scale(config, 62)
    keys = common(config, head_size(config)) | rotation(config)
    cap = config.number("final_logit_softcapping")
    if cap:
        keys["final_logit_softcapping"] = real(cap)
    if config.whole("sliding_window_pattern", "_sliding_window_pattern") != 1:
        keys["attention.sliding_window"] = whole(config.need("sliding_window"))
    return keys


def _gemma_shapes(config: Config) -> Iterator[tuple[str, Expected]]:
    return usual_decoder(config, bias=config.flag("attention_bias"))


def _gemma2_shapes(config: Config) -> Iterator[tuple[str, Expected]]:
    return usual_decoder(config, bias=config.flag("attention_bias"), block_norms=MORE_NORMS)


def _gemma3_shapes(config: Config) -> Iterator[tuple[str, Expected]]:
    bias = config.flag("attention_bias")
    return usual_decoder(config, bias=bias, block_norms=MORE_NORMS, head_norms=HEAD_NORMS)


ARCHITECTURES = (
    Architecture(
        "gemma",
        ("GemmaForCausalLM",),
        _gemma_keys,
        _gemma_shapes,
        {**DEFAULTS, "num_attention_heads": 16, "num_key_value_heads": 16},
        changes=NORMS_PLUS_ONE,
    ),
    Architecture(
        "gemma2",
        ("Gemma2ForCausalLM",),
        _gemma2_keys,
        _gemma2_shapes,
        {
            **DEFAULTS,
            "query_pre_attn_scalar": 256,
            "sliding_window": 4096,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        },
        changes=NORMS_PLUS_ONE,
    ),
    Architecture(
        "gemma3",
        ("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
        _gemma3_keys,
        _gemma3_shapes,
        {
            **DEFAULTS,
            "vocab_size": 262208,
            "max_position_embeddings": 131072,
            "rope_theta": 1e6,
            "rope_local_base_freq": 10000.0,
            "query_pre_attn_scalar": 256,
            "sliding_window": 4096,
        },
        changes=NORMS_PLUS_ONE,
    ),
)

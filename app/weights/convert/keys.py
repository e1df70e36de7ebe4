"""config.json's values as GGUF's metadata: what all architectures have in common.

The keys are those of llama.cpp's llama-arch.cpp and of the GGUF specification, without the
architecture's name before them.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from app.formats.tensor_types import ARRAY, BOOL, FLOAT32, INT32, STRING, UINT32
from app.weights.convert.config import Config, Rope
from app.weights.model import Value, WeightsError

Keys = dict[str, Value]


def whole(number: int) -> Value:
    """A count."""
    return Value(UINT32, number)


def real(number: float) -> Value:
    """A float32."""
    return Value(FLOAT32, float(number))


def flag(truth: bool) -> Value:
    return Value(BOOL, truth)


def text(content: str) -> Value:
    return Value(STRING, content)


def wholes(numbers: Sequence[int]) -> Value:
    """A list of counts, of the type that llama.cpp's converter gives it."""
    return Value(ARRAY, list(numbers), INT32)


def flags(truths: Sequence[bool]) -> Value:
    return Value(ARRAY, list(truths), BOOL)


def present(pairs: Mapping[str, Value | None]) -> Keys:
    """Those keys that have a value."""
    return {key: value for key, value in pairs.items() if value is not None}


def head_size(config: Config) -> int:
    """Values of a head: `head_dim`, or the embedding's length over the number of heads."""
    given = config.whole("head_dim")
    return given or max(1, config.need("hidden_size") // config.need("num_attention_heads"))


def common(config: Config, head_dim: int | None = None) -> Keys:
    """The keys that most architectures have; `head_dim` only where they say it."""

    def count(key: str, *names: str) -> tuple[str, Value | None]:
        number = config.whole(*names, least=0)
        return key, None if number is None else whole(number)

    epsilon = config.number("rms_norm_eps")
    heads = config.need("num_attention_heads")
    return present(
        {
            "block_count": whole(config.need("num_hidden_layers")),
            **dict(
                (
                    count("context_length", "max_position_embeddings"),
                    count("embedding_length", "hidden_size"),
                    count("feed_forward_length", "intermediate_size"),
                    count("expert_count", "num_local_experts", "num_experts"),
                    count(
                        "expert_used_count",
                        "num_experts_per_tok",
                        "num_experts_per_token",
                        "top_k_experts",
                    ),
                )
            ),
            "attention.head_count": whole(heads),
            "attention.head_count_kv": whole(config.whole("num_key_value_heads") or heads),
            "attention.layer_norm_rms_epsilon": None if epsilon is None else real(epsilon),
            "attention.key_length": whole(head_dim) if head_dim else None,
            "attention.value_length": whole(head_dim) if head_dim else None,
        }
    )


def rotation(config: Config, *, factors: bool = False) -> Keys:
    """The keys of rotary positions. `factors` says that the architecture has a tensor of frequency
    factors for Llama 3's scaling."""
    rope = Rope(config)
    theta = rope.full.number("rope_theta")
    local = rope.sliding.number("rope_theta") if rope.sliding is not None else None
    keys = present(
        {
            "rope.freq_base": None if theta is None else real(theta),
            "rope.freq_base_swa": None if local is None else real(local),
        }
    )
    factor = rope.full.number("factor")
    if rope.type == "default" or (rope.type == "llama3" and factors):
        return keys
    if rope.type == "linear" and factor:
        return keys | {"rope.scaling.type": text("linear"), "rope.scaling.factor": real(factor)}
    if rope.type == "yarn" and factor:
        return keys | _yarn(rope.full, factor)
    raise WeightsError(
        f"config.json asks for rotary positions of the type {rope.type!r}, which this architecture"
        " doesn't have in GGUF."
    )


def _yarn(rope: Config, factor: float) -> Keys:
    numbers = {
        "rope.scaling.yarn_ext_factor": rope.number("extrapolation_factor"),
        "rope.scaling.yarn_attn_factor": rope.number("attention_factor", "attn_factor"),
        "rope.scaling.yarn_beta_fast": rope.number("beta_fast"),
        "rope.scaling.yarn_beta_slow": rope.number("beta_slow"),
    }
    return {
        "rope.scaling.type": text("yarn"),
        "rope.scaling.factor": real(factor),
        "rope.scaling.original_context_length": whole(
            rope.need("original_max_position_embeddings")
        ),
        **{key: real(number) for key, number in numbers.items() if number is not None},
    }


def llama3_factors(config: Config) -> "np.ndarray[tuple[int], np.dtype[np.float32]] | None":
    """What each frequency is divided by in Llama 3.1's scaling: 1 for short waves, `factor` for
    long ones, in between smoothly. (transformers' modeling_rope_utils.) None without it."""
    rope = Rope(config)
    if rope.type != "llama3":
        return None

    def number(key: str, default: float) -> float:
        value = rope.full.number(key)
        value = default if value is None else value
        if value <= 0:
            raise WeightsError(f"config.json's rotary positions have {key}={value}.")
        return value

    theta, factor = number("rope_theta", 10000.0), number("factor", 8.0)
    low, high = number("low_freq_factor", 1.0), number("high_freq_factor", 4.0)
    context = number("original_max_position_embeddings", 8192)
    if low >= high:
        raise WeightsError(
            f"config.json's rotary positions have low_freq_factor={low}, which isn't below"
            f" high_freq_factor={high}."
        )
    size = head_size(config)
    exponents = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
    frequencies = np.float32(1) / (np.float32(theta) ** exponents)
    waves = np.float32(2 * math.pi) / frequencies
    smooth = (np.float32(context) / waves - np.float32(low)) / np.float32(high - low)
    between = np.float32(1) / ((np.float32(1) - smooth) / np.float32(factor) + smooth)
    long = np.where(waves > np.float32(context / low), np.float32(factor), between)
    return np.where(waves < np.float32(context / high), np.float32(1), long)

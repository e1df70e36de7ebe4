"""The tiny models and adapters that real PEFT merges, for record_adapters and the replay of it."""

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float32]]
VOCABULARY, WIDTH, HEADS, KV_HEADS, FF, EXPERTS = 20, 32, 4, 2, 48, 3
MODELS: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": True},
    "qwen3_moe": {
        "num_experts": EXPERTS,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "head_dim": 8,
    },
}
COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "intermediate_size": FF,
    "num_hidden_layers": 2,
    "tie_word_embeddings": False,
}
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "down_proj"]
ADAPTERS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("llama", {"target_modules": PROJECTIONS}),
    "rslora with patterns": (
        "llama",
        {
            "target_modules": PROJECTIONS,
            "use_rslora": True,
            "rank_pattern": {r"layers\.1\..*": 2, "q_proj": 3},
            "alpha_pattern": {r".*\.0\.self_attn\.(q|k)_proj": 32, "v_proj": 5},
        },
    ),
    "dora": ("llama", {"target_modules": [*PROJECTIONS, "lm_head"], "use_dora": True}),
    "dora of an embedding": ("llama", {"target_modules": ["embed_tokens"], "use_dora": True}),
    "embedding and output": ("llama", {"target_modules": ["embed_tokens", "lm_head", "q_proj"]}),
    "modules_to_save": (
        "llama",
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head", "norm"]},
    ),
    "biases": ("llama", {"target_modules": ["q_proj", "k_proj"], "bias": "all"}),
    "lora_bias": ("llama", {"target_modules": ["q_proj", "k_proj"], "lora_bias": True}),
    "tokens": ("llama", {"target_modules": ["q_proj"], "trainable_token_indices": [3, 7]}),
    "experts": (
        "qwen3_moe",
        {
            "target_modules": ["q_proj"],
            "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
        },
    ),
}


def drawn(case: str, name: str, shape: tuple[int, ...]) -> Array:
    """The values of a tensor, which only its names say; lengths (DoRA) are above 1."""
    random = np.random.default_rng(zlib.crc32(f"{case}/{name}".encode()))
    values = random.normal(0, 0.3, shape).astype(np.float32)
    return np.abs(values) + 1 if "magnitude" in name else values


def probed(weights: Mapping[str, Any]) -> dict[str, list[float]]:
    """For each tensor, its product with a vector: a number for each row."""
    found = {}
    for name, values in weights.items():
        matrix = np.asarray(values, np.float64)
        vector = np.random.default_rng(0).normal(0, 1, matrix.shape[-1])
        product = matrix * vector if matrix.ndim == 1 else matrix @ vector
        found[name] = [float(f"{value:.10g}") for value in product.ravel()]
    return found

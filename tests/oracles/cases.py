"""The tiny models that are recorded: a class of transformers and what it is made of.

Their weights come from numpy and the case's name, so that no file holds them.
"""

from dataclasses import dataclass, field
from typing import Any

BASE: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.01, 1.02, 1.05, 1.1, 1.2, 1.4, 1.5],
    "long_factor": [1.0, 1.3, 1.9, 2.5, 4.0, 8.0, 16.0, 24.0],
    "original_max_position_embeddings": 256,
}


@dataclass(frozen=True)
class Case:
    """`model` and `config` are classes of transformers, `values` the config's beside BASE's;
    `dtype` is the type of the folder's tensors. `composite` cases nest `values` in text_config,
    beside a small vision model."""

    name: str
    model: str
    config: str
    values: dict[str, Any] = field(default_factory=dict)
    dtype: str = "BF16"
    shards: int = 1
    text_config: str | None = None
    old_style: bool = False


CASES = (
    Case("llama2", "LlamaForCausalLM", "LlamaConfig", {"num_key_value_heads": 4}, "F16"),
    Case("llama31", "LlamaForCausalLM", "LlamaConfig", {"rope_parameters": LLAMA3}, shards=2),
    Case(
        "llama32",
        "LlamaForCausalLM",
        "LlamaConfig",
        {"rope_parameters": LLAMA3, "tie_word_embeddings": True, "head_dim": 32},
        old_style=True,
    ),
    Case(
        "llama_linear",
        "LlamaForCausalLM",
        "LlamaConfig",
        {
            "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0},
            "attention_bias": True,
            "mlp_bias": True,
        },
        "F32",
    ),
    Case("mistral", "MistralForCausalLM", "MistralConfig", {"sliding_window": None}),
    Case("mixtral", "MixtralForCausalLM", "MixtralConfig", {"num_local_experts": 4}),
    Case("qwen2", "Qwen2ForCausalLM", "Qwen2Config", {"tie_word_embeddings": True}),
    Case("qwen2_yarn", "Qwen2ForCausalLM", "Qwen2Config", {"rope_parameters": YARN}),
    Case("qwen3", "Qwen3ForCausalLM", "Qwen3Config", {"head_dim": 32}),
    Case(
        "qwen2moe",
        "Qwen2MoeForCausalLM",
        "Qwen2MoeConfig",
        {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 64,
        },
    ),
    Case(
        "qwen3moe",
        "Qwen3MoeForCausalLM",
        "Qwen3MoeConfig",
        {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "head_dim": 32,
            "norm_topk_prob": True,
        },
    ),
    Case("gemma", "GemmaForCausalLM", "GemmaConfig", {"head_dim": 32}),
    Case(
        "gemma2",
        "Gemma2ForCausalLM",
        "Gemma2Config",
        {"head_dim": 32, "sliding_window": 64, "query_pre_attn_scalar": 32},
    ),
    Case(
        "gemma3",
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        {
            "head_dim": 32,
            "num_hidden_layers": 7,
            "sliding_window": 4,
            "query_pre_attn_scalar": 32,
        },
    ),
    Case(
        "gemma3_vision",
        "Gemma3ForConditionalGeneration",
        "Gemma3Config",
        {
            "head_dim": 32,
            "num_hidden_layers": 6,
            "sliding_window": 8,
            "query_pre_attn_scalar": 32,
        },
        text_config="Gemma3TextConfig",
    ),
    Case(
        "gemma4",
        "Gemma4ForCausalLM",
        "Gemma4TextConfig",
        {
            "head_dim": 32,
            "global_head_dim": 64,
            "num_hidden_layers": 4,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "num_kv_shared_layers": 2,
            "use_double_wide_mlp": True,
            "vocab_size_per_layer_input": 96,
            "hidden_size_per_layer_input": 64,
            "sliding_window": 4,
            "final_logit_softcapping": 30.0,
        },
    ),
    Case(
        "gemma4_experts",
        "Gemma4ForCausalLM",
        "Gemma4TextConfig",
        {
            "head_dim": 32,
            "global_head_dim": 64,
            "num_global_key_value_heads": 1,
            "attention_k_eq_v": True,
            "layer_types": ["sliding_attention", "full_attention"],
            "hidden_size_per_layer_input": 0,
            "enable_moe_block": True,
            "num_experts": 4,
            "top_k_experts": 2,
            "moe_intermediate_size": 32,
            "sliding_window": 4,
        },
    ),
    Case("phi3", "Phi3ForCausalLM", "Phi3Config", {"num_key_value_heads": 4}),
    Case(
        "phi4mini",
        "Phi3ForCausalLM",
        "Phi3Config",
        {
            "rope_parameters": {
                **LONG,
                "long_factor": LONG["long_factor"][:6],
                "short_factor": LONG["short_factor"][:6],
                "partial_rotary_factor": 0.75,
            },
            "original_max_position_embeddings": 256,
            "max_position_embeddings": 1024,
            "tie_word_embeddings": True,
        },
    ),
    Case(
        "phi3_long",
        "Phi3ForCausalLM",
        "Phi3Config",
        {
            "rope_parameters": {**LONG, "original_max_position_embeddings": 4},
            "original_max_position_embeddings": 4,
        },
    ),
    Case(
        "granite",
        "GraniteForCausalLM",
        "GraniteConfig",
        {
            "embedding_multiplier": 12.0,
            "attention_multiplier": 0.1,
            "residual_multiplier": 0.22,
            "logits_scaling": 8.0,
            "tie_word_embeddings": True,
        },
    ),
    Case("smollm3", "SmolLM3ForCausalLM", "SmolLM3Config", {"num_hidden_layers": 4}),
    Case("olmo2", "Olmo2ForCausalLM", "Olmo2Config"),
    Case(
        "ministral3",
        "Ministral3ForCausalLM",
        "Ministral3Config",
        {
            "head_dim": 32,
            "rope_parameters": {
                **YARN,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "llama_4_scaling_beta": 0.1,
            },
        },
    ),
    Case(
        "gpt_oss",
        "GptOssForCausalLM",
        "GptOssConfig",
        {
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "head_dim": 32,
            "sliding_window": 4,
            # The real one has truncate=False, which llama.cpp doesn't know: it always truncates.
            "rope_parameters": {**YARN, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": True},
        },
    ),
    Case(
        "qwen35",
        "Qwen3_5ForCausalLM",
        "Qwen3_5TextConfig",
        {
            "num_hidden_layers": 4,
            "head_dim": 32,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 32,
            "linear_value_head_dim": 32,
        },
    ),
)

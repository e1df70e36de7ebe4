"""adapter_config.json: each key changes nothing, is understood, or is refused by its name."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.formats.adapter_config import (
    CONVERT_WITH_PEFT,
    FUSE_WITH_MLX,
    MERGE_WITH_PEFT,
    AdapterConfig,
    AdapterConfigError,
    ollama_understands,
    read_adapter_config,
)
from app.formats.safetensors import SafetensorsError

# What peft 0.21's LoraConfig(r=4).to_dict() holds, with what save_pretrained adds.
DEFAULTS: dict[str, Any] = {
    "alora_invocation_tokens": None,
    "alpha_pattern": {},
    "arrow_config": None,
    "auto_mapping": None,
    "base_model_name_or_path": "org/tiny",
    "bias": "none",
    "corda_config": None,
    "ensure_weight_tying": False,
    "eva_config": None,
    "exclude_modules": None,
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "kasa_config": None,
    "layer_replication": None,
    "layers_pattern": None,
    "layers_to_transform": None,
    "loftq_config": {},
    "lora_alpha": 8,
    "lora_bias": False,
    "lora_dropout": 0.05,
    "lora_ga_config": None,
    "megatron_config": None,
    "megatron_core": "megatron.core",
    "modules_to_save": None,
    "monteclora_config": None,
    "peft_type": "LORA",
    "peft_version": "0.21.2",
    "qalora_group_size": 16,
    "r": 4,
    "rank_pattern": {},
    "revision": None,
    "target_modules": ["q_proj", "v_proj"],
    "target_parameters": None,
    "task_type": "CAUSAL_LM",
    "trainable_token_indices": None,
    "use_bdlora": None,
    "use_dora": False,
    "use_qalora": False,
    "use_rslora": False,
    "velora_config": None,
}


def read(**values: Any) -> AdapterConfig:
    return read_adapter_config(json.dumps({**DEFAULTS, **values}).encode())


def refusal(**values: Any) -> AdapterConfigError:
    with pytest.raises(AdapterConfigError) as refused:
        read(**values)
    return refused.value


def test_with_defaults() -> None:
    config = read_adapter_config(b'{"r": 4, "base_model_name_or_path": "org/tiny"}')
    assert (config.peft_type, config.r, config.lora_alpha) == ("LORA", 4, 8.0)
    assert config.base_model_name_or_path == "org/tiny"
    assert config == AdapterConfig("LORA", 4, 8.0, "org/tiny")
    assert read() == AdapterConfig("LORA", 4, 8.0, "org/tiny", alpha_as_written=8)


@pytest.mark.parametrize(
    "values",
    [
        {"exclude_modules": ["lm_head"]},
        {"layers_to_transform": [0, 1], "layers_pattern": "layers"},
        {"auto_mapping": {"base_model_class": "LlamaForCausalLM", "unsloth_fixed": True}},
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": False},
        {"init_lora_weights": "eva", "eva_config": {"rho": 2.0}},
        {"init_lora_weights": "orthogonal"},
        {"init_lora_weights": "mica"},
        {"velora_config": {"num_groups": 64}},
        {"a_key_of_next_year": None},
        {"a_key_of_next_year": False},
        {"a_key_of_next_year": {}},
    ],
    ids=str,
)
def test_what_changes_nothing(values: dict[str, Any]) -> None:
    assert read(**values) == read()


UNUSABLE: dict[str, tuple[dict[str, Any], str, str | None]] = {
    **{
        name: (
            {"init_lora_weights": name},
            f"says init_lora_weights='{name}': it was trained on a base model whose weights had"
            " been changed for it, and doesn't fit the original one",
            MERGE_WITH_PEFT if name == "loftq" else CONVERT_WITH_PEFT,
        )
        for name in ("pissa", "pissa_niter_16", "olora", "OLoRA", "corda", "lora_ga", "loftq")
    },
    "an initialisation of next year": (
        {"init_lora_weights": "newton"},
        "says init_lora_weights='newton', which isn't known here",
        MERGE_WITH_PEFT,
    ),
    "activated LoRA": (
        {"alora_invocation_tokens": [1, 2]},
        "is an activated LoRA, which acts only after its invocation tokens, so that no merged model"
        " can be the same (alora_invocation_tokens)",
        "PEFT doesn't merge it either: train a LoRA without alora_invocation_tokens.",
    ),
    "repeated layers": (
        {"layer_replication": [[0, 4], [2, 5]]},
        "repeats layers of its base model (layer_replication)",
        MERGE_WITH_PEFT,
    ),
    "Megatron": (
        {"megatron_config": {"num_layers": 2}},
        "was trained on Megatron's parallel layers (megatron_config)",
        MERGE_WITH_PEFT,
    ),
    "QALoRA": (
        {"use_qalora": True},
        "is a QALoRA, which PEFT can't merge either (use_qalora)",
        "Train it without use_qalora.",
    ),
    "Arrow": (
        {"arrow_config": {"top_k": 3}},
        "routes each token through several adapters, so that no merged model can be the same"
        " (arrow_config)",
        "Use one of those adapters alone.",
    ),
    "KaSA": (
        {"kasa_config": {"beta": 1e-4}},
        "is a KaSA adapter, which changed the base model's weights (kasa_config)",
        MERGE_WITH_PEFT,
    ),
    "BD-LoRA": (
        {"use_bdlora": {"nblocks": 2}},
        "is a BD-LoRA, whose matrices are block-diagonal (use_bdlora)",
        MERGE_WITH_PEFT,
    ),
    "a key of next year": (
        {"use_newton": True},
        "has 'use_newton': True, which isn't known here, so that the merged weights might be wrong",
        MERGE_WITH_PEFT,
    ),
    "rank 0": ({"r": 0}, "has the rank r=0; it must be a whole number from 1 to 65536", None),
    "a rank of 400 digits": (
        {"r": 10**400},
        f"has the rank r={str(10**400)[:60]}; it must be a whole number from 1 to 65536",
        None,
    ),
    "a text as alpha": (
        {"lora_alpha": "8"},
        "has lora_alpha='8'; it must be a number within reason",
        None,
    ),
    "infinite alpha": (
        {"lora_alpha": float("inf")},
        "has lora_alpha=inf; it must be a number within reason",
        None,
    ),
    "alpha of 400 digits": (
        {"lora_alpha": 10**400},
        f"has lora_alpha={str(10**400)[:60]}; it must be a number within reason",
        None,
    ),
    "modules_to_save as a number": (
        {"modules_to_save": 5},
        "has modules_to_save=5, which isn't a list of names",
        None,
    ),
    "a pattern of texts": (
        {"alpha_pattern": {"q": "x"}},
        "has alpha_pattern={'q': 'x'}, which doesn't map names to numbers",
        None,
    ),
    "a pattern of 400 digits": (
        {"rank_pattern": {"q": 10**400}},
        f"has rank_pattern={{'q': {str(10**400)[:54]}, which doesn't map names to numbers",
        None,
    ),
    "DoRA as a text": (
        {"use_dora": "yes"},
        "has use_dora='yes', which is neither true nor false",
        None,
    ),
    "another bias": (
        {"bias": "some"},
        "has bias='some'; none, all and lora_only are possible",
        None,
    ),
    "tokens below 0": (
        {"trainable_token_indices": [-1]},
        "has trainable_token_indices=[-1], which aren't token numbers",
        None,
    ),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_what_is_refused(name: str) -> None:
    values, message, hint = UNUSABLE[name]
    error = refusal(**values)
    assert (str(error), error.hint) == (message, hint)


def test_no_json() -> None:
    with pytest.raises(SafetensorsError, match="isn't a JSON object"):
        read_adapter_config(b"{")


def test_of_another_kind_nothing_more_is_read() -> None:
    config = read_adapter_config(b'{"peft_type": "IA3", "feedforward_modules": ["x"], "r": "x"}')
    assert config.peft_type == "IA3"


def test_trained_tokens_belong_to_an_embedding() -> None:
    assert read(trainable_token_indices=[3, 1]).token_indices == {"": (3, 1)}
    by_name = {"embed_tokens": [3], "lm_head": [4]}
    assert read(trainable_token_indices=by_name).token_indices == {
        "embed_tokens": (3,),
        "lm_head": (4,),
    }


def mlx(**values: Any) -> bytes:
    parameters = {"rank": 8, "dropout": 0.0, "scale": 20.0, **values.pop("parameters", {})}
    return json.dumps(
        {"fine_tune_type": "lora", "lora_parameters": parameters, "model": "org/tiny", **values}
    ).encode()


def test_mlx() -> None:
    config = read_adapter_config(mlx())
    assert (config.mlx_scale, config.r) == (20.0, 8)
    assert config.base_model_name_or_path == "org/tiny"
    assert read_adapter_config(mlx(fine_tune_type="dora")).use_dora
    assert read_adapter_config(mlx(parameters={"alpha": 8})).mlx_scale == 20.0


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (
            mlx(parameters={"alpha": 16}),
            "has lora_parameters.alpha=16, which some versions of mlx-lm multiplied the scale with"
            " and others didn't",
            FUSE_WITH_MLX,
        ),
        (
            mlx(fine_tune_type="prefix"),
            "says fine_tune_type='prefix'; lora, dora and full are known",
            FUSE_WITH_MLX,
        ),
        (
            mlx(parameters={"scale": None}),
            "has lora_parameters.scale=None; it must be a number within reason",
            None,
        ),
    ],
    ids=["alpha", "another kind", "no scale"],
)
def test_mlx_refused(text: bytes, message: str, hint: str | None) -> None:
    with pytest.raises(AdapterConfigError) as refused:
        read_adapter_config(text)
    assert (str(refused.value), refused.value.hint) == (message, hint)


Q = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("values", "names", "reason"),
    [
        ({}, [Q], None),
        ({"r": 64}, [], None),
        ({"lora_alpha": 8.0}, [], "Ollama reads lora_alpha only as a whole number above 0."),
        ({"lora_alpha": 0}, [], "Ollama reads lora_alpha only as a whole number above 0."),
        ({"use_rslora": True}, [], "Ollama doesn't know the adapter's use_rslora."),
        ({"use_dora": True}, [], "Ollama doesn't know the adapter's use_dora."),
        ({"alpha_pattern": {"q": 2}}, [], "Ollama doesn't know the adapter's alpha_pattern."),
        ({"modules_to_save": ["x"]}, [], "Ollama doesn't know the adapter's modules_to_save."),
        ({"bias": "all"}, [], "Ollama doesn't know the adapter's bias."),
        (
            {},
            [Q.replace("model.layers", "model.language_model.layers")],
            "Ollama doesn't know the adapter's tensor"
            " base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.weight.",
        ),
    ],
    ids=str,
)
def test_what_ollama_understands(
    values: dict[str, Any], names: list[str], reason: str | None
) -> None:
    assert ollama_understands(read(**values), names) == reason


def test_ollama_understands_no_mlx_adapter() -> None:
    reason = "Ollama doesn't know the scale of an MLX adapter."
    assert ollama_understands(read_adapter_config(mlx())) == reason


def test_ollama_needs_lora_alpha_to_be_there() -> None:
    config = read_adapter_config(b'{"r": 4}')
    reason = "Ollama reads lora_alpha only as a whole number above 0."
    assert ollama_understands(config) == reason


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
KEYS = st.sampled_from([*DEFAULTS, "fine_tune_type", "lora_parameters", "x"])


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(KEYS, JSON, max_size=6))
def test_any_values(values: dict[str, Any]) -> None:
    try:
        config = read_adapter_config(json.dumps(values).encode())
    except SafetensorsError:
        return
    ollama_understands(config)

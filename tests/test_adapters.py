"""Adapters of PEFT and mlx-lm merged into models, against their published formulas in float64.

Each test makes its own model and adapter. Within 2e-6 of the largest weight, what a test expects
of the tensors it names is all that changes.
"""

import json
from collections.abc import Mapping
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.weights.adapters import apply_adapter
from app.weights.model import Model, WeightsError
from tests.adapter_files import (
    FF,
    HEADS,
    KV,
    KV_HEADS,
    VOCABULARY,
    WIDTH,
    Array,
    adapter,
    dense,
    from_gguf_order,
    random_model,
    random_values,
    to_gguf_order,
    values_of,
)

PREFIX = "base_model.model."
LAYER = f"{PREFIX}model.layers.0."
RANK = 4


def pair(module: str, rows: int, columns: int, rank: int = RANK, seed: int = 1) -> dict[str, Array]:
    return {
        f"{module}.lora_A.weight": random_values(rank, columns, seed=seed),
        f"{module}.lora_B.weight": random_values(rows, rank, seed=seed + 100),
    }


def product(tensors: Mapping[str, Array], module: str, factor: float = 2.0) -> Array:
    """PEFT's delta of a linear layer: lora/layer.py, Linear.get_delta_weight."""
    a = tensors[f"{module}.lora_A.weight"].astype(np.float64)
    return factor * (tensors[f"{module}.lora_B.weight"].astype(np.float64) @ a)


def dora(weights: Array, change: Array, magnitude: Array, axis: int = 1) -> Array:
    """PEFT's DoRA: lora/variants.py, DoraLinearVariant.merge_safe."""
    changed = weights + change
    norm = np.linalg.norm(changed, axis=axis, keepdims=True)
    return np.expand_dims(magnitude.astype(np.float64), axis) / norm * changed


def assert_becomes(before: Model, after: Model, expected: Mapping[str, Array]) -> None:
    old, new = values_of(before), values_of(after)
    assert new.keys() == old.keys() | expected.keys()
    for name, values in new.items():
        wanted = expected.get(name, old.get(name))
        assert wanted is not None
        assert values.shape == wanted.shape, name
        assert np.abs(values - wanted).max() <= 2e-6 * np.abs(wanted).max(), name


Q = f"{LAYER}self_attn.q_proj"
UP = f"{LAYER}mlp.up_proj"


@pytest.mark.parametrize("architecture", ["llama", "granite", "arcee", "qwen2", "gemma", "olmo2"])
@pytest.mark.parametrize(
    ("settings", "factor"),
    [
        ({}, 2.0),
        ({"use_rslora": True}, 8 / sqrt(RANK)),
        ({"alpha_pattern": {"up_proj": 1, r"0\.self_attn\.(q|k)_proj": 32, "q_proj": 3}}, 8.0),
        ({"r": 64, "rank_pattern": {"q_proj|k_proj": RANK}}, 2.0),
        ({"alpha_pattern": {"q_proj|k_proj": 16}, "use_rslora": True}, 16 / sqrt(RANK)),
    ],
    ids=["plain", "rslora", "alpha_pattern", "rank_pattern", "rslora and alpha_pattern"],
)
def test_linear_layers(
    tmp_path: Path, architecture: str, settings: dict[str, Any], factor: float
) -> None:
    model = random_model(architecture, dense())
    k = f"{LAYER}self_attn.k_proj"
    tensors = pair(Q, WIDTH, WIDTH) | pair(k, KV, WIDTH, seed=2)
    merged = apply_adapter(model, adapter(tmp_path, tensors, settings))
    changes = {"q": product(tensors, Q, factor), "k": product(tensors, k, factor)}
    if architecture in ("llama", "granite", "arcee"):
        changes["q"] = to_gguf_order(changes["q"], HEADS)
        changes["k"] = to_gguf_order(changes["k"], KV_HEADS)
    old = values_of(model)
    expected = {f"blk.0.attn_{n}.weight": old[f"blk.0.attn_{n}.weight"] + changes[n] for n in "qk"}
    assert_becomes(model, merged, expected)


NAMES = {
    "PEFT's": "base_model.model.model.layers.0.mlp.up_proj.lora_{}.weight",
    "without prefix": "model.layers.0.mlp.up_proj.lora_{}.weight",
    "an adapter's name": "base_model.model.model.layers.0.mlp.up_proj.lora_{}.default.weight",
    "a name with a hyphen": "base_model.model.model.layers.0.mlp.up_proj.lora_{}.my-lora.weight",
    "part of a vision model": (
        "base_model.model.model.language_model.layers.0.mlp.up_proj.lora_{}.weight"
    ),
    "as older transformers": (
        "base_model.model.language_model.model.layers.0.mlp.up_proj.lora_{}.weight"
    ),
    "a model without a head": "base_model.model.layers.0.mlp.up_proj.lora_{}.weight",
}


@pytest.mark.parametrize("name", NAMES)
def test_names(tmp_path: Path, name: str) -> None:
    model = random_model("llama", dense())
    tensors = pair("x", FF, WIDTH)
    named = {NAMES[name].format(side): tensors[f"x.lora_{side}.weight"] for side in "AB"}
    merged = apply_adapter(model, adapter(tmp_path, named))
    key = "blk.0.ffn_up.weight"
    assert_becomes(model, merged, {key: values_of(model)[key] + product(tensors, "x")})


@pytest.mark.parametrize("suffix", ["", ".weight", ".default", ".my-lora.weight"])
def test_dora(tmp_path: Path, suffix: str) -> None:
    model = random_model("llama", dense())
    length = np.abs(random_values(WIDTH, seed=9)) + 1
    tensors = pair(Q, WIDTH, WIDTH)
    files = adapter(
        tmp_path, tensors | {f"{Q}.lora_magnitude_vector{suffix}": length}, {"use_dora": True}
    )
    key = "blk.0.attn_q.weight"
    weights = from_gguf_order(values_of(model)[key], HEADS)
    expected = to_gguf_order(dora(weights, product(tensors, Q), length), HEADS)
    assert_becomes(model, apply_adapter(model, files), {key: expected})


EMBED, HEAD_KEY = f"{PREFIX}model.embed_tokens", f"{PREFIX}lm_head"


def embedding_pair(rows: int = VOCABULARY) -> dict[str, Array]:
    return {
        f"{EMBED}.lora_embedding_A": random_values(RANK, rows, seed=5),
        f"{EMBED}.lora_embedding_B": random_values(WIDTH, RANK, seed=6),
    }


def embedding_product(tensors: Mapping[str, Array]) -> Array:
    """lora/layer.py, Embedding.get_delta_weight."""
    a = tensors[f"{EMBED}.lora_embedding_A"].astype(np.float64)
    change: Array = 2.0 * (tensors[f"{EMBED}.lora_embedding_B"].astype(np.float64) @ a).T
    return change


def test_lora_on_embedding_and_output(tmp_path: Path) -> None:
    model = random_model("qwen2", dense())
    tensors = embedding_pair() | pair(HEAD_KEY, VOCABULARY, WIDTH)
    merged = apply_adapter(model, adapter(tmp_path, tensors))
    old = values_of(model)
    expected = {
        "token_embd.weight": old["token_embd.weight"] + embedding_product(tensors),
        "output.weight": old["output.weight"] + product(tensors, HEAD_KEY),
    }
    assert_becomes(model, merged, expected)


def test_dora_on_an_embedding_is_by_column(tmp_path: Path) -> None:
    model = random_model("llama", dense())
    length = np.abs(random_values(WIDTH, seed=9)) + 1
    tensors = embedding_pair() | {f"{EMBED}.lora_magnitude_vector": length}
    merged = apply_adapter(model, adapter(tmp_path, tensors, {"use_dora": True}))
    old = values_of(model)["token_embd.weight"]
    expected = dora(old, embedding_product(tensors), length, axis=0)
    assert_becomes(model, merged, {"token_embd.weight": expected})


SAVED = {
    "PEFT's": "{}.weight",
    "with its wrapper": "{}.modules_to_save.weight",
    "with its adapter's name": "{}.modules_to_save.default.weight",
}


@pytest.mark.parametrize("form", SAVED)
def test_modules_to_save(tmp_path: Path, form: str) -> None:
    model = random_model("llama", dense())
    embedding = random_values(VOCABULARY, WIDTH, seed=7)
    head = random_values(VOCABULARY, WIDTH, seed=8).astype(np.float16)
    query = random_values(WIDTH, WIDTH, seed=9)
    norm = random_values(WIDTH, seed=10)
    tensors = {
        SAVED[form].format(EMBED): embedding,
        SAVED[form].format(HEAD_KEY): head,
        SAVED[form].format(Q): query,
        SAVED[form].format(f"{LAYER}input_layernorm"): norm,
    }
    files = adapter(tmp_path, tensors, {"modules_to_save": ["embed_tokens", "lm_head"]})
    expected = {
        "token_embd.weight": embedding,
        "output.weight": head,
        "blk.0.attn_q.weight": to_gguf_order(query, HEADS),
        "blk.0.attn_norm.weight": norm,
    }
    assert_becomes(model, apply_adapter(model, files), expected)


def test_a_saved_norm_of_gemma_gets_the_one_that_its_base_has(tmp_path: Path) -> None:
    model = random_model("gemma2", dense(tied=True))
    norm = random_values(WIDTH)
    files = adapter(tmp_path, {f"{PREFIX}model.norm.weight": norm})
    expected = {"output_norm.weight": norm.astype(np.float64) + 1}
    assert_becomes(model, apply_adapter(model, files), expected)


def test_a_saved_head_of_a_tied_base_becomes_its_output(tmp_path: Path) -> None:
    model = random_model("llama", dense(tied=True))
    head = random_values(VOCABULARY, WIDTH, seed=8)
    merged = apply_adapter(model, adapter(tmp_path, {f"{HEAD_KEY}.weight": head}))
    assert_becomes(model, merged, {"output.weight": head})
    assert merged.notes == (
        "The base model's output was its embedding; trained apart, it got a tensor of its own"
        " (output.weight).",
    )


def test_lora_on_the_head_of_a_tied_base(tmp_path: Path) -> None:
    model = random_model("llama", dense(tied=True))
    tensors = pair(HEAD_KEY, VOCABULARY, WIDTH)
    merged = apply_adapter(model, adapter(tmp_path, tensors))
    expected = values_of(model)["token_embd.weight"] + product(tensors, HEAD_KEY)
    assert_becomes(model, merged, {"output.weight": expected})


@pytest.mark.parametrize("how", ["LoRA", "saved"])
def test_an_embedding_trained_alone_leaves_a_tied_output_as_it_was(
    tmp_path: Path, how: str
) -> None:
    model = random_model("llama", dense(tied=True))
    old = values_of(model)["token_embd.weight"]
    tensors = embedding_pair()
    new = old + embedding_product(tensors)
    if how == "saved":
        tensors = {f"{EMBED}.weight": random_values(VOCABULARY, WIDTH, seed=7)}
        new = tensors[f"{EMBED}.weight"]
    merged = apply_adapter(model, adapter(tmp_path, tensors))
    assert_becomes(model, merged, {"token_embd.weight": new, "output.weight": old})
    tied = apply_adapter(model, adapter(tmp_path, tensors, {"ensure_weight_tying": True}))
    assert_becomes(model, tied, {"token_embd.weight": new})


def test_the_same_saved_twice_stays_tied(tmp_path: Path) -> None:
    model = random_model("gemma2", dense(tied=True))
    both = random_values(VOCABULARY, WIDTH, seed=7)
    files = adapter(tmp_path, {f"{EMBED}.weight": both, f"{HEAD_KEY}.weight": both})
    assert_becomes(model, apply_adapter(model, files), {"token_embd.weight": both})


def test_a_model_without_an_output_of_its_own_cannot_be_parted(tmp_path: Path) -> None:
    model = random_model("gemma2", dense(tied=True))
    files = adapter(tmp_path, pair(HEAD_KEY, VOCABULARY, WIDTH))
    with pytest.raises(WeightsError, match="a gemma2 model has one tensor for both") as refusal:
        apply_adapter(model, files)
    assert "ensure_weight_tying" in str(refusal.value.hint)


@pytest.mark.parametrize("form", ["{}.bias", "{}.base_layer.bias"])
def test_trained_biases(tmp_path: Path, form: str) -> None:
    model = random_model("llama", dense(bias=True))
    bias, value_bias = random_values(WIDTH, seed=3), random_values(KV, seed=4)
    tensors = pair(Q, WIDTH, WIDTH) | {
        form.format(Q): bias,
        form.format(f"{LAYER}self_attn.v_proj"): value_bias,
    }
    merged = apply_adapter(model, adapter(tmp_path, tensors, {"bias": "lora_only"}))
    weights = values_of(model)["blk.0.attn_q.weight"]
    expected = {
        "blk.0.attn_q.weight": weights + to_gguf_order(product(tensors, Q), HEADS),
        "blk.0.attn_q.bias": to_gguf_order(bias, HEADS),
        "blk.0.attn_v.bias": value_bias,
    }
    assert_becomes(model, merged, expected)


def test_lora_bias(tmp_path: Path) -> None:
    model = random_model("llama", dense(bias=True))
    bias = random_values(WIDTH, seed=3)
    tensors = pair(Q, WIDTH, WIDTH)
    files = adapter(tmp_path, tensors | {f"{Q}.lora_B.bias": bias}, {"lora_bias": True})
    old = values_of(model)
    expected = {
        "blk.0.attn_q.weight": old["blk.0.attn_q.weight"]
        + to_gguf_order(product(tensors, Q), HEADS),
        "blk.0.attn_q.bias": old["blk.0.attn_q.bias"]
        + to_gguf_order(2.0 * bias.astype(np.float64), HEADS),
    }
    assert_becomes(model, apply_adapter(model, files), expected)


@pytest.mark.parametrize("indices", [[7, 3], {"embed_tokens": [7, 3]}], ids=str)
def test_trained_tokens(tmp_path: Path, indices: Any) -> None:
    model = random_model("llama", dense(tied=True))
    rows = random_values(2, WIDTH)
    key = f"{EMBED}.token_adapter.trainable_tokens_delta"
    files = adapter(tmp_path, {key: rows}, {"trainable_token_indices": indices})
    expected = values_of(model)["token_embd.weight"]
    expected[[7, 3]] = rows
    assert_becomes(model, apply_adapter(model, files), {"token_embd.weight": expected})


EXPERTS, INNER = 3, 24


def moe(experts: int = EXPERTS) -> dict[str, tuple[int, ...]]:
    shapes = {name: shape for name, shape in dense().items() if ".ffn_" not in name}
    for number in range(2):
        shapes[f"blk.{number}.ffn_gate_inp.weight"] = (experts, WIDTH)
        shapes[f"blk.{number}.ffn_gate_exps.weight"] = (experts, INNER, WIDTH)
        shapes[f"blk.{number}.ffn_up_exps.weight"] = (experts, INNER, WIDTH)
        shapes[f"blk.{number}.ffn_down_exps.weight"] = (experts, WIDTH, INNER)
    return shapes


@pytest.mark.parametrize(
    ("architecture", "names"),
    [
        ("qwen3moe", "mlp.experts.{}.gate_proj mlp.experts.{}.down_proj mlp.gate"),
        ("llama", "block_sparse_moe.experts.{}.w1 block_sparse_moe.experts.{}.w2"),
    ],
)
def test_lora_on_single_experts(tmp_path: Path, architecture: str, names: str) -> None:
    model = random_model(architecture, moe(), expert_count=EXPERTS)
    gate, down, *router = [LAYER + name.format(2) for name in names.split()]
    tensors = pair(gate, INNER, WIDTH) | pair(down, WIDTH, INNER, seed=2)
    old = values_of(model)
    expected = {
        name: old[name] for name in ("blk.0.ffn_gate_exps.weight", "blk.0.ffn_down_exps.weight")
    }
    expected["blk.0.ffn_gate_exps.weight"][2] += product(tensors, gate)
    expected["blk.0.ffn_down_exps.weight"][2] += product(tensors, down)
    for name in router:
        tensors |= pair(name, EXPERTS, WIDTH, seed=3)
        key = "blk.0.ffn_gate_inp.weight"
        expected[key] = old[key] + product(tensors, name)
    assert_becomes(model, apply_adapter(model, adapter(tmp_path, tensors)), expected)


def experts_product(a: Array, b: Array, factor: float) -> Array:
    """lora/layer.py, ParamWrapper.get_delta_weight, of parameters (experts, out, in)."""
    one = a.astype(np.float64).reshape(EXPERTS, -1, a.shape[1])
    other = b.astype(np.float64).reshape(b.shape[0], -1, EXPERTS)
    change: Array = factor * np.einsum("ore,eri->eoi", other, one)
    return change


@pytest.mark.parametrize("architecture", ["qwen3moe", "llama"])
@pytest.mark.parametrize("rslora", [False, True])
def test_target_parameters(tmp_path: Path, architecture: str, rslora: bool) -> None:
    model = random_model(architecture, moe(), expert_count=EXPERTS)
    outer, inner = f"{LAYER}mlp.experts", f"{LAYER}mlp.experts.base_layer"
    tensors = {
        f"{inner}.lora_A.weight": random_values(RANK * EXPERTS, WIDTH, seed=1),
        f"{inner}.lora_B.weight": random_values(2 * INNER, RANK * EXPERTS, seed=2),
        f"{outer}.lora_A.weight": random_values(RANK * EXPERTS, INNER, seed=3),
        f"{outer}.lora_B.weight": random_values(WIDTH, RANK * EXPERTS, seed=4),
    }
    settings = {
        "target_parameters": ["mlp.experts.down_proj", "mlp.experts.gate_up_proj"],
        "use_rslora": rslora,
        "alpha_pattern": {r"experts\.down_proj": 2},
    }
    rank = sqrt(RANK) if rslora else RANK
    sides = {
        name: [tensors[f"{name}.lora_{side}.weight"] for side in "AB"] for name in (outer, inner)
    }
    gate_up = experts_product(*sides[inner], 8 / rank)
    down = experts_product(*sides[outer], 2 / rank)
    old = values_of(model)
    expected = {
        "blk.0.ffn_gate_exps.weight": old["blk.0.ffn_gate_exps.weight"] + gate_up[:, :INNER],
        "blk.0.ffn_up_exps.weight": old["blk.0.ffn_up_exps.weight"] + gate_up[:, INNER:],
        "blk.0.ffn_down_exps.weight": old["blk.0.ffn_down_exps.weight"] + down,
    }
    assert_becomes(model, apply_adapter(model, adapter(tmp_path, tensors, settings)), expected)


def phi3() -> dict[str, tuple[int, ...]]:
    shapes = {}
    for name, shape in dense().items():
        if name.endswith("attn_q.weight"):
            shapes[name.replace("attn_q", "attn_qkv")] = (WIDTH + 2 * KV, WIDTH)
        elif name.endswith("ffn_up.weight"):
            shapes[name] = (2 * FF, WIDTH)
        elif not name.endswith(("attn_k.weight", "attn_v.weight", "ffn_gate.weight")):
            shapes[name] = shape
    return shapes


def test_separate_projections_on_a_fused_base(tmp_path: Path) -> None:
    model = random_model("phi3", phi3())
    modules = {
        "self_attn.q_proj": ("attn_qkv", 0, WIDTH),
        "self_attn.k_proj": ("attn_qkv", WIDTH, KV),
        "self_attn.v_proj": ("attn_qkv", WIDTH + KV, KV),
        "mlp.gate_proj": ("ffn_up", 0, FF),
        "mlp.up_proj": ("ffn_up", FF, FF),
    }
    tensors: dict[str, Array] = {}
    expected = {
        f"blk.0.{n}.weight": values_of(model)[f"blk.0.{n}.weight"] for n, *_ in modules.values()
    }
    length = np.abs(random_values(KV, seed=9)) + 1
    for seed, (module, (name, start, count)) in enumerate(modules.items()):
        tensors |= pair(LAYER + module, count, WIDTH, seed=seed)
        part = expected[f"blk.0.{name}.weight"][start : start + count]
        change = product(tensors, LAYER + module)
        if module.endswith("k_proj"):
            tensors[f"{LAYER}{module}.lora_magnitude_vector"] = length
            part[:] = dora(part, change, length)
        else:
            part += change
    merged = apply_adapter(model, adapter(tmp_path, tensors, {"use_dora": True}))
    assert_becomes(model, merged, expected)


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_fused_projections_on_a_separate_base(tmp_path: Path, architecture: str) -> None:
    model = random_model(architecture, dense())
    qkv, gate_up = f"{LAYER}self_attn.qkv_proj", f"{LAYER}mlp.gate_up_proj"
    tensors = pair(qkv, WIDTH + 2 * KV, WIDTH) | pair(gate_up, 2 * FF, WIDTH, seed=2)
    q, k, v = np.split(product(tensors, qkv), [WIDTH, WIDTH + KV])
    if architecture == "llama":
        q, k = to_gguf_order(q, HEADS), to_gguf_order(k, KV_HEADS)
    gate, up = np.split(product(tensors, gate_up), 2)
    changes = {"attn_q": q, "attn_k": k, "attn_v": v, "ffn_gate": gate, "ffn_up": up}
    old = values_of(model)
    expected = {
        f"blk.0.{name}.weight": old[f"blk.0.{name}.weight"] + change
        for name, change in changes.items()
    }
    assert_becomes(model, apply_adapter(model, adapter(tmp_path, tensors)), expected)


def test_fan_in_fan_out_is_turned_round(tmp_path: Path) -> None:
    model = random_model("qwen2", dense())
    down = f"{LAYER}mlp.down_proj"
    tensors = pair(down, FF, WIDTH)
    merged = apply_adapter(model, adapter(tmp_path, tensors, {"fan_in_fan_out": True}))
    key = "blk.0.ffn_down.weight"
    assert_becomes(model, merged, {key: values_of(model)[key] + product(tensors, down).T})


MLX = {"fine_tune_type": "lora", "lora_parameters": {"rank": RANK, "scale": 20.0}}


def mlx_pair(module: str, rows: int, columns: int) -> tuple[dict[str, Array], Array]:
    """The tensors, and mlx-lm's change: tuner/lora.py, LoRALinear.fuse."""
    a, b = random_values(columns, RANK, seed=1), random_values(RANK, rows, seed=2)
    change: Array = 20.0 * (b.astype(np.float64).T @ a.astype(np.float64).T)
    return {f"{module}.lora_a": a, f"{module}.lora_b": b}, change


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_mlx(tmp_path: Path, kind: str) -> None:
    model = random_model("llama", dense())
    name = "model.layers.0.self_attn.k_proj"
    tensors, change = mlx_pair(name, KV, WIDTH)
    key = "blk.0.attn_k.weight"
    weights = from_gguf_order(values_of(model)[key], KV_HEADS)
    expected = weights + change
    if kind == "dora":
        length = np.abs(random_values(KV, seed=9)) + 1
        tensors[f"{name}.m"] = length
        expected = dora(weights, change, length)
    files = adapter(tmp_path, tensors, {**MLX, "fine_tune_type": kind}, mlx=True)
    assert_becomes(model, apply_adapter(model, files), {key: to_gguf_order(expected, KV_HEADS)})


def test_mlx_on_an_embedding(tmp_path: Path) -> None:
    model = random_model("llama", dense(tied=True))
    a, b = random_values(VOCABULARY, RANK, seed=1), random_values(RANK, WIDTH, seed=2)
    tensors = {"model.embed_tokens.lora_a": a, "model.embed_tokens.lora_b": b}
    merged = apply_adapter(model, adapter(tmp_path, tensors, MLX, mlx=True))
    change = 20.0 * (a.astype(np.float64) @ b.astype(np.float64))
    expected = values_of(model)["token_embd.weight"] + change
    assert_becomes(model, merged, {"token_embd.weight": expected})


@pytest.mark.parametrize("name", ["mlp.switch_mlp", "block_sparse_moe.switch_mlp"])
def test_mlx_on_experts(tmp_path: Path, name: str) -> None:
    model = random_model("llama" if "block" in name else "qwen3moe", moe(), expert_count=EXPERTS)
    a = random_values(EXPERTS, RANK, INNER, seed=1)
    b = random_values(EXPERTS, WIDTH, RANK, seed=2)
    module = f"model.layers.1.{name}.down_proj"
    files = adapter(tmp_path, {f"{module}.lora_a": a, f"{module}.lora_b": b}, MLX, mlx=True)
    change = 20.0 * (b.astype(np.float64) @ a.astype(np.float64))
    key = "blk.1.ffn_down_exps.weight"
    assert_becomes(model, apply_adapter(model, files), {key: values_of(model)[key] + change})


def test_mlx_of_whole_tensors(tmp_path: Path) -> None:
    model = random_model("llama", dense())
    query = random_values(WIDTH, WIDTH)
    tensors = {"model.layers.1.self_attn.q_proj.weight": query}
    files = adapter(tmp_path, tensors, {"fine_tune_type": "full"}, mlx=True)
    expected = {"blk.1.attn_q.weight": to_gguf_order(query, HEADS)}
    assert_becomes(model, apply_adapter(model, files), expected)


def added_tokens(folder: Path, tokens: list[str]) -> Path:
    path = folder / "tokenizer.json"
    listed = [
        {"id": VOCABULARY + number, "content": token, "special": True}
        for number, token in enumerate(tokens)
    ]
    path.write_text(json.dumps({"model": {"type": "BPE", "vocab": {}}, "added_tokens": listed}))
    return path


@pytest.mark.parametrize("tied", [False, True])
def test_new_tokens_get_rows(tmp_path: Path, tied: bool) -> None:
    model = random_model("llama", dense(tied=tied), vocab_size=VOCABULARY)
    table = random_values(VOCABULARY + 4, WIDTH, seed=7)
    change = pair(HEAD_KEY, VOCABULARY + 4, WIDTH)
    tensors = {f"{EMBED}.weight": table, f"{HEAD_KEY}.base_layer.weight": table, **change}
    files = [*adapter(tmp_path, tensors), added_tokens(tmp_path, ["<a>", "<b>"])]
    merged = apply_adapter(model, files)
    expected = {"token_embd.weight": table, "output.weight": table + product(tensors, HEAD_KEY)}
    assert_becomes(model, merged, expected)
    tokens = merged.metadata["tokenizer.ggml.tokens"]
    assert tokens.content[VOCABULARY - 1 :] == ["t19", "<a>", "<b>", "[PAD22]", "[PAD23]"]
    assert len(merged.metadata["tokenizer.ggml.token_type"].content) == VOCABULARY + 4
    assert merged.metadata["llama.vocab_size"].content == VOCABULARY + 4
    assert (
        "The adapter adds 2 tokens to the vocabulary: '<a>', '<b>'; 2 rows are no tokens."
        in merged.notes
    )


def test_new_rows_need_a_tokenizer(tmp_path: Path) -> None:
    model = random_model("llama", dense(tied=True))
    files = adapter(tmp_path, {f"{EMBED}.weight": random_values(VOCABULARY + 4, WIDTH)})
    with pytest.raises(WeightsError) as refusal:
        apply_adapter(model, files)
    assert str(refusal.value) == (
        "The adapter's embedding has 24 rows, but the base model has 20 tokens."
    )
    assert "tokenizer.json" in str(refusal.value.hint)


def test_the_scale_multiplies_low_rank_changes_alone(tmp_path: Path) -> None:
    model = random_model("qwen2", dense())
    norm = random_values(WIDTH)
    tensors = pair(UP, FF, WIDTH) | {f"{PREFIX}model.norm.weight": norm}
    merged = apply_adapter(model, adapter(tmp_path, tensors), 0.25)
    key = "blk.0.ffn_up.weight"
    expected = {key: values_of(model)[key] + product(tensors, UP, 0.5), "output_norm.weight": norm}
    assert_becomes(model, merged, expected)
    assert merged.notes == (
        "The scale of 0.25 applies to low-rank changes; 1 tensors that the adapter replaces were"
        " taken whole.",
    )


def test_what_has_no_effect_changes_no_tensor(tmp_path: Path) -> None:
    model = random_model("llama", dense())
    merged = apply_adapter(model, adapter(tmp_path, pair(Q, WIDTH, WIDTH)), 0.0)
    assert merged.tensors == model.tensors


def test_a_second_time_is_refused(tmp_path: Path) -> None:
    model = random_model("llama", dense())
    files = adapter(tmp_path, pair(Q, WIDTH, WIDTH))
    merged = apply_adapter(model, files)
    with pytest.raises(WeightsError) as refusal:
        apply_adapter(merged, files)
    assert str(refusal.value) == (
        "The base is the merged model of adapter_model.safetensors already."
    )
    (tmp_path / "other").mkdir()
    other = adapter(tmp_path / "other", pair(UP, FF, WIDTH))
    apply_adapter(apply_adapter(merged, other), adapter(tmp_path, pair(UP, FF, WIDTH, seed=5)))


A_KEY, B_KEY = f"{Q}.lora_A.weight", f"{Q}.lora_B.weight"
PLAIN = pair(Q, WIDTH, WIDTH)
REFUSED: dict[str, tuple[dict[str, Any], dict[str, Array], str]] = {
    "another kind": ({"peft_type": "IA3"}, PLAIN, "The adapter is IA3; only LoRA can be merged."),
    "nothing": ({}, {}, "The adapter holds no weights."),
    "half a pair": (
        {},
        {A_KEY: PLAIN[A_KEY]},
        "The adapter holds only half of the pair for model.layers.0.self_attn.q_proj.",
    ),
    "ranks differ": (
        {},
        {A_KEY: PLAIN[A_KEY], B_KEY: random_values(WIDTH, RANK + 1)},
        "The adapter's two halves for model.layers.0.self_attn.q_proj differ in rank.",
    ),
    "vectors as a pair": (
        {},
        {A_KEY: random_values(WIDTH), B_KEY: random_values(WIDTH)},
        "The adapter's pair for model.layers.0.self_attn.q_proj isn't of two matrices.",
    ),
    "an empty half": (
        {},
        {A_KEY: np.zeros((0, WIDTH), np.float32), B_KEY: np.zeros((WIDTH, 0), np.float32)},
        f"The adapter's {A_KEY} is empty.",
    ),
    "F64": (
        {},
        {key: values.astype(np.float64) for key, values in PLAIN.items()},
        f"The adapter holds {A_KEY} as F64; F32, F16 and BF16 can be merged.",
    ),
    "I8": (
        {},
        {key: values.astype(np.int8) for key, values in PLAIN.items()},
        f"The adapter holds {A_KEY} as I8; F32, F16 and BF16 can be merged.",
    ),
    "another width": (
        {},
        pair(Q, WIDTH, 2 * WIDTH),
        "The adapter's change of blk.0.attn_q.weight makes 32x64 where the base has 32x32.",
    ),
    "one column": (
        {},
        pair(Q, WIDTH, 1),
        "The adapter's change of blk.0.attn_q.weight makes 32x1 where the base has 32x32.",
    ),
    "a deeper base": (
        {},
        pair(Q.replace("layers.0", "layers.7"), WIDTH, WIDTH),
        "The adapter changes model.layers.7.self_attn.q_proj, which the base model doesn't have.",
    ),
    "a module that isn't there": (
        {},
        pair(f"{LAYER}self_attn.z_proj", WIDTH, WIDTH),
        "The adapter changes model.layers.0.self_attn.z_proj, which the base model doesn't have.",
    ),
    "an unknown part": (
        {},
        PLAIN | {f"{Q}.lora_C.weight": random_values(2, 2)},
        f"The adapter holds {Q}.lora_C.weight, which is no half of a LoRA pair.",
    ),
    "several adapters": (
        {},
        {
            key.replace(".weight", f".{name}.weight"): values
            for name, key, values in (("one", A_KEY, PLAIN[A_KEY]), ("two", B_KEY, PLAIN[B_KEY]))
        },
        "The file holds several adapters: one, two.",
    ),
    "magnitudes of another layer": (
        {"use_dora": True},
        PLAIN | {f"{Q}.lora_magnitude_vector": random_values(WIDTH + 1)},
        "The adapter has 33 magnitudes for model.layers.0.self_attn.q_proj, where 32 are needed.",
    ),
    "a bias that the base lacks": (
        {"bias": "all"},
        {f"{Q}.bias": random_values(WIDTH)},
        "The adapter changes model.layers.0.self_attn.q_proj.bias, which the base model doesn't"
        " have.",
    ),
    "a smaller vocabulary": (
        {},
        {f"{EMBED}.weight": random_values(VOCABULARY - 1, WIDTH)},
        "The adapter's embedding has 19 rows, but the base model's 20.",
    ),
    "an output of another size": (
        {},
        {f"{HEAD_KEY}.weight": random_values(VOCABULARY + 1, WIDTH)},
        "The embedding would have 20 rows, but the output 21.",
    ),
    "experts of a dense model": (
        {"target_parameters": ["experts.down_proj"]},
        pair(f"{LAYER}mlp.experts", WIDTH, WIDTH),
        "The adapter's pair for model.layers.0.mlp.experts.down_proj has 4 ranks, which can't be"
        " those of no experts.",
    ),
    "experts without their parameter": (
        {},
        pair(f"{LAYER}mlp.experts", WIDTH, WIDTH),
        "The adapter changes model.layers.0.mlp.experts, but its target_parameters don't say which"
        " of its parameters.",
    ),
    "a token beyond the vocabulary": (
        {"trainable_token_indices": [VOCABULARY]},
        {f"{EMBED}.token_adapter.trainable_tokens_delta": random_values(1, WIDTH)},
        "The adapter trains token 20, but token_embd.weight has 20 rows.",
    ),
    "tokens without their numbers": (
        {},
        {f"{EMBED}.token_adapter.trainable_tokens_delta": random_values(1, WIDTH)},
        "The adapter trains tokens of model.embed_tokens, but its trainable_token_indices don't say"
        " which.",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(tmp_path: Path, name: str) -> None:
    settings, tensors, message = REFUSED[name]
    model = random_model("llama", dense())
    with pytest.raises(WeightsError) as refusal:
        apply_adapter(model, adapter(tmp_path, tensors, settings))
    assert str(refusal.value) == message


def test_heads_that_do_not_divide_the_rows(tmp_path: Path) -> None:
    model = random_model("llama", dense(), **{"attention.head_count": 5})
    with pytest.raises(WeightsError, match="32 rows of queries or keys can't be those of 5 heads"):
        apply_adapter(model, adapter(tmp_path, PLAIN))


def test_an_architecture_that_is_not_known(tmp_path: Path) -> None:
    model = random_model("falcon", dense())
    message = "Adapters in safetensors can't be merged into falcon models here; known are arcee"
    with pytest.raises(WeightsError, match=message):
        apply_adapter(model, adapter(tmp_path, PLAIN))


def test_a_count_of_blocks_that_lies_takes_no_memory(tmp_path: Path) -> None:
    model = random_model("llama", dense(), block_count=300_000)
    files = adapter(tmp_path, pair(Q.replace("layers.0", "layers.299999"), WIDTH, WIDTH))
    with pytest.raises(WeightsError, match="which the base model doesn't have"):
        apply_adapter(model, files)

"""Adapters as real PEFT merges them: tests/oracles/record_adapters.py recorded what
merge_and_unload() made, in float64, of models and adapters whose values are drawn here too."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.weights import quants
from app.weights.adapters import apply_adapter
from app.weights.model import Model, Tensor, Value
from app.weights.rows import ArrayRows
from tests.adapter_files import Array, from_gguf_order, save, to_gguf_order, values_of
from tests.oracles.adapter_cases import ADAPTERS, EXPERTS, HEADS, KV_HEADS, drawn, probed

FIXTURE = Path(__file__).parent / "oracles" / "fixtures" / "adapters.json"
RECORDED: dict[str, Any] = json.loads(FIXTURE.read_text())
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate": "ffn_gate_inp",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def gguf_name(name: str) -> str:
    module, end = name.rsplit(".", 1)
    if not module.startswith("model.layers."):
        return f"{NAMES[module]}.{end}"
    _, _, block, rest = module.split(".", 3)
    return f"blk.{block}.{NAMES[rest]}.{end}"


def to_gguf(weights: dict[str, Array], architecture: str) -> dict[str, Array]:
    """The model's tensors by GGUF's names and in its order."""
    found = {}
    for name, values in weights.items():
        if name.endswith("experts.gate_up_proj"):
            block = name.split(".")[2]
            gate, up = np.split(values, 2, axis=1)
            found[f"blk.{block}.ffn_gate_exps.weight"] = gate
            found[f"blk.{block}.ffn_up_exps.weight"] = up
        elif name.endswith("experts.down_proj"):
            found[f"blk.{name.split('.')[2]}.ffn_down_exps.weight"] = values
        else:
            heads = HEADS if ".q_proj." in name else KV_HEADS if ".k_proj." in name else 0
            turned = heads and architecture == "llama"
            found[gguf_name(name)] = to_gguf_order(values, heads) if turned else values
    return found


def from_gguf(tensors: dict[str, Array], names: list[str], architecture: str) -> dict[str, Array]:
    """The other way round, for transformers' tensors of those names."""
    found = {}
    for name in names:
        block = f"blk.{name.split('.')[2]}" if "layers" in name else ""
        if name.endswith("experts.gate_up_proj"):
            parts = [tensors[f"{block}.ffn_{part}_exps.weight"] for part in ("gate", "up")]
            found[name] = np.concatenate(parts, axis=1)
        elif name.endswith("experts.down_proj"):
            found[name] = tensors[f"{block}.ffn_down_exps.weight"]
        else:
            heads = HEADS if ".q_proj." in name else KV_HEADS if ".k_proj." in name else 0
            values = tensors[gguf_name(name)]
            turned = heads and architecture == "llama"
            found[name] = from_gguf_order(values, heads) if turned else values
    return found


@pytest.mark.parametrize("name", ADAPTERS)
def test_as_peft_merges(tmp_path: Path, name: str) -> None:
    recorded = RECORDED[name]
    architecture = {"llama": "llama", "qwen3_moe": "qwen3moe"}[ADAPTERS[name][0]]
    weights = {key: drawn("base", key, tuple(shape)) for key, shape in recorded["base"].items()}
    tensors = {
        key: Tensor(key, v.shape[::-1], quants.F32, ArrayRows(v.reshape(-1, v.shape[-1])))
        for key, v in to_gguf(weights, architecture).items()
    }
    numbers = {
        "block_count": 2,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
        "expert_count": EXPERTS,
    }
    metadata = {f"{architecture}.{key}": Value(4, value) for key, value in numbers.items()}
    model = Model(architecture, metadata, tensors)
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps(recorded["config"]))
    adapter = {key: drawn(name, key, tuple(shape)) for key, shape in recorded["adapter"].items()}
    files = [config, save(tmp_path / "adapter_model.safetensors", adapter)]
    merged = from_gguf(values_of(apply_adapter(model, files)), list(weights), architecture)
    for key, values in probed(merged).items():
        expected = np.array(recorded["merged"][key])
        assert np.abs(np.array(values) - expected).max() <= 2e-6 * np.abs(expected).max(), key

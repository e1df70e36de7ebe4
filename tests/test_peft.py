"""PEFT adapters on a GGUF base, against their dense equivalents."""

import json
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from app.formats import gguf as headers
from app.formats import safetensors
from app.formats.adapter_config import AdapterConfig, read_adapter_config
from app.weights.merge import MergeError
from app.weights.peft import peft_pairs
from tests.gguf_files import write_base
from tests.test_merge import merge

WIDTH, HEADS, RANK = 32, 2, 4
PREFIX = "base_model.model.model.layers.0."
NAMES = {
    "self_attn.q_proj": "blk.0.attn_q.weight",
    "self_attn.k_proj": "blk.0.attn_k.weight",
    "self_attn.v_proj": "blk.0.attn_v.weight",
    "self_attn.o_proj": "blk.0.attn_output.weight",
    "mlp.gate_proj": "blk.0.ffn_gate.weight",
    "mlp.up_proj": "blk.0.ffn_up.weight",
    "mlp.down_proj": "blk.0.ffn_down.weight",
}
Floats = np.ndarray[Any, np.dtype[np.float32]]


def save(path: Path, tensors: dict[str, Floats]) -> Path:
    """Write a safetensors file of float32 tensors."""
    table, data = {}, b""
    for name, values in tensors.items():
        end = len(data) + values.nbytes
        table[name] = {"dtype": "F32", "shape": values.shape, "data_offsets": [len(data), end]}
        data += values.tobytes()
    text = json.dumps(table).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def to_gguf_order(weights: Floats, heads: int) -> Floats:
    """Rows of a llama's query or key projection from Hugging Face's order (a head's first halves,
    then its second) to GGUF's (pairs side by side), one row at a time."""
    result = np.empty_like(weights)
    size = len(weights) // heads
    for head in range(heads):
        for row in range(size // 2):
            result[head * size + 2 * row] = weights[head * size + row]
            result[head * size + 2 * row + 1] = weights[head * size + size // 2 + row]
    return result


def random_pairs(modules: dict[str, tuple[int, int]]) -> dict[str, tuple[Floats, Floats]]:
    random = np.random.default_rng(7)
    return {
        module: (
            random.normal(0, 0.3, (RANK, columns)).astype(np.float32),
            random.normal(0, 0.3, (rows, RANK)).astype(np.float32),
        )
        for module, (rows, columns) in modules.items()
    }


SHAPES = dict.fromkeys(NAMES, (WIDTH, WIDTH)) | {
    "mlp.gate_proj": (2 * WIDTH, WIDTH),
    "mlp.up_proj": (2 * WIDTH, WIDTH),
    "mlp.down_proj": (WIDTH, 2 * WIDTH),
}


def as_tensors(pairs: dict[str, tuple[Floats, Floats]]) -> dict[str, Floats]:
    tensors = {}
    for module, (a, b) in pairs.items():
        tensors[f"{PREFIX}{module}.lora_A.weight"] = a
        tensors[f"{PREFIX}{module}.lora_B.weight"] = b
    return tensors


def read_config(**settings: Any) -> AdapterConfig:
    return read_adapter_config(
        json.dumps({"peft_type": "LORA", "r": RANK, "lora_alpha": 8, **settings}).encode()
    )


def weights(path: Path) -> dict[str, Floats]:
    return {tensor.name: np.array(tensor.data) for tensor in gguf.GGUFReader(path).tensors}


@pytest.mark.parametrize("arch", ["llama", "qwen2", "gemma"])
@pytest.mark.parametrize(
    ("settings", "factor"),
    [
        ({}, {}),
        ({"use_rslora": True}, dict.fromkeys(NAMES, 8 / 2)),
        (
            {"alpha_pattern": {"mlp.up_proj": 2, "q_proj": 16}},
            {"mlp.up_proj": 0.5, "self_attn.q_proj": 4},
        ),
        ({"r": 64, "rank_pattern": {"q_proj": RANK}}, {}),
    ],
    ids=["plain", "rslora", "alpha_pattern", "rank_pattern"],
)
def test_against_the_dense_equivalent(
    tmp_path: Path, arch: str, settings: dict[str, Any], factor: dict[str, float]
) -> None:
    base = write_base(tmp_path / "base.gguf", arch)
    pairs = random_pairs(SHAPES)
    adapter = save(tmp_path / "adapter_model.safetensors", as_tensors(pairs))
    header = safetensors.open_header(adapter)
    changes = peft_pairs(adapter, header, read_config(**settings), [headers.open_header(base)])
    merge([base], changes, tmp_path / "merged.gguf")
    before, after = weights(base), weights(tmp_path / "merged.gguf")
    for module, (a, b) in pairs.items():
        change = factor.get(module, 8 / RANK) * (b @ a)
        if arch == "llama" and module in ("self_attn.q_proj", "self_attn.k_proj"):
            change = to_gguf_order(change, HEADS)
        name = NAMES[module]
        assert np.allclose(after[name], before[name] + change, atol=1e-5), module


def test_fan_in_fan_out_is_turned_round(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base.gguf", "qwen2")
    pairs = random_pairs({"mlp.down_proj": (2 * WIDTH, WIDTH)})
    adapter = save(tmp_path / "adapter_model.safetensors", as_tensors(pairs))
    header = safetensors.open_header(adapter)
    config = read_config(fan_in_fan_out=True)
    changes = peft_pairs(adapter, header, config, [headers.open_header(base)])
    merge([base], changes, tmp_path / "merged.gguf")
    a, b = pairs["mlp.down_proj"]
    name = NAMES["mlp.down_proj"]
    expected = weights(base)[name] + 2 * (b @ a).T
    assert np.allclose(weights(tmp_path / "merged.gguf")[name], expected, atol=1e-5)


ONE = {"self_attn.q_proj": (WIDTH, WIDTH)}
Q = f"{PREFIX}self_attn.q_proj"
REFUSED: dict[str, tuple[dict[str, Any], dict[str, Floats] | None, str]] = {
    "DoRA": (
        {"use_dora": True},
        None,
        "The adapter uses DoRA, whose magnitudes can't be merged here.",
    ),
    "modules_to_save": (
        {"modules_to_save": ["lm_head"]},
        None,
        "The adapter replaces whole modules (modules_to_save: lm_head).",
    ),
    "bias": ({"bias": "all"}, None, "The adapter trains biases (bias='all')."),
    "another type": ({"peft_type": "IA3"}, None, "The adapter is IA3; only LoRA can be merged."),
    "half a pair": (
        {},
        {f"{Q}.lora_A.weight": np.ones((RANK, WIDTH), np.float32)},
        "The adapter holds only half of the pair for model.layers.0.self_attn.q_proj.",
    ),
    "ranks differ": (
        {},
        {
            f"{Q}.lora_A.weight": np.ones((RANK, WIDTH), np.float32),
            f"{Q}.lora_B.weight": np.ones((WIDTH, RANK + 1), np.float32),
        },
        "The adapter's two halves for model.layers.0.self_attn.q_proj differ in rank.",
    ),
    "another width": (
        {},
        as_tensors(random_pairs({"self_attn.q_proj": (WIDTH, 2 * WIDTH)})),
        "The adapter's pair for blk.0.attn_q.weight makes 32x64 where the base has 32x32.",
    ),
    "a deeper base": (
        {},
        {
            key.replace("layers.0", "layers.7"): value
            for key, value in as_tensors(random_pairs(ONE)).items()
        },
        "The adapter changes model.layers.7.self_attn.q_proj, which the base model doesn't have.",
    ),
    "not a pair": (
        {},
        {"base_model.model.lm_head.weight": np.ones((2, 2), np.float32)},
        "The adapter holds base_model.model.lm_head.weight, which is no half of a LoRA pair.",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(tmp_path: Path, name: str) -> None:
    settings, tensors, message = REFUSED[name]
    base = headers.open_header(write_base(tmp_path / "base.gguf"))
    adapter = save(tmp_path / "a.safetensors", tensors or as_tensors(random_pairs(ONE)))
    with pytest.raises(MergeError) as refusal:
        peft_pairs(adapter, safetensors.open_header(adapter), read_config(**settings), [base])
    assert str(refusal.value) == message

"""Adapters on a trainer's folder, of every architecture that is converted: the merged model is the
one that a folder with the adapter's changes in its weights becomes."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.weights import quants
from app.weights.adapters import apply_adapter
from app.weights.convert import read_safetensors
from app.weights.model import Model, Value
from tests.adapter_files import Array, adapter, random_values, save, values_of
from tests.oracles.cases import CASES
from tests.oracles.folders import values
from tests.test_convert import fixture

RANK = 2
LINEAR = re.compile(
    r"layers\.[01]\..*(proj|w[123]|gate|router|in_proj_\w+)\.weight|experts\.\w+_proj"
)
OTHER_PARTS = ("vision", "multi_modal", "visual")


def no_tokenizer(*_: object) -> tuple[dict[str, Value], tuple[str, ...]]:
    return {}, ()


def converted(folder: Path, config: dict[str, Any], weights: dict[str, Array]) -> Model:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save(folder / "model.safetensors", weights)
    return read_safetensors(folder.iterdir(), tokenizer=no_tokenizer, type=quants.F32)


def changed(name: str, weights: Array, seed: int, turned: bool) -> tuple[dict[str, Array], Array]:
    """An adapter's tensors for transformers' tensor of that name, and what they make of it; experts
    are (experts, out, in), or where they are `turned`, (experts, in, out)."""
    module = f"base_model.model.{name.removesuffix('.weight')}"
    if weights.ndim == 2:
        a = random_values(RANK, weights.shape[1], seed=seed)
        b = random_values(weights.shape[0], RANK, seed=seed + 1000)
        change = 4.0 * (b.astype(np.float64) @ a.astype(np.float64))
        return {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}, change
    # peft, lora/layer.py, ParamWrapper.
    experts = weights.shape[0]
    rows, columns = weights.shape[1:] if turned else weights.shape[:0:-1]
    a = random_values(RANK * experts, rows, seed=seed)
    b = random_values(columns, RANK * experts, seed=seed + 1000)
    one = a.astype(np.float64).reshape(experts, RANK, rows)
    other = b.astype(np.float64).reshape(columns, RANK, experts)
    wrapper = module.replace(".gate_up_proj", ".base_layer").replace(".down_proj", "")
    tensors = {f"{wrapper}.lora_A.weight": a, f"{wrapper}.lora_B.weight": b}
    return tensors, 4.0 * np.einsum("ore,eri->eio" if turned else "ore,eri->eoi", other, one)


@pytest.mark.parametrize("case", [case.name for case in CASES])
def test_an_adapter_on_a_folder(tmp_path: Path, case: str) -> None:
    recorded = fixture(case)
    weights: dict[str, Array] = {
        name: values(case, name, tuple(shape)) for name, shape in recorded["shapes"].items()
    }
    tensors: dict[str, Array] = {}
    after = dict(weights)
    for seed, name in enumerate(weights):
        if LINEAR.search(name) and not any(part in name for part in OTHER_PARTS):
            if name.endswith("_bias") or weights[name].ndim < 2:
                continue
            parts, change = changed(name, weights[name], seed, case == "gpt_oss")
            tensors |= parts
            after[name] = (weights[name] + change).astype(np.float32)
    assert len(tensors) >= 8
    parameters = ["experts.gate_up_proj", "experts.down_proj"]
    files = adapter(tmp_path, tensors, {"target_parameters": parameters})
    base = converted(tmp_path / "base", recorded["config"], weights)
    wanted = values_of(converted(tmp_path / "after", recorded["config"], after))
    before, merged = values_of(base), values_of(apply_adapter(base, files))
    assert merged.keys() == wanted.keys()
    for name, expected in wanted.items():
        assert np.abs(merged[name] - expected).max() <= 2e-6 * np.abs(expected).max(), name
    assert sum(not np.array_equal(merged[name], before[name]) for name in wanted) >= 4

"""Converted folders against what llama.cpp's own converter made of them, byte for byte, and against
transformers' logits. Recorded by `make oracles`; nothing here needs torch."""

import hashlib
import json
from pathlib import Path
from typing import Any

import gguf
import pytest

from app.weights import quants
from app.weights.convert import read_safetensors
from app.weights.write import write_gguf
from tests.oracles.folders import write_folder

FIXTURES = Path(__file__).parent / "oracles" / "fixtures"
CASES = sorted(path.stem for path in FIXTURES.glob("*.json"))
TYPES = {"F32": quants.F32, "F16": quants.F16, "BF16": quants.BF16}


def fixture(case: str) -> dict[str, Any]:
    recorded: dict[str, Any] = json.loads((FIXTURES / f"{case}.json").read_text())
    return recorded


def folder_of(case: str, place: Path) -> dict[str, Path]:
    recorded = fixture(case)
    folder = write_folder(
        place / case,
        case,
        recorded["config"],
        recorded["shapes"],
        recorded["dtype"],
        recorded["shards"],
    )
    return {path.name: path for path in folder.iterdir()}


def digests(path: Path) -> dict[str, list[Any]]:
    return {
        tensor.name: [
            tensor.tensor_type.name,
            [int(size) for size in tensor.shape],
            hashlib.sha256(tensor.data.tobytes()).hexdigest()[:16],
        ]
        for tensor in gguf.GGUFReader(path).tensors
    }


@pytest.mark.parametrize("case", CASES)
def test_tensors_and_metadata_are_those_of_llama_cpp(case: str, tmp_path: Path) -> None:
    recorded, files = fixture(case), folder_of(case, tmp_path)
    for name, kind in TYPES.items():
        model = read_safetensors(files, name=case, tokenizer=lambda *_: {}, type=kind)
        target = tmp_path / f"{name}.gguf"
        write_gguf(model, target)
        assert digests(target) == recorded["tensors"][name]
    target = tmp_path / "auto.gguf"
    write_gguf(read_safetensors(files, name=case, tokenizer=lambda *_: {}), target)
    fields = gguf.GGUFReader(target).fields.values()
    metadata = {
        field.name: field.contents() for field in fields if not field.name.startswith("GGUF.")
    }
    assert metadata == recorded["metadata"]

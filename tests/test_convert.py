"""Converted folders against what llama.cpp's own converter made of them, byte for byte, and against
transformers' logits. Recorded by `make oracles`; nothing here needs torch."""

import hashlib
import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from app.weights import quants
from app.weights.convert import CLASSES, read_safetensors
from app.weights.model import Value
from app.weights.quantize import quantize
from app.weights.tokenizers import splitting
from app.weights.write import write_gguf
from tests.llama_cpp import generate
from tests.oracles import logprobs
from tests.oracles.folders import write_folder
from tests.small_tokenizers import byte_level, save

FIXTURES = Path(__file__).parent / "oracles" / "fixtures"
NOT_FOLDERS = ("adapters", "quantized")
CASES = sorted(path.stem for path in FIXTURES.glob("*.json") if path.stem not in NOT_FOLDERS)
NOT_QUANTISED = {"per_layer_model_proj.weight"}
SAID_HERE = {"gemma4_experts": {"gemma4.final_logit_softcapping": 0.0}}
"""What llama.cpp's converter leaves to defaults that aren't the model's."""
VOCABULARY = 96
LARGEST_DIFFERENCE = 1e-3
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


def no_tokenizer(*_: object) -> tuple[dict[str, Value], tuple[str, ...]]:
    return {}, ()


def small_tokenizer(*_: object) -> tuple[dict[str, Value], tuple[str, ...]]:
    """One that llama.cpp takes; no text is ever tokenized with it."""
    tokens = ["<unk>", "<s>", "</s>", *(chr(0x4E00 + n) for n in range(VOCABULARY - 4))]
    tokens.append("<|endoftext|>")  # which llama.cpp looks for in what is called phi3
    return {
        "tokenizer.ggml.model": Value(8, "llama"),
        "tokenizer.ggml.tokens": Value(9, tokens, 8),
        "tokenizer.ggml.scores": Value(9, [0.0] * VOCABULARY, 6),
        "tokenizer.ggml.token_type": Value(9, [2, 3, 3, *[1] * (VOCABULARY - 3)], 5),
        "tokenizer.ggml.add_bos_token": Value(7, False),
    }, ()


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
        model = read_safetensors(files, name=case, tokenizer=no_tokenizer, type=kind)
        target = tmp_path / f"{name}.gguf"
        write_gguf(model, target)
        assert digests(target) == recorded["tensors"][name]
    target = tmp_path / "auto.gguf"
    write_gguf(read_safetensors(files, name=case, tokenizer=no_tokenizer), target)
    fields = gguf.GGUFReader(target).fields.values()
    metadata = {
        field.name: field.contents() for field in fields if not field.name.startswith("GGUF.")
    }
    assert metadata == {**SAID_HERE.get(case, {}), **recorded["metadata"]}


@pytest.mark.parametrize("case", CASES)
def test_q8_0_has_the_bytes_of_llama_cpp(case: str, tmp_path: Path) -> None:
    model = read_safetensors(folder_of(case, tmp_path), name=case, tokenizer=no_tokenizer)
    write_gguf(quantize(model, "Q8_0"), tmp_path / "Q8_0.gguf")
    expected = fixture(case)["tensors"]["Q8_0"]
    for name in expected.keys() & NOT_QUANTISED:  # by llama-quantize, whose types ours are
        expected[name] = fixture(case)["tensors"]["BF16"][name]
    assert digests(tmp_path / "Q8_0.gguf") == expected


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """llama.cpp's log-probabilities for the F32 file of each case."""
    place = tmp_path_factory.mktemp("converted")
    prompts = {}
    for case in CASES:
        files = folder_of(case, place)
        model = read_safetensors(files, name=case, tokenizer=small_tokenizer, type=quants.F32)
        write_gguf(model, place / f"{case}.gguf")
        prompts[place / f"{case}.gguf"] = fixture(case)["tokens"]
    return {path.stem: rows for path, rows in logprobs.of_models(prompts, VOCABULARY).items()}


@pytest.mark.parametrize("case", CASES)
def test_llama_cpp_computes_what_transformers_does(case: str, computed: dict[str, Any]) -> None:
    logits = np.array(fixture(case)["logits"])
    expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    got = computed[case]
    assert got.shape == expected.shape
    difference = np.abs(got - expected).max() / (expected.max() - expected.min())
    print(f"{case}: {difference:.1e}")
    assert difference <= LARGEST_DIFFERENCE
    assert (got.argmax(axis=1) == expected.argmax(axis=1)).all()


def test_the_docs_list_every_class_and_every_architecture_has_a_case() -> None:
    text = (Path(__file__).parents[1] / "docs" / "architectures.rst").read_text()
    assert [name for name in CLASSES if f"``{name}``" not in text] == []
    recorded = {fixture(case)["metadata"]["general.architecture"] for case in CASES}
    assert recorded == {architecture.name for architecture in CLASSES.values()}


def test_a_whole_folder_becomes_a_model_that_llama_cpp_runs(tmp_path: Path) -> None:
    recorded, rows = fixture("llama31"), 960
    config = {**recorded["config"], "vocab_size": rows, "eos_token_id": 2}
    table = {key: [rows, 64] for key in ("model.embed_tokens.weight", "lm_head.weight")}
    folder = write_folder(tmp_path / "whole", "llama31", config, {**recorded["shapes"], **table})
    way = next(way for way in splitting.SPLITTINGS if way.name == "llama-bpe")
    tokenizer = byte_level(way.steps, ignore_merges=bool(way.whole_words))
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    save(
        folder,
        {
            "tokenizer.json": tokenizer,
            "tokenizer_config.json": {"eos_token": "</s>", "chat_template": template},
            "generation_config.json": {"eos_token_id": [2, 4], "top_k": 20, "temperature": 0.7},
        },
    )
    model = read_safetensors(folder.iterdir())
    assert model.metadata["general.name"].content == "Whole"
    assert model.metadata["general.sampling.top_k"].content == 20
    assert model.metadata["tokenizer.ggml.pre"].content == "llama-bpe"
    assert model.metadata["tokenizer.ggml.eos_token_id"].content == 2
    assert model.metadata["tokenizer.chat_template"].content == template
    assert len(model.metadata["tokenizer.ggml.tokens"].content) == rows
    write_gguf(model, tmp_path / "whole.gguf")
    assert generate(tmp_path / "whole.gguf")

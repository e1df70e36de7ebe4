"""Folders that can't be converted: each is refused with the file or tensor, the reason, a way out,
before a byte of weights is read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.weights.convert import read_safetensors
from app.weights.model import Model, WeightsError
from tests.oracles.folders import values, write_folder, write_safetensors
from tests.test_convert import fixture, no_tokenizer

RECORDED = fixture("llama31")
NORM = "model.norm.weight"
Config = dict[str, Any]
Shapes = dict[str, list[int]]


def read(
    place: Path,
    config: Config | None = None,
    shapes: Shapes | None = None,
    change: Callable[[Path], object] = lambda folder: None,
    shards: int = 1,
) -> Model:
    """Read llama31's folder with these values in config.json (None removes one), these shapes
    (empty removes a tensor), and whatever `change` does to it."""
    merged = {**RECORDED["config"], **(config or {})}
    merged = {key: value for key, value in merged.items() if value is not ...}
    tensors = {**RECORDED["shapes"], **(shapes or {})}
    tensors = {name: shape for name, shape in tensors.items() if shape}
    folder = write_folder(place / "model", "llama31", merged, tensors, shards=shards)
    change(folder)
    files = {path.name: path for path in folder.iterdir()}
    return read_safetensors(files, tokenizer=no_tokenizer)


def refusal(*arguments: Any, **more: Any) -> WeightsError:
    with pytest.raises(WeightsError) as raised:
        read(*arguments, **more)
    return raised.value


CONFIGS = [
    ({"architectures": ["FalconForCausalLM"]}, "The architecture FalconForCausalLM isn't one of"),
    ({"architectures": ...}, "config.json doesn't name the model's class in `architectures`."),
    ({"architectures": "LlamaForCausalLM"}, "config.json doesn't name the model's class"),
    ({"hidden_size": ...}, "config.json lacks hidden_size."),
    ({"hidden_size": "64"}, "config.json has hidden_size='64'; it must be a whole number"),
    ({"hidden_size": True}, "config.json has hidden_size=True; it must be a whole number"),
    ({"hidden_size": -1}, "config.json has hidden_size=-1; it must be a whole number"),
    ({"hidden_size": 10**30}, "config.json has hidden_size=1000000000"),
    ({"hidden_size": 128}, "model.embed_tokens.weight is 96x64, but by config.json it must be"),
    ({"vocab_size": 97}, "model.embed_tokens.weight is 96x64, but by config.json it must be 97x64"),
    ({"num_hidden_layers": 10**9}, "config.json has num_hidden_layers=1000000000, but the folder"),
    ({"num_hidden_layers": 1}, "model.layers.1."),
    ({"num_attention_heads": 10**9}, "model.layers.0.self_attn.q_proj.weight is 64x64, but"),
    ({"num_attention_heads": 0}, "config.json has num_attention_heads=0; it must be"),
    ({"num_key_value_heads": 3}, "model.layers.0.self_attn.k_proj.weight is 32x64, but"),
    ({"head_dim": 7, "num_attention_heads": 3}, "model.layers.0.self_attn.q_proj.weight is 64x64"),
    ({"num_local_experts": 10**9}, "config.json has num_local_experts=1000000000; it must be"),
    ({"rms_norm_eps": float("nan")}, "config.json has rms_norm_eps=nan; it must be a finite"),
    ({"rms_norm_eps": 1e300}, "config.json has rms_norm_eps=1e+300; it must be a finite"),
    ({"rope_parameters": []}, "config.json has rope_parameters=[]; it must be an object"),
    ({"rope_parameters": {"rope_type": "magic"}}, "rotary positions of the type 'magic'"),
    ({"rope_parameters": {"rope_type": 7}}, "config.json's rope_parameters has rope_type=7"),
    (
        {"rope_parameters": {"rope_type": "llama3", "factor": 0}},
        "config.json's rotary positions have factor=0.0",
    ),
    ({"attention_bias": True}, "model.layers.0.self_attn.q_proj.bias is missing"),
    ({"quantization_config": {"quant_method": "gptq"}}, "The weights are quantised (GPTQ)"),
    ({"quantization_config": {"quant_method": "awq"}}, "The weights are quantised (AWQ)"),
    ({"quantization_config": {"quant_method": "fp8"}}, "The weights are quantised (FP8)"),
    ({"quantization_config": {"quant_method": "mxfp4"}}, "The weights are quantised (MXFP4)"),
    ({"quantization_config": {"quant_method": "hqq"}}, "The weights are quantised (hqq)"),
    ({"quantization_config": {"quant_method": "compressed-tensors"}}, "(compressed-tensors)"),
    ({"quantization_config": {"quant_method": "bitsandbytes"}}, "(bitsandbytes)"),
    ({"quantization": {"group_size": 64, "bits": 4}}, "The weights are quantised (MLX)"),
]


@pytest.mark.parametrize(("config", "error"), CONFIGS, ids=lambda value: str(value)[:50])
def test_configs(tmp_path: Path, config: Config, error: str) -> None:
    assert error in str(refusal(tmp_path, config))


@pytest.mark.parametrize(
    ("method", "way_out"),
    [
        ("bitsandbytes", 'save_method="merged_16bit"'),
        ("fp8", "FineGrainedFP8Config(dequantize=True)"),
        ("mxfp4", "Mxfp4Config(dequantize=True)"),
        ("gptq", "Use the 16-bit model that it was made of"),
    ],
)
def test_quantised_folders_are_told_the_trainers_call(
    tmp_path: Path, method: str, way_out: str
) -> None:
    error = refusal(tmp_path, {"quantization_config": {"quant_method": method}})
    assert error.hint
    assert way_out in error.hint


def test_an_unknown_architecture_is_told_the_known_ones_and_the_setting(tmp_path: Path) -> None:
    error = refusal(tmp_path, {"architectures": ["FalconForCausalLM"]})
    assert "Qwen3ForCausalLM" in str(error)
    assert error.hint
    assert "MODEL_HANDLER_CONVERTER" in error.hint


SHAPES = [
    ({NORM: []}, "model.norm.weight is missing, which config.json calls for."),
    ({NORM: [1, 64]}, "model.norm.weight is 1x64, but by config.json it must be 64."),
    ({NORM: [63]}, "model.norm.weight is 63, but by config.json it must be 64."),
    ({"lm_head.weight": []}, "lm_head.weight is missing"),
    ({"model.layers.1.mlp.up_proj.weight": []}, "model.layers.1.mlp.up_proj.weight is missing"),
    ({"model.layers.7.extra.weight": [4]}, "model.layers.7.extra.weight isn't a tensor that"),
    ({"score.weight": [2, 64]}, "score.weight isn't a tensor that config.json calls for."),
    ({"model.layers.0.mlp.up_proj.qweight": [2]}, "The weights are quantised (GPTQ)"),
    ({"model.layers.0.mlp.up_proj.weight.absmax": [2]}, "The weights are quantised (bitsandbytes)"),
    ({"model.layers.0.mlp.up_proj.scales": [2]}, "The weights are quantised (MLX)"),
    ({"model.layers.0.mlp.up_proj.weight_scale_inv": [2]}, "The weights are quantised (FP8)"),
    ({"model.language_model.norm.weight": [64]}, "The folder has both "),
]


@pytest.mark.parametrize(("shapes", "error"), SHAPES, ids=lambda value: str(value)[:50])
def test_tensors(tmp_path: Path, shapes: Shapes, error: str) -> None:
    assert error in str(refusal(tmp_path, shapes=shapes))


def with_dtype(name: str) -> Callable[[Path], None]:
    """Call one tensor's type otherwise, of as many bytes."""

    def change(folder: Path) -> None:
        path = folder / "model.safetensors"
        data = path.read_bytes()
        at = 8 + int.from_bytes(data[:8], "little")
        table = json.loads(data[8:at])
        shape = {"F64": [16], "I8": [128], "F8_E4M3": [128]}[name]
        table[NORM] |= {"dtype": name, "shape": shape}
        header = json.dumps(table).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header + data[at:])

    return change


@pytest.mark.parametrize(
    ("dtype", "error"),
    [
        ("F64", "model.safetensors has model.norm.weight as F64; weights must be BF16, F16 or F32"),
        ("I8", "model.safetensors has model.norm.weight as I8; weights must be BF16, F16 or F32"),
        ("F8_E4M3", "The weights are quantised (FP8)"),
    ],
)
def test_types(tmp_path: Path, dtype: str, error: str) -> None:
    assert error in str(refusal(tmp_path, change=with_dtype(dtype)))


SHARD = "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"


def extra_shard(folder: Path) -> None:
    write_safetensors(folder / "model-00003.safetensors", {"x": np.zeros(1, np.float32)}, "F32")


def without_index(folder: Path) -> None:
    (folder / INDEX).unlink()


def lose_a_shard_and_index(folder: Path) -> None:
    without_index(folder)
    (folder / SHARD).unlink()


def list_one_more(folder: Path) -> None:
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["model.more.weight"] = SHARD
    (folder / INDEX).write_text(json.dumps(index))


def list_one_less(folder: Path) -> None:
    index = json.loads((folder / INDEX).read_text())
    del index["weight_map"][NORM]
    (folder / INDEX).write_text(json.dumps(index))


def twice(folder: Path) -> None:
    without_index(folder)
    for number in (1, 2):
        tensors = {NORM: values("llama31", NORM, (64,))}
        write_safetensors(folder / f"model-{number:05}-of-00002.safetensors", tensors, "BF16")


SHARDS: list[tuple[Callable[[Path], object], str]] = [
    (lambda folder: (folder / SHARD).unlink(), f"{SHARD} is missing: the index lists it."),
    (extra_shard, "model-00003.safetensors isn't listed in the index."),
    (lose_a_shard_and_index, "The folder has 1 of 2 shards, and no index."),
    (list_one_more, f"{SHARD} lacks model.more.weight, which the index lists."),
    (list_one_less, "has model.norm.weight, which the index doesn't list."),
    (twice, "has the tensor model.norm.weight once more."),
    (lambda folder: (folder / INDEX).write_text("{}"), f"{INDEX} has no weight_map"),
    (lambda folder: (folder / INDEX).write_text("[" * 100_000), f"{INDEX} isn't a JSON object."),
    (lambda folder: (folder / SHARD).write_bytes(b"x" * 99), f"{SHARD} isn't a safetensors file"),
]


@pytest.mark.parametrize(
    ("change", "error"),
    SHARDS,
    ids=lambda value: value[:40] if isinstance(value, str) else "change",
)
def test_shards(tmp_path: Path, change: Callable[[Path], object], error: str) -> None:
    assert error in str(refusal(tmp_path, change=change, shards=2))


def test_shards_without_an_index_are_read_when_all_are_there(tmp_path: Path) -> None:
    assert len(read(tmp_path, change=without_index, shards=2).tensors) == 22


def write_large(folder: Path) -> None:
    (folder / "config.json").write_text(" " * (5 * 2**20))


FILES: list[tuple[Callable[[Path], object], str]] = [
    (lambda folder: (folder / "config.json").unlink(), "The folder has no config.json."),
    (lambda folder: (folder / "config.json").write_text("[]"), "config.json isn't a JSON object."),
    (write_large, "config.json has more than 4194304 bytes."),
    (lambda folder: (folder / "model.safetensors").unlink(), "The folder has no weights"),
    (
        lambda folder: (folder / "generation_config.json").write_text("nope"),
        "generation_config.json isn't a JSON object.",
    ),
]


@pytest.mark.parametrize(
    ("change", "error"), FILES, ids=lambda value: value[:40] if isinstance(value, str) else "change"
)
def test_files(tmp_path: Path, change: Callable[[Path], object], error: str) -> None:
    assert error in str(refusal(tmp_path, change=change))


def test_nothing_of_the_folder_is_run(tmp_path: Path) -> None:
    def add_code(folder: Path) -> None:
        for name in ("modeling_x.py", "tokenization_x.py", "__init__.py"):
            (folder / name).write_text("raise SystemExit('run')")
        (folder / "training_args.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")

    code = {"auto_map": {"AutoModelForCausalLM": "modeling_x.Model"}}
    assert read(tmp_path, code, change=add_code).architecture == "llama"


README = """---
license: apache-2.0
language:
- no
base_model: meta-llama/Llama-3.2-1B
tags: [a, b]
---
# A model
"""


@pytest.mark.parametrize(
    ("readme", "licence"),
    [
        (README, "apache-2.0"),
        ("# nothing", None),
        ("---\nlicense: {a: 1}\nbase_model: {x: [1]}\ntags: 7\n---\n", None),
        ("---\n&a [*a, *a\n---\n", None),
        ("---\nlicense: !!python/object/apply:os.system ['text only']\n---\n", "text only"),
    ],
)
def test_a_readme_tells_the_licence_or_is_passed_over(
    tmp_path: Path, readme: str, licence: str | None
) -> None:
    model = read(tmp_path, change=lambda folder: (folder / "README.md").write_text(readme))
    found = model.metadata.get("general.license")
    assert (found.content if found else None) == licence
    if readme is README:
        assert model.metadata["general.languages"].content == ["no"]
        assert model.metadata["general.base_model.0.organization"].content == "Meta Llama"


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    recorded = fixture("gemma3_vision")
    folder = write_folder(
        tmp_path / "vision", "gemma3_vision", recorded["config"], recorded["shapes"]
    )
    (note,) = read_safetensors(folder.iterdir(), tokenizer=no_tokenizer).notes
    assert note.startswith("Only the text part was converted:")

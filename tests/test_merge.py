"""Merged models: right in every type, in llama.cpp's eyes, and made once."""

import hashlib
import io
import json
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gguf
import libgguf
import numpy as np
import pytest
from click.testing import CliRunner

from app import create_app
from app.commands.local import convert
from app.formats import gguf as headers
from app.formats.files import ModelFile
from app.ollama.store import MODEL_LAYER
from app.planning.conversion import Conversion
from app.planning.gguf_parts import GgufAdapter, GgufModel
from app.service.conversion import _key
from app.weights.adapters import NOTE_KEY, apply_adapter
from app.weights.model import WeightsError
from app.weights.read_gguf import read_gguf
from app.weights.write import Written, write_gguf
from tests.adapter_files import adapter, random_values
from tests.callers import FlaskCaller
from tests.conftest import litter
from tests.gguf_files import write_base, write_lora, write_zip
from tests.llama_cpp import generate
from tests.standin import Standin

Type = gguf.GGMLQuantizationType
WIDTH = 256
TYPES = [
    *(Type.F32, Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1),
    *(Type.Q2_K, Type.Q3_K, Type.Q4_K, Type.Q5_K, Type.Q6_K, Type.IQ4_NL, Type.IQ4_XS),
]
Floats = np.ndarray[Any, np.dtype[np.float64]]


def tensors(path: Path) -> dict[str, Any]:
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


def dense(tensor: Any) -> Floats:
    if tensor.tensor_type in (Type.F32, Type.F16, Type.BF16):
        return gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float64)
    return np.asarray(libgguf.dequantize_rows(tensor.data, tensor.tensor_type), np.float64)


def rounded(values: Floats, kind: Type) -> Floats:
    """The values as they come back from type `kind`."""
    rows = values.astype(np.float32)
    if kind in (Type.F32, Type.F16, Type.BF16):
        packed = gguf.quants.quantize(rows, kind)
        return gguf.quants.dequantize(packed, kind).astype(np.float64)
    return np.asarray(libgguf.dequantize_rows(libgguf.quantize_rows(rows, kind), kind), np.float64)


def write_quantized(path: Path, kind: Type) -> Path:
    """A base whose linear layers have the type `kind`, also where `gguf` can't write it."""
    path.write_bytes(_quantized(kind))
    return path


@cache
def _quantized(kind: Type) -> bytes:
    with TemporaryDirectory() as folder:
        base = write_base(Path(folder, "base.gguf"), width=WIDTH)
        if kind != Type.F32:
            base = requantized(base, Path(folder, "quantized.gguf"), kind)
        return base.read_bytes()


def merge(base: Sequence[Path], adapter: Path, target: Path, scale: float = 1.0) -> Written:
    return write_gguf(apply_adapter(read_gguf(base), [adapter], scale), target)


@pytest.mark.parametrize(
    ("kind", "scale"),
    [*((kind, 1.0) for kind in TYPES), (Type.F32, 0.25), (Type.Q8_0, 0.25), (Type.Q4_K, 0.25)],
    ids=lambda value: getattr(value, "name", value),
)
def test_against_a_dense_reference(tmp_path: Path, kind: Type, scale: float) -> None:
    base = write_quantized(tmp_path / "base.gguf", kind)
    lora = write_lora(tmp_path / "lora.gguf", width=WIDTH, rank=4, alpha=8.0)
    target = tmp_path / "merged.gguf"
    written = merge([base], lora, target, scale)
    assert written.sha256 == hashlib.sha256(target.read_bytes()).hexdigest()
    before, change, after = tensors(base), tensors(lora), tensors(target)
    assert list(before) == list(after)
    for name, tensor in after.items():
        assert tensor.tensor_type == before[name].tensor_type
        if f"{name}.lora_a" not in change:
            assert bytes(tensor.data) == bytes(before[name].data)
            continue
        a, b = (change[f"{name}.lora_{side}"].data.astype(np.float64) for side in "ab")
        reference = dense(before[name]) + scale * 8.0 / 4 * (b @ a)
        own_error = np.abs(rounded(reference, kind) - reference).mean()
        error = np.abs(dense(tensor) - reference).mean()
        # Rounding float32 products before quantising may tip a few values over to a neighbour.
        assert error <= own_error * 1.02 + 1e-7


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
def test_a_zero_adapter_changes_nothing_beyond_rounding(tmp_path: Path, kind: Type) -> None:
    base = write_quantized(tmp_path / "base.gguf", kind)
    lora = write_lora(tmp_path / "lora.gguf", width=WIDTH, scale=0)
    merge([base], lora, tmp_path / "merged.gguf")
    before, after = tensors(base), tensors(tmp_path / "merged.gguf")
    for name, tensor in after.items():
        values = dense(before[name])
        own_error = np.abs(rounded(values, before[name].tensor_type) - values).max()
        assert np.abs(dense(tensor) - values).max() <= own_error + 1e-12


def test_a_type_without_an_encoder_becomes_q8_0(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base.gguf", width=WIDTH)
    writer = gguf.GGUFWriter(tmp_path / "iq.gguf", "llama")
    for tensor in gguf.GGUFReader(base).tensors:
        if tensor.name == "blk.0.attn_q.weight":
            block, size = gguf.GGML_QUANT_SIZES[Type.IQ2_XS]
            packed = np.random.default_rng(0).integers(
                0, 256, (WIDTH, WIDTH // block, size), np.uint8
            )
            packed[..., :2] = np.frombuffer(np.float16(0.01).tobytes(), np.uint8)
            packed = packed.reshape(WIDTH, -1)
            writer.add_tensor(tensor.name, packed, raw_dtype=Type.IQ2_XS)
        else:
            writer.add_tensor(tensor.name, np.array(tensor.data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    lora = write_lora(tmp_path / "lora.gguf", width=WIDTH)
    merge([tmp_path / "iq.gguf"], lora, tmp_path / "merged.gguf")
    assert tensors(tmp_path / "merged.gguf")["blk.0.attn_q.weight"].tensor_type == Type.Q8_0


def test_shards_become_one_file(tmp_path: Path) -> None:
    whole = write_base(tmp_path / "whole.gguf", blocks=2)
    shards = []
    reader = gguf.GGUFReader(whole)
    for number in range(2):
        path = tmp_path / f"m-{number + 1:05}-of-00002.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", 2)
        for tensor in reader.tensors[number::2]:
            writer.add_tensor(tensor.name, np.array(tensor.data))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        shards.append(path)
    lora = write_lora(tmp_path / "lora.gguf", blocks=2)
    merge(shards, lora, tmp_path / "from-shards.gguf")
    merge([whole], lora, tmp_path / "from-whole.gguf")
    assert headers.open_header(tmp_path / "from-shards.gguf").shard is None
    one, other = tensors(tmp_path / "from-shards.gguf"), tensors(tmp_path / "from-whole.gguf")
    assert sorted(one) == sorted(other)
    assert all(bytes(one[name].data) == bytes(other[name].data) for name in one)


def test_an_embedding_s_pair_is_flipped(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base.gguf")
    vocabulary = headers.open_header(base).tensors["token_embd.weight"].shape[1]
    a = np.random.default_rng(0).normal(0, 1, (vocabulary, 2)).astype(np.float32)
    b = np.random.default_rng(1).normal(0, 1, (32, 2)).astype(np.float32)
    writer = gguf.GGUFWriter(tmp_path / "lora.gguf", "llama")
    writer.add_type("adapter")
    writer.add_float32("adapter.lora.alpha", 2.0)
    writer.add_tensor("token_embd.weight.lora_a", a)
    writer.add_tensor("token_embd.weight.lora_b", b)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    merge([base], tmp_path / "lora.gguf", tmp_path / "merged.gguf")
    after = dense(tensors(tmp_path / "merged.gguf")["token_embd.weight"])
    reference = dense(tensors(base)["token_embd.weight"]) + a.astype(np.float64) @ b.T
    assert np.allclose(after, reference, atol=1e-5)


@pytest.mark.parametrize("kind", [Type.F32, Type.F16], ids=lambda kind: kind.name)
def test_a_result_that_isn_t_finite_is_refused(tmp_path: Path, kind: Type) -> None:
    base = write_quantized(tmp_path / "base.gguf", kind)
    lora = write_lora(tmp_path / "lora.gguf", width=WIDTH, alpha=3e38, scale=3e38)
    with pytest.raises(WeightsError, match=r"^blk\.0\.attn_q\.weight isn't finite"):
        merge([base], lora, tmp_path / "merged.gguf")


def test_the_service_merges_once_and_says_so(
    tmp_path: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, lora = write_base(tmp_path / "base.gguf"), write_lora(tmp_path / "lora.gguf")
    zipped = write_zip(tmp_path / "m.zip", {"base.gguf": base, "lora.gguf": lora})
    with Standin(tmp_path / "ollama", version="0.34.1") as standin:
        app = create_app({"MODELS_DIR": models_dir, "OLLAMA_HOST": standin.url})
        caller = FlaskCaller(app.test_client())
        fields = [("Model", zipped), ("model_name_on_ollama", "one")]
        lines = caller.send_form("/models/deploy/?verbose=1", fields).lines
        merging_lines = [
            line["message"]["details"] for line in lines if line["message"]["action"] == "Merging."
        ]
        reason = "This Ollama server (version 0.34.1) no longer takes adapters."
        assert merging_lines[0]["reason"] == reason
        report = json.loads(caller.get("/models/m/").body)
        assert report["last_create"] == {
            "model_name_on_ollama": "one",
            "adapter": "merged",
            "adapter_reason": reason,
            "merged": {"tensors": 7, "recoded": []},
        }
        assert [file["name"] for file in report["files"]] == ["base.gguf", "lora.gguf"]
        monkeypatch.setattr("app.weights.job.run", None)
        again = {"model": "m", "model_name_on_ollama": "two"}
        assert caller.send_json("POST", "/models/create/", again).last["status"] == 200
        pushed = [sent.path for sent in standin.requests if sent.path.startswith("/api/blobs")]
        assert len(set(pushed)) == 1
        assert caller.send_json("DELETE", "/models/", {"model": "m"}).last["status"] == 200
    assert not litter(models_dir)
    assert [path.name for path in models_dir.iterdir()] == [".model-handler"]


def test_a_killed_merge_ends_its_task_with_a_true_sentence_and_can_be_tried_again(
    tmp_path: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, lora = write_base(tmp_path / "base.gguf"), write_lora(tmp_path / "lora.gguf")
    zipped = write_zip(tmp_path / "m.zip", {"base.gguf": base, "lora.gguf": lora})

    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def killed_when_it_writes(*arguments: Any, **named: Any) -> "subprocess.Popen[bytes]":
        process = popen(*arguments, **named)
        started.append(process)
        if len(started) == 2:  # the first one only looks at headers
            process.kill()
        return process

    with Standin(tmp_path / "ollama", version="0.34.1") as standin:
        app = create_app({"MODELS_DIR": models_dir, "OLLAMA_HOST": standin.url})
        caller = FlaskCaller(app.test_client())
        fields = [("Model", zipped), ("model_name_on_ollama", "one")]
        with monkeypatch.context() as patch:
            patch.setattr(subprocess, "Popen", killed_when_it_writes)
            last = caller.send_form("/models/deploy/", fields).last
        assert last["status"] == 500
        assert "was killed (SIGKILL)" in last["details"]["error"]
        assert not litter(models_dir)
        assert not [*models_dir.rglob("*kept*")]
        again = {"model": "m", "model_name_on_ollama": "one"}
        assert caller.send_json("POST", "/models/create/", again).last["status"] == 200


@pytest.mark.parametrize(
    ("version", "arch", "fields", "adapter", "reason"),
    [
        ("0.32.15", "llama", {}, "sent", "This Ollama server takes adapters."),
        ("0.32.15", "llama", {"merge": "always"}, "merged", "Merging was asked for."),
        (
            *("0.32.15", "llama", {"adapter_scale": "0.5"}, "merged"),
            "Ollama knows no scale for an adapter.",
        ),
        ("0.12.11", "llama", {}, "sent", "This Ollama server takes adapters."),
        (
            *("0.12.11", "gemma3", {}, "merged"),
            "Ollama before 0.30 takes adapters for gemma3, but can't run them.",
        ),
        ("0.32.15", "gemma3", {}, "sent", "This Ollama server takes adapters."),
    ],
)
def test_when_it_merges(
    tmp_path: Path,
    models_dir: Path,
    version: str,
    arch: str,
    fields: dict[str, str],
    adapter: str,
    reason: str,
) -> None:
    base = write_base(tmp_path / "base.gguf", arch)
    lora = write_lora(tmp_path / "lora.gguf", arch)
    zipped = write_zip(tmp_path / "m.zip", {"base.gguf": base, "lora.gguf": lora})
    with Standin(tmp_path / "ollama", version=version) as standin:
        app = create_app({"MODELS_DIR": models_dir, "OLLAMA_HOST": standin.url})
        caller = FlaskCaller(app.test_client())
        form = [("Model", zipped), ("model_name_on_ollama", "new"), *fields.items()]
        assert caller.send_form("/models/deploy/", form).last["status"] == 200
        last_create = json.loads(caller.get("/models/m/").body)["last_create"]
    assert (last_create["adapter"], last_create["adapter_reason"]) == (adapter, reason)


@pytest.mark.parametrize("where", ["models directory", "Ollama's own folder"])
def test_an_adapter_goes_onto_a_base_on_this_machine(
    tmp_path: Path, models_dir: Path, where: str
) -> None:
    base, lora = write_base(tmp_path / "base.gguf"), write_lora(tmp_path / "lora.gguf")
    base_zip = write_zip(tmp_path / "the_base.zip", {"base.gguf": base})
    zipped = write_zip(tmp_path / "tuned.zip", {"lora.gguf": lora})
    with Standin(tmp_path / "ollama", version="0.34.1") as standin:
        settings = {"MODELS_DIR": models_dir, "OLLAMA_HOST": standin.url}
        if where == "Ollama's own folder":
            settings["OLLAMA_MODELS"] = ollama_folder(tmp_path / "ollama-models", base)
        caller = FlaskCaller(create_app(settings).test_client())
        if where == "models directory":
            assert caller.send_form("/models/upload/", [("Model", base_zip)]).last["status"] == 200
        form = [("Model", zipped), ("model_name_on_ollama", "new"), ("from", "the_base")]
        answer = caller.send_form("/models/deploy/", form)
        assert answer.last["status"] == 200
        assert (
            str(tmp_path) not in caller.get("/models/tuned/modelfile?from=the_base").body.decode()
        )
    (kept,) = (models_dir / "tuned" / ".model-handler" / "kept").glob("*.gguf")
    assert NOTE_KEY in headers.open_header(kept).metadata


def described(path: str, sha256: str = "00") -> ModelFile:
    return ModelFile(path, 1, lambda: io.BytesIO(), Path(path), sha256)


def base_of(*paths: str, sha256: str = "00") -> GgufModel:
    header = headers.Header(3, 1, {}, {}, {}, 32, 1, {})
    files = tuple(described(path, sha256) for path in paths)
    return GgufModel(files=files, headers=tuple(header for _ in files))


def lora_of(path: str, *beside: str) -> GgufAdapter:
    header = headers.Header(3, 1, {}, {}, {}, 32, 1, {})
    return GgufAdapter(
        files=(described(path),), headers=(header,), beside=tuple(map(described, beside))
    )


@pytest.mark.parametrize(
    "change",
    [
        {"scale": 0.5},
        {"quantize": "Q8_0"},
        {"adapter": lora_of("/m/other.gguf")},
        {"adapter": lora_of("/m/lora.gguf", "/m/tokenizer.json")},
        {"adapter": None},
        {"importance_matrix": described("/m/imatrix.dat")},
        {"base": base_of("/m/shard-1.gguf", "/m/shard-2.gguf")},
        {"base": base_of("/m/base.gguf", sha256="01")},
        {"command": ("convert",)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_kept_file_is_known_by_all_that_went_into_it(change: dict[str, Any]) -> None:
    conversion = Conversion(base_of("/m/base.gguf"), lora_of("/m/lora.gguf"), 1.0, "why")
    assert _key("m", conversion) != _key("m", replace(conversion, **change))
    moved = Conversion(base_of("/n/base.gguf"), lora_of("/n/lora.gguf"), 1.0, "because")
    assert _key("m", conversion) == _key("m", moved)
    assert _key("m", conversion) != _key("n", conversion)


def with_a_new_token(folder: Path) -> tuple[dict[str, Any], Any]:
    """The files of a base, and below `lora/` of an adapter that was saved with a token more; and
    the table of embeddings that it brings."""
    base = write_base(folder / "base.gguf", "llama")
    shape = headers.open_header(base).tensors["token_embd.weight"].shape
    table = random_values(shape[1] + 1, shape[0])
    saved = {f"base_model.model.{name}.weight": table for name in ("model.embed_tokens", "lm_head")}
    config, weights = adapter(folder, saved)
    added = [{"id": shape[1], "content": "<new>", "special": True}]
    tokenizer = {"model": {"type": "BPE", "vocab": {}}, "added_tokens": added}
    members = {
        "base.gguf": base,
        "lora/adapter_config.json": config,
        "lora/adapter_model.safetensors": weights,
        "lora/tokenizer.json": json.dumps(tokenizer).encode(),
    }
    return members, table


def check_new_token(made: Path, table: Any) -> None:
    fields = gguf.GGUFReader(made).fields
    assert fields["tokenizer.ggml.tokens"].contents()[-1] == "<new>"
    assert np.array_equal(tensors(made)["token_embd.weight"].data, table)


def test_a_trainer_s_new_tokens_reach_the_merged_model(tmp_path: Path, models_dir: Path) -> None:
    members, table = with_a_new_token(tmp_path)
    zipped = write_zip(tmp_path / "tuned.zip", members)
    with Standin(tmp_path / "ollama", version="0.34.1") as standin:
        app = create_app({"MODELS_DIR": models_dir, "OLLAMA_HOST": standin.url})
        form = [("Model", zipped), ("model_name_on_ollama", "new")]
        answer = FlaskCaller(app.test_client()).send_form("/models/deploy/", form)
        assert answer.last["status"] == 200, answer.last
    (kept,) = (models_dir / "tuned" / ".model-handler" / "kept").glob("*.gguf")
    check_new_token(kept, table)


def test_a_trainer_s_new_tokens_reach_what_the_command_makes(tmp_path: Path) -> None:
    members, table = with_a_new_token(tmp_path)
    zipped, target = write_zip(tmp_path / "tuned.zip", members), tmp_path / "out.gguf"
    done = CliRunner().invoke(convert, [str(zipped), "-o", str(target)])
    assert done.exit_code == 0, done.output
    check_new_token(target, table)


@pytest.mark.parametrize("kind", ["norms", "activated"])
def test_a_lora_in_gguf_that_is_more_than_pairs(tmp_path: Path, kind: str) -> None:
    """Norm vectors are passed over, as llama.cpp does; what acts only now and then is refused."""
    base = write_base(tmp_path / "base.gguf")
    plain = write_lora(tmp_path / "plain.gguf")
    writer = gguf.GGUFWriter(tmp_path / "lora.gguf", "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 8.0)
    if kind == "activated":
        writer.add_array("adapter.alora.invocation_tokens", [1, 2, 3])
    for tensor in gguf.GGUFReader(plain).tensors:
        writer.add_tensor(tensor.name, np.array(tensor.data))
    writer.add_tensor("blk.0.attn_norm.weight", np.full(32, 7, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model = read_gguf([base])
    if kind == "activated":
        with pytest.raises(WeightsError, match=r"lora\.gguf is an activated LoRA \(aLoRA\)"):
            apply_adapter(model, [tmp_path / "lora.gguf"])
        return
    merged = apply_adapter(model, [tmp_path / "lora.gguf"])
    assert merged.notes == (
        "The adapter's norm vectors (1 tensors) were passed over, as llama.cpp does.",
    )
    assert merged.tensors["blk.0.attn_norm.weight"] == model.tensors["blk.0.attn_norm.weight"]


def ollama_folder(folder: Path, base: Path) -> Path:
    """The models folder of an Ollama with the model `the_base`."""
    digest = hashlib.sha256(base.read_bytes()).hexdigest()
    layers = [{"mediaType": MODEL_LAYER, "digest": f"sha256:{digest}"}]
    manifest = folder / "manifests" / "registry.ollama.ai" / "library" / "the_base" / "latest"
    manifest.parent.mkdir(parents=True)
    manifest.write_text(json.dumps({"layers": layers}))
    (folder / "blobs").mkdir()
    (folder / "blobs" / f"sha256-{digest}").write_bytes(base.read_bytes())
    return folder


@pytest.mark.parametrize(("alpha", "factor"), [(4.0, 0.5), (16.0, 2.0), (0.0, 1.0)])
def test_alpha_over_rank_is_the_scale(tmp_path: Path, alpha: float, factor: float) -> None:
    """Without alpha llama.cpp has no division by the rank either."""
    base = write_base(tmp_path / "base.gguf", width=WIDTH)
    lora = write_lora(tmp_path / "lora.gguf", width=WIDTH, rank=8, alpha=alpha)
    merge([base], lora, tmp_path / "merged.gguf")
    change = tensors(lora)
    a, b = (change[f"blk.0.attn_q.weight.lora_{side}"].data.astype(np.float64) for side in "ab")
    before, after = (
        dense(tensors(path)["blk.0.attn_q.weight"]) for path in (base, tmp_path / "merged.gguf")
    )
    assert np.abs(after - before - factor * (b @ a)).max() <= 2e-6 * np.abs(after).max()


@pytest.mark.parametrize(
    ("kind", "tolerance"),
    [(Type.F32, 1e-4), (Type.F16, 0.01), (Type.Q8_0, 0.2), (Type.Q6_K, 0.2), (Type.Q4_K, 0.8)],
    ids=lambda value: getattr(value, "name", value),
)
def test_llama_cpp_sees_the_same_model(tmp_path: Path, kind: Type, tolerance: float) -> None:
    """Base + adapter and the merged file give the same next tokens: for F32 each of them; else the
    log-probabilities of the first differ by at most `tolerance`, which was measured: rounding the
    changed weights makes it, and that llama.cpp rounds activations for such types.
    """
    base = write_base(tmp_path / "base.gguf", width=WIDTH, blocks=2)
    if kind != Type.F32:
        base = requantized(base, tmp_path / "quantized.gguf", kind)
    lora = write_lora(tmp_path / "lora.gguf", width=WIDTH, blocks=2, scale=2)
    merge([base], lora, tmp_path / "merged.gguf")
    plain, adapted = generate(base), generate(base, lora)
    merged = generate(tmp_path / "merged.gguf")
    assert next(iter(plain[0])) != next(iter(adapted[0])), "the adapter is strong enough to matter"
    if kind == Type.F32:
        assert [next(iter(step)) for step in merged] == [next(iter(step)) for step in adapted]
    common = adapted[0].keys() & merged[0].keys()
    assert len(common) >= 3
    assert max(abs(adapted[0][token] - merged[0][token]) for token in common) <= tolerance


def requantized(base: Path, target: Path, kind: Type) -> Path:
    """The base with its linear layers in type `kind`, whole otherwise."""
    writer = gguf.GGUFWriter(target, "llama")
    reader = gguf.GGUFReader(base)
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            value_type = field.types[0]
            sub_type = field.types[-1] if value_type == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(key, field.contents(), value_type, sub_type)
    for tensor in reader.tensors:
        data = np.array(tensor.data)
        if not tensor.name.startswith("blk.") or len(tensor.shape) == 1:
            writer.add_tensor(tensor.name, data)
        elif kind in (Type.F16, Type.BF16):
            writer.add_tensor(tensor.name, gguf.quants.quantize(data, kind), raw_dtype=kind)
        else:
            writer.add_tensor(tensor.name, libgguf.quantize_rows(data, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def test_a_refusal_lists_the_bases_that_would_fit(tmp_path: Path, models_dir: Path) -> None:
    base = write_zip(tmp_path / "the_base.zip", {"base.gguf": write_base(tmp_path / "base.gguf")})
    other = write_base(tmp_path / "other.gguf", "qwen2")
    others = write_zip(tmp_path / "another.zip", {"base.gguf": other})
    lora = write_zip(tmp_path / "tuned.zip", {"lora.gguf": write_lora(tmp_path / "lora.gguf")})
    with Standin(tmp_path / "ollama", version="0.34.1") as standin:
        app = create_app({"MODELS_DIR": models_dir, "OLLAMA_HOST": standin.url})
        caller = FlaskCaller(app.test_client())
        for zipped in (base, others):
            assert caller.send_form("/models/upload/", [("Model", zipped)]).last["status"] == 200
        form = [("Model", lora), ("model_name_on_ollama", "new")]
        answer = caller.send_form("/models/deploy/", form)
    assert answer.status == 422
    assert answer.last["details"] == {
        "error": "Found an adapter without a base model, and it doesn't name one that Ollama has.",
        "hint": "Name the base in the field 'from'. Ollama has none of architecture llama."
        " Stored here: the_base. The upload is kept as model 'tuned': POST /models/create/ makes"
        " it, without a new upload.",
    }

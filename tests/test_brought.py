"""What people really bring, after public reports: a model, or a refusal that leads somewhere."""

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from app import create_app
from app.planning.safetensors_parts import CONVERTIBLE
from tests.callers import Answer, FlaskCaller
from tests.conftest import litter
from tests.gguf_files import (
    GPT2_TOKENS,
    finish,
    write_base,
    write_lora,
    write_mmproj,
    write_zip,
)
from tests.llama_cpp import generate
from tests.standin import Standin
from tests.test_zips import PEFT, QUERY, safetensors_bytes

Members = Mapping[str, Path | bytes]
Make = Callable[[Path], Members]


def changed(
    base: Path,
    target: Path,
    *,
    drop: tuple[str, ...] = (),
    put: Mapping[str, Any] | None = None,
    tensors: Callable[[str], bool] = lambda name: True,
    keys: bool = True,
) -> Path:
    """A copy of a GGUF: without the keys `drop`, with those of `put`, and some of its tensors."""
    reader = gguf.GGUFReader(base)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    put = put or {}
    for key, value in reader.fields.items() if keys else ():
        if not key.startswith("GGUF.") and key != "general.architecture" and key not in drop:
            kinds = value.types
            sub_type = kinds[-1] if kinds[0] == gguf.GGUFValueType.ARRAY else None
            content = put.get(key, value.contents())
            writer.add_key_value(key, content, kinds[0], sub_type)
    for key, text in put.items():
        if key not in reader.fields:
            if isinstance(text, int):
                writer.add_uint16(key, text)
            else:
                writer.add_string(key, text)
    for tensor in reader.tensors:
        if tensors(tensor.name):
            writer.add_tensor(tensor.name, np.array(tensor.data))
    finish(writer)
    return target


def llama(folder: Path) -> Path:
    return write_base(folder / "llama.gguf")


def qwen(folder: Path) -> Path:
    return write_base(folder / "qwen.gguf", "qwen2")


def variant(folder: Path, base: Path, **changes: Any) -> Path:
    return changed(base, folder / "variant.gguf", **changes)


def with_newer_type(base: Path) -> Path:
    """The file, saying of a tensor that it is of type 99."""
    data, name = bytearray(base.read_bytes()), b"blk.0.ffn_up.weight"
    dimensions = data.index(name) + len(name)
    data[dimensions + 20 : dimensions + 24] = struct.pack("<I", 99)
    base.write_bytes(data)
    return base


def imatrix(folder: Path) -> Path:
    path = folder / "imatrix.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("imatrix")
    writer.add_uint32("imatrix.chunk_count", 10)
    writer.add_tensor("blk.0.attn_q.weight.in_sum2", np.ones((1, 32), np.float32))
    writer.add_tensor("blk.0.attn_q.weight.counts", np.ones((1, 1), np.float32))
    finish(writer)
    return path


def two_shards(folder: Path) -> dict[str, Path]:
    base, shards = llama(folder), {}
    for number in range(2):
        name = f"m-{number + 1:05}-of-00002.gguf"
        shards[name] = changed(
            base,
            folder / name,
            put={"split.no": number, "split.count": 2},
            tensors=lambda name, number=number: name.startswith("blk.") == bool(number),
            keys=not number,
        )
    return shards


def peft(folder: str = "", **config: Any) -> dict[str, bytes]:
    stated = {**json.loads(PEFT["adapter_config.json"]), **config}
    members = {**PEFT, "adapter_config.json": json.dumps(stated).encode()}
    return {folder + name: content for name, content in members.items()}


def hugging_face(config: Mapping[str, Any], *names: str) -> Members:
    return {
        "config.json": json.dumps({"architectures": ["LlamaForCausalLM"], **config}).encode(),
        "model.safetensors": safetensors_bytes(dict.fromkeys(names or ("weight",), (4, 4))),
        "tokenizer.json": b"{}",
    }


def deploy(
    tmp_path: Path, members: Members, version: str = "0.34.1", **fields: str
) -> tuple[Answer, dict[str, Any], dict[str, Any]]:
    """The answer to a deploy, the create request that Ollama got, and the report."""
    zipped = write_zip(tmp_path / "m.zip", members)
    with Standin(tmp_path / "ollama", version=version) as standin:
        settings = {"MODELS_DIR": tmp_path / "models", "OLLAMA_HOST": standin.url}
        caller = FlaskCaller(create_app(settings).test_client())
        form = [("Model", zipped), ("model_name_on_ollama", "new"), *fields.items()]
        answer = caller.send_form("/models/deploy/", form)
        bodies = [sent.json for sent in standin.requests if sent.path == "/api/create"]
        body = next((body for body in bodies if body["model"] == "new"), {})
        stored = caller.get("/models/m/")
    assert not litter(tmp_path / "models")
    return answer, body, json.loads(stored.body) if stored.status == 200 else {}


@dataclass(frozen=True)
class Refused:
    members: Make
    error: str
    hint: str = ""
    version: str = "0.34.1"
    fields: dict[str, str] = field(default_factory=dict)


REFUSED = {
    "more tokens than rows": Refused(
        lambda f: {
            "m.gguf": variant(f, qwen(f), put={"tokenizer.ggml.tokens": [*GPT2_TOKENS, "<new>"]})
        },
        "m.gguf has 260 tokens in its vocabulary, but 259 rows in its embedding",
        "resize_token_embeddings",
    ),
    "no tokenizer": Refused(
        lambda f: {
            "m.gguf": variant(f, llama(f), drop=("tokenizer.ggml.model", "tokenizer.ggml.tokens"))
        },
        "m.gguf has no tokenizer.",
        "Convert the model to GGUF again",
    ),
    "no merges": Refused(
        lambda f: {"m.gguf": variant(f, qwen(f), drop=("tokenizer.ggml.merges",))},
        "m.gguf has a tokenizer of the kind gpt2 without its merges.",
        "Convert the model to GGUF again",
    ),
    "a tensor is missing in a block": Refused(
        lambda f: {
            "m.gguf": variant(f, qwen(f), tensors=lambda name: name != "blk.0.attn_q.weight")
        },
        "m.gguf has no tensor blk.0.attn_q.weight, which every qwen2 model needs.",
    ),
    "an importance matrix alone": Refused(
        lambda f: {"imatrix_x.gguf": imatrix(f)},
        "imatrix_x.gguf is an importance matrix, which is no model.",
    ),
    "bitsandbytes by its config": Refused(
        lambda f: hugging_face({"quantization_config": {"quant_method": "bitsandbytes"}}),
        "model.safetensors is quantized already, by bitsandbytes",
        "merged_16bit",
    ),
    "bitsandbytes by its tensors, on a server that converts": Refused(
        lambda f: hugging_face({}, "a.weight", "a.weight.quant_state.bitsandbytes__nf4"),
        "model.safetensors is quantized already, by bitsandbytes",
        "save_pretrained_merged",
        version="0.32.15",
    ),
    "GPTQ": Refused(
        lambda f: hugging_face({"quantization_config": {"quant_method": "gptq"}}),
        "by GPTQ",
        "merge_and_unload()",
    ),
    "AWQ": Refused(
        lambda f: hugging_face({"quantization_config": {"quant_method": "awq"}}),
        "by AWQ",
        "save_pretrained",
    ),
    "MLX": Refused(
        lambda f: hugging_face({"quantization": {"group_size": 64, "bits": 4}}),
        "by MLX",
        "mlx_lm.fuse",
    ),
    "several mmproj": Refused(
        lambda f: {
            "m.gguf": llama(f),
            "a-mmproj.gguf": write_mmproj(f / "a.gguf"),
            "b-mmproj.gguf": write_mmproj(f / "b.gguf"),
        },
        "Found 2 mmproj files: a-mmproj.gguf, b-mmproj.gguf.",
        "Name one in the field 'projector'",
    ),
    "a projector that isn't there": Refused(
        lambda f: {"m.gguf": llama(f), "a-mmproj.gguf": write_mmproj(f / "a.gguf")},
        "The field 'projector' names b.gguf; of mmproj files there are: a-mmproj.gguf.",
        fields={"projector": "b.gguf"},
    ),
    "a path that leaves the zip to no file of it": Refused(
        lambda f: {"m.gguf": llama(f), "Modelfile": b"FROM ../other.gguf\n"},
        "points out of the zip",
    ),
    "a PiSSA adapter": Refused(
        lambda f: {"m.gguf": llama(f), **peft("lora/", init_lora_weights="pissa")},
        "init_lora_weights='pissa'",
        "path_initial_model_for_weight_conversion",
    ),
    "checkpoints without what they became": Refused(
        lambda f: {
            "m.gguf": llama(f),
            **peft("out/checkpoint-1/"),
            **peft("out/checkpoint-2/"),
        },
        "Found 2 adapters",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_anything_is_pushed(tmp_path: Path, name: str) -> None:
    case = REFUSED[name]
    answer, body, _ = deploy(tmp_path, case.members(tmp_path), case.version, **case.fields)
    assert answer.status == 422
    details = answer.last["details"]
    assert case.error in details["error"]
    assert case.hint in details.get("hint", "")
    assert body == {}
    assert str(tmp_path) not in json.dumps(details)


@dataclass(frozen=True)
class Works:
    members: Make
    files: tuple[str, ...]
    problem: str = ""
    version: str = "0.34.1"
    template: str | None = None
    fields: dict[str, str] = field(default_factory=dict)


TWO_QUANTS: Make = lambda f: {"model.BF16.gguf": llama(f), "model.Q8_0.gguf": qwen(f)}  # noqa: E731
Q8_0 = ("model.Q8_0.gguf",)
WORKS = {
    "an unknown pre-tokenizer": Works(
        lambda f: {"m.gguf": variant(f, qwen(f), put={"tokenizer.ggml.pre": "my-finetune"})},
        ("m.gguf",),
        "'my-finetune'",
    ),
    "no pre-tokenizer": Works(
        lambda f: {"m.gguf": variant(f, qwen(f), drop=("tokenizer.ggml.pre",))},
        ("m.gguf",),
        "no tokenizer.ggml.pre",
    ),
    "an architecture that is unknown here": Works(
        lambda f: {"m.gguf": write_base(f / "new.gguf", "brand-new")}, ("m.gguf",), "'brand-new'"
    ),
    "an importance matrix beside": Works(
        lambda f: {"m.gguf": llama(f), "imatrix_unsloth.gguf": imatrix(f)}, ("m.gguf",)
    ),
    "FROM .": Works(lambda f: {"m.gguf": llama(f), "Modelfile": b"FROM .\n"}, ("m.gguf",)),
    "FROM . of a vision model": Works(
        lambda f: {
            "m.gguf": llama(f),
            "mmproj.gguf": write_mmproj(f / "p.gguf"),
            "Modelfile": b"FROM .\n",
        },
        ("m.gguf", "mmproj.gguf"),
    ),
    "FROM with a wildcard": Works(
        lambda f: {**two_shards(f), "Modelfile": b"FROM ./m-*.gguf\n"},
        ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf"),
    ),
    "one of two quantisations": Works(
        lambda f: {**TWO_QUANTS(f), "Modelfile": b"FROM model.Q8_0.gguf\n"}, Q8_0
    ),
    "an absolute path": Works(
        lambda f: {**TWO_QUANTS(f), "Modelfile": b"FROM /content/x/model.Q8_0.gguf\n"},
        Q8_0,
        "taken for model.Q8_0.gguf",
    ),
    "a path of Windows": Works(
        lambda f: {**TWO_QUANTS(f), "Modelfile": b"FROM C:\\x\\model.Q8_0.gguf\r\n"},
        Q8_0,
        "taken for model.Q8_0.gguf",
    ),
    "a path of someone's home": Works(
        lambda f: {**TWO_QUANTS(f), "Modelfile": b"FROM ~/x/model.Q8_0.gguf\n"},
        Q8_0,
        "taken for model.Q8_0.gguf",
    ),
    "a path that leaves the zip to a file of it": Works(
        lambda f: {**TWO_QUANTS(f), "Modelfile": b"FROM ../x/model.Q8_0.gguf\n"},
        Q8_0,
        "taken for model.Q8_0.gguf",
    ),
    "Modelfile.txt with CRLF and a mark": Works(
        lambda f: {**TWO_QUANTS(f), "Modelfile.txt": b"\xef\xbb\xbfFROM ./model.Q8_0.gguf\r\n"},
        Q8_0,
    ),
    "a Modelfile of PowerShell's": Works(
        lambda f: {**TWO_QUANTS(f), "Modelfile": "FROM ./model.Q8_0.gguf\r\n".encode("utf-16")},
        Q8_0,
    ),
    "a projector by its name": Works(
        lambda f: {
            "m.gguf": llama(f),
            "a.gguf": write_mmproj(f / "x.gguf"),
            "b.gguf": write_mmproj(f / "y.gguf"),
        },
        ("b.gguf", "m.gguf"),
        fields={"projector": "b.gguf"},
        problem="Found 2 mmproj files: a.gguf, b.gguf.",
    ),
    "what a Trainer wrote": Works(
        lambda f: {
            "m.gguf": llama(f),
            **peft("out/"),
            **peft("out/checkpoint-500/"),
            "out/training_args.bin": b"\x80\x02",
            "out/checkpoint-500/optimizer.pt": b"\x80\x02",
        },
        ("model.gguf",),
    ),
    "rsLoRA on an Ollama that takes adapters": Works(
        lambda f: {"m.gguf": llama(f), **peft("lora/", use_rslora=True)},
        ("model.gguf",),
        version="0.32.15",
    ),
    "shards on an Ollama that doesn't join them": Works(
        two_shards, ("model.gguf",), version="0.12.11"
    ),
    "ChatML by its end token": Works(
        lambda f: {"m.gguf": variant(f, qwen(f))}, ("m.gguf",), template="chatml"
    ),
    "TEMPLATE that Ollama sets aside": Works(
        lambda f: {"m.gguf": write_base(f / "t.gguf", chat_template="{% if tools %}{% endif %}")},
        ("m.gguf",),
        fields={"template": "{{ .Prompt }}"},
    ),
    "quantised on an Ollama that doesn't": Works(
        lambda f: {"m.gguf": llama(f)}, ("model.gguf",), fields={"quantize": "Q8_0"}
    ),
    "merged and quantised in one": Works(
        lambda f: {"m.gguf": llama(f), "lora.gguf": write_lora(f / "lora.gguf")},
        ("model.gguf",),
        fields={"quantize": "q8_0"},
    ),
}


@pytest.mark.parametrize("name", WORKS)
def test_becomes_a_model(tmp_path: Path, name: str) -> None:
    case = WORKS[name]
    answer, body, report = deploy(tmp_path, case.members(tmp_path), case.version, **case.fields)
    assert answer.last["status"] == 200, answer.last
    assert sorted(body["files"]) == sorted(case.files)
    assert "adapters" not in body
    assert case.problem in " ".join(report["problems"])
    assert case.problem or report["problems"] == []
    assert case.template in (None, report["template"])


def test_several_projectors_can_be_uploaded_for_a_create_to_choose_from(tmp_path: Path) -> None:
    members = {
        "m.gguf": llama(tmp_path),
        "a.gguf": write_mmproj(tmp_path / "x.gguf"),
        "b.gguf": write_mmproj(tmp_path / "y.gguf"),
    }
    zipped = write_zip(tmp_path / "m.zip", members)
    with Standin(tmp_path / "ollama", version="0.34.1") as standin:
        settings = {"MODELS_DIR": tmp_path / "models", "OLLAMA_HOST": standin.url}
        caller = FlaskCaller(create_app(settings).test_client())
        assert caller.send_form("/models/upload/", [("Model", zipped)]).last["status"] == 200
        (problem,) = json.loads(caller.get("/models/m/").body)["problems"]
        assert problem.startswith("Found 2 mmproj files: a.gguf, b.gguf. Name one in the field")
        asked = {"model": "m", "model_name_on_ollama": "new"}
        assert caller.send_json("POST", "/models/create/", asked).last["status"] == 422
        asked["projector"] = "b.gguf"
        assert caller.send_json("POST", "/models/create/", asked).last["status"] == 200


def test_a_given_template_that_is_set_aside_is_said_in_verbose_lines(tmp_path: Path) -> None:
    own = write_base(tmp_path / "t.gguf", chat_template="{% if tools %}{% endif %}")
    zipped = write_zip(tmp_path / "m.zip", {"m.gguf": own})
    said = {}
    for version in ("0.32.15", "0.12.11"):
        with Standin(tmp_path / version, version=version) as standin:
            settings = {"MODELS_DIR": tmp_path / "models", "OLLAMA_HOST": standin.url}
            caller = FlaskCaller(create_app(settings).test_client())
            fields = [("model_name_on_ollama", "x"), ("template", "{{ .Prompt }}")]
            lines = caller.send_form("/models/deploy/?verbose=1", [("Model", zipped), *fields])
            details = [line["message"]["details"] for line in lines.lines]
            said[version] = [one["problems"] for one in details if "problems" in one]
    assert "sets TEMPLATE aside" in said["0.32.15"][0][0]
    assert said["0.12.11"] == []


@pytest.mark.parametrize(
    ("name", "runs"),
    [
        ("no tokenizer", False),
        ("no merges", False),
        ("more tokens than rows", False),
        ("a tensor is missing in a block", False),
        ("no pre-tokenizer", True),
    ],
)
def test_llama_cpp_refuses_what_we_refuse(tmp_path: Path, name: str, runs: bool) -> None:
    make = WORKS[name].members if runs else REFUSED[name].members
    model = make(tmp_path)["m.gguf"]
    assert isinstance(model, Path)
    if runs:
        assert generate(model)
    else:
        with pytest.raises(Exception, match=r"."):
            generate(model)


def test_what_is_convertible_is_what_the_converter_knows() -> None:
    from app.weights.convert.architectures import CLASSES

    known = {name: each for each, names in CONVERTIBLE.items() for name in names}
    assert known == {name: architecture.name for name, architecture in CLASSES.items()}


def test_quantised_by_default_unless_it_is_already(tmp_path: Path) -> None:
    q8_0 = write_base(tmp_path / "q8.gguf", dtype=gguf.GGMLQuantizationType.Q8_0)
    for name, model, files in (
        ("plain", llama(tmp_path), ["model.gguf"]),
        ("quantised", q8_0, ["m.gguf"]),
    ):
        zipped = write_zip(tmp_path / f"{name}.zip", {"m.gguf": model})
        with Standin(tmp_path / name) as standin:
            settings = {"MODELS_DIR": tmp_path / "models", "OLLAMA_HOST": standin.url}
            app = create_app({**settings, "DEFAULT_QUANTIZE": "Q4_0"})
            form = [("Model", zipped), ("model_name_on_ollama", "new")]
            answer = FlaskCaller(app.test_client()).send_form("/models/deploy/", form)
            assert answer.last["status"] == 200
            bodies = [sent.json for sent in standin.requests if sent.path == "/api/create"]
            assert [sorted(body["files"]) for body in bodies] == [files]


def test_a_base_of_another_model_is_held_while_it_is_read(tmp_path: Path) -> None:
    with Standin(tmp_path / "ollama", version="0.34.1") as standin:
        app = create_app({"MODELS_DIR": tmp_path / "models", "OLLAMA_HOST": standin.url})
        caller = FlaskCaller(app.test_client())
        for name, file in (("b", llama(tmp_path)), ("a", write_lora(tmp_path / "lora.gguf"))):
            zipped = write_zip(tmp_path / f"{name}.zip", {f"{name}.gguf": file})
            assert caller.send_form("/models/upload/", [("Model", zipped)]).last["status"] == 200
        with app.extensions["service"].storage.hold("b", "another-task"):
            body = {"model": "a", "model_name_on_ollama": "x", "from": "b"}
            answer = caller.send_json("POST", "/models/create/", body)
        assert answer.status == 409
        assert "another-task" in answer.last["details"]["error"]
        assert caller.send_json("POST", "/models/create/", body).last["status"] == 200


def test_half_a_pair_names_the_tensor(tmp_path: Path) -> None:
    half = {
        **PEFT,
        "adapter_model.safetensors": safetensors_bytes({f"{QUERY}.lora_A.weight": (2, 32)}),
    }
    answer, _, _ = deploy(tmp_path, {"m.gguf": llama(tmp_path), **half})
    assert answer.status == 422
    assert "self_attn.q_proj" in answer.last["details"]["error"]


def test_what_was_passed_over_is_said(tmp_path: Path) -> None:
    """llama.cpp passes over norms in a GGUF adapter: so does the merge, with a word."""
    lora = write_lora(tmp_path / "plain.gguf")
    writer = gguf.GGUFWriter(tmp_path / "lora.gguf", "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 8.0)
    for tensor in gguf.GGUFReader(lora).tensors:
        writer.add_tensor(tensor.name, np.array(tensor.data))
    writer.add_tensor("blk.0.attn_norm.weight", np.ones(32, np.float32))
    finish(writer)
    members = {"m.gguf": llama(tmp_path), "lora.gguf": tmp_path / "lora.gguf"}
    answer, body, report = deploy(tmp_path, members)
    assert answer.last["status"] == 200
    assert list(body["files"]) == ["model.gguf"]
    assert "were passed over" in " ".join(report["last_create"]["notes"])


def test_a_tensor_type_that_is_unknown_here_is_left_for_ollama_to_judge(tmp_path: Path) -> None:
    """The stand-in doesn't know it either: a newer server may."""
    answer, body, report = deploy(tmp_path, {"m.gguf": with_newer_type(qwen(tmp_path))})
    assert body["files"].keys() == {"m.gguf"}
    assert "Ollama refused the model" in answer.last["details"]["error"]
    assert "type 99, which is unknown here" in " ".join(report["problems"])

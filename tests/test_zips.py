"""What people zip up, and what becomes of it: the Modelfile and Ollama's request, or the reason."""

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import requests
from flask import Flask

from app import create_app
from tests.callers import Caller, FlaskCaller
from tests.conftest import REAL_OLLAMA, check_adapter_arrived, litter
from tests.gguf_files import finish, write_base, write_lora, write_mmproj, write_zip
from tests.standin import Standin

Members = Mapping[str, Path | bytes]
NEW = "becomes"
BASE_ON_OLLAMA = "base-on-ollama"


def safetensors_bytes(tensors: Mapping[str, tuple[int, ...]]) -> bytes:
    """A safetensors file of float32 zeros, by tensor name and shape."""
    header, offset = {}, 0
    for name, shape in tensors.items():
        size = 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(offset)


def config_of(class_name: str) -> bytes:
    """A config.json that says no more than that."""
    return json.dumps({"architectures": [class_name]}).encode()


QUERY = "base_model.model.model.layers.0.self_attn.q_proj"
PEFT = {
    "adapter_config.json": json.dumps(
        {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": "org/tiny"}
    ).encode(),
    "adapter_model.safetensors": safetensors_bytes(
        {f"{QUERY}.lora_A.weight": (2, 32), f"{QUERY}.lora_B.weight": (32, 2)}
    ),
}
HF_MODEL = {
    "config.json": config_of("CohereForCausalLM"),
    "model.safetensors": safetensors_bytes({"weight": (4, 4)}),
    "tokenizer.json": b"{}",
    "tokenizer.model": b"sentencepiece",
    "README.md": b"hello",
}


class Files:
    """The files that zips are made of, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base = write_base(folder / "base.gguf")
        self.f16 = write_base(folder / "f16.gguf", dtype=gguf.GGMLQuantizationType.F16)
        self.q8 = write_base(folder / "q8.gguf", dtype=gguf.GGMLQuantizationType.Q8_0)
        self.with_template = write_base(folder / "t.gguf", chat_template="{{ messages }}")
        self.qwen = write_base(folder / "qwen.gguf", "qwen2")
        self.lora = write_lora(folder / "lora.gguf")
        self.qwen_lora = write_lora(folder / "qwen-lora.gguf", "qwen2")
        self.wide_lora = write_lora(folder / "wide-lora.gguf", width=64)
        self.deep_lora = write_lora(folder / "deep-lora.gguf", blocks=2)
        self.no_alpha = write_lora(folder / "no-alpha.gguf", alpha=None)
        self.named_lora = write_lora(folder / "named-lora.gguf", base_name="base-on-ollama")
        self.mmproj = write_mmproj(folder / "mmproj.gguf")

    def shard(self, number: int, count: int, tensors: int | None = None) -> Path:
        """A shard of the base, which has some of its tensors; the first has the metadata. It says
        that all shards have `tensors`, if that isn't what they have."""
        path = self.folder / f"part-{number:05}-of-{count:05}-{tensors}.gguf"
        if not path.exists():
            whole = gguf.GGUFReader(self.base)
            writer = gguf.GGUFWriter(path, "llama")
            for key, field in whole.fields.items() if number == 1 else ():
                if not key.startswith("GGUF.") and key != "general.architecture":
                    kinds = field.types
                    sub_type = kinds[-1] if kinds[0] == gguf.GGUFValueType.ARRAY else None
                    writer.add_key_value(key, field.contents(), kinds[0], sub_type)
            writer.add_uint16("split.no", number - 1)
            writer.add_uint16("split.count", count)
            writer.add_int32("split.tensors.count", tensors or len(whole.tensors))
            for tensor in whole.tensors[number - 1 :: count]:
                writer.add_tensor(tensor.name, np.array(tensor.data))
            finish(writer)
        return path


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("files"))


@dataclass(frozen=True)
class Works:
    """A zip that becomes a model: its FROM and ADAPTER, and the names in Ollama's request.

    A real Ollama only `loads` what holds a whole model, not the makeshift files of some rows. Some
    don't work on servers `without_adapters`, which don't convert and quantize either.
    """

    members: Callable[[Files], Members]
    from_: list[str]
    adapter: str | None = None
    files: list[str] = field(default_factory=list)
    adapters: list[str] = field(default_factory=list)
    fields: dict[str, str] = field(default_factory=dict)
    request: dict[str, Any] = field(default_factory=dict)
    loads: bool = True
    without_adapters: bool = True


WORKS = {
    "one base": Works(lambda f: {"base.gguf": f.base}, ["./base.gguf"], files=["base.gguf"]),
    "in one top folder": Works(
        lambda f: {"my model/base.gguf": f.base, "my model/.DS_Store": b"x", "__MACOSX/._b": b"x"},
        ["./base.gguf"],
        files=["base.gguf"],
    ),
    "odd name": Works(
        lambda f: {"Bäse model (v2).gguf": f.base},
        ["./Bäse model (v2).gguf"],
        files=["B_se_model__v2_.gguf"],
    ),
    "GGUF without the extension": Works(
        lambda f: {"ggml-model": f.base, "README.md": b"hi"}, ["./ggml-model"], files=["ggml-model"]
    ),
    "base and adapter": Works(
        lambda f: {"base.gguf": f.base, "lora.gguf": f.lora},
        ["./base.gguf"],
        "./lora.gguf",
        files=["base.gguf"],
        adapters=["lora.gguf"],
    ),
    "names that mislead": Works(
        lambda f: {"lora-finetune.gguf": f.base, "model.gguf": f.lora},
        ["./lora-finetune.gguf"],
        "./model.gguf",
        files=["lora-finetune.gguf"],
        adapters=["model.gguf"],
    ),
    "qwen base and adapter": Works(
        lambda f: {"base.gguf": f.qwen, "lora.gguf": f.qwen_lora},
        ["./base.gguf"],
        "./lora.gguf",
        files=["base.gguf"],
        adapters=["lora.gguf"],
    ),
    "vision": Works(
        lambda f: {"base.gguf": f.base, "mmproj.gguf": f.mmproj},
        ["./base.gguf", "./mmproj.gguf"],
        files=["base.gguf", "mmproj.gguf"],
        loads=False,
    ),
    "adapter alone with from": Works(
        lambda f: {"lora.gguf": f.lora},
        ["base-on-ollama"],
        "./lora.gguf",
        adapters=["lora.gguf"],
        fields={"from": "base-on-ollama"},
        request={"from": "base-on-ollama"},
        without_adapters=False,
    ),
    "adapter alone that names its base": Works(
        lambda f: {"lora.gguf": f.named_lora},
        ["base-on-ollama"],
        "./lora.gguf",
        adapters=["lora.gguf"],
        request={"from": "base-on-ollama"},
        without_adapters=False,
    ),
    "PEFT adapter alone": Works(
        lambda f: PEFT,
        ["base-on-ollama"],
        ".",
        adapters=["adapter_config.json", "adapter_model.safetensors"],
        fields={"from": "base-on-ollama"},
        request={"from": "base-on-ollama"},
        loads=False,
        without_adapters=False,
    ),
    "PEFT adapter in a folder beside a GGUF": Works(
        lambda f: {"base.gguf": f.base, **{f"lora/{name}": data for name, data in PEFT.items()}},
        ["./base.gguf"],
        "./lora",
        files=["base.gguf"],
        adapters=["adapter_config.json", "adapter_model.safetensors"],
        loads=False,
    ),
    "safetensors model": Works(
        lambda f: HF_MODEL,
        ["."],
        files=["config.json", "model.safetensors", "tokenizer.json", "tokenizer.model"],
        loads=False,
        without_adapters=False,
    ),
    "pickles beside a GGUF are ignored": Works(
        lambda f: {"base.gguf": f.base, "training_args.bin": b"\x80\x02"},
        ["./base.gguf"],
        files=["base.gguf"],
    ),
    "Modelfile": Works(
        lambda f: {
            "Modelfile": b"FROM ./q8.gguf\nSYSTEM You are kind.\nPARAMETER temperature 0.5\n"
            b'PARAMETER stop a\nPARAMETER stop b\nMESSAGE user Hi\nLICENSE """MIT"""\n',
            "q8.gguf": f.q8,
            "base.gguf": f.base,
        },
        ["./q8.gguf"],
        files=["q8.gguf"],
        request={
            "system": "You are kind.",
            "parameters": {"temperature": 0.5, "stop": ["a", "b"]},
            "messages": [{"role": "user", "content": "Hi"}],
            "license": ["MIT"],
        },
    ),
    "Modelfile that names an Ollama model": Works(
        lambda f: {"Modelfile": b"FROM base-on-ollama\nADAPTER ./lora.gguf\n", "lora.gguf": f.lora},
        ["base-on-ollama"],
        "./lora.gguf",
        adapters=["lora.gguf"],
        request={"from": "base-on-ollama"},
        without_adapters=False,
    ),
    "fields": Works(
        lambda f: {"base.gguf": f.f16},
        ["./base.gguf"],
        files=["model.gguf"],
        fields={
            "system": 'Say """hi""" now\nFROM evil',
            "template": "{{ .Prompt }}",
            "parameters": '{"num_ctx": 4096, "temperature": 1, "stop": "###"}',
            "license": "MIT",
            "quantize": "q8_0",
        },
        request={
            "system": 'Say """hi""" now\nFROM evil',
            "template": "{{ .Prompt }}",
            "parameters": {"num_ctx": 4096, "temperature": 1, "stop": ["###"]},
            "license": ["MIT"],
        },
    ),
    "a family by name": Works(
        lambda f: {"base.gguf": f.with_template},
        ["./base.gguf"],
        files=["base.gguf"],
        fields={"modelfile_template": "chatml"},
        request={"parameters": {"stop": ["<|im_start|>", "<|im_end|>"]}},
    ),
    "shards": Works(
        lambda f: {f"m-{n:05}-of-00002.gguf": f.shard(n, 2) for n in (2, 1)},
        ["./m-00001-of-00002.gguf", "./m-00002-of-00002.gguf"],
        files=["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"],
        loads=False,
    ),
}


@pytest.fixture
def base_on_ollama(app: Flask, ollama: str, files: Files, tmp_path: Path) -> Iterator[None]:
    """A base model on Ollama for adapters that come alone."""
    _put_on_ollama(FlaskCaller(app.test_client()), files.base, BASE_ON_OLLAMA, tmp_path)
    yield
    requests.delete(f"{ollama}/api/delete", json={"model": BASE_ON_OLLAMA}, timeout=30)


def _put_on_ollama(caller: Caller, base: Path, name: str, folder: Path) -> None:
    zipped = write_zip(folder / "for-ollama.zip", {"base.gguf": base})
    fields = [("Model", zipped), ("model_name_on_ollama", name)]
    assert caller.send_form("/models/deploy/", fields).last["status"] == 200
    caller.send_json("DELETE", "/models/", {"model": "for-ollama"})


ROWS = [
    (version, name)
    for version in (["real"] if REAL_OLLAMA else ["0.32.15", "0.34.1"])
    for name, case in WORKS.items()
    if (case.loads or version != "real") and (case.without_adapters or version != "0.34.1")
]


@pytest.mark.ollama
@pytest.mark.parametrize(("ollama_version", "name"), ROWS)
@pytest.mark.usefixtures("base_on_ollama")
def test_works(
    request: pytest.FixtureRequest,
    app: Flask,
    ollama: str,
    new_name: str,
    files: Files,
    tmp_path: Path,
    ollama_version: str,
    name: str,
) -> None:
    case, caller = WORKS[name], FlaskCaller(app.test_client())
    zipped = write_zip(tmp_path / "zipped.zip", case.members(files))
    form = [("Model", zipped), ("model_name_on_ollama", new_name), *case.fields.items()]
    assert caller.send_form("/models/deploy/", form).last["status"] == 200
    if case.loads and case.adapters:
        check_adapter_arrived(ollama, new_name)
    if not REAL_OLLAMA:
        _check_request(request.getfixturevalue("standin"), new_name, case)
    query = f"?from={case.fields['from']}" if "from" in case.fields else ""
    answer = caller.get(f"/models/zipped/modelfile{query}")
    assert answer.headers["content-type"].startswith("text/plain")
    stated = [line for line in answer.body.decode().splitlines() if line[:5] in ("FROM ", "ADAPT")]
    adapter = [f"ADAPTER {case.adapter}"] if case.adapter else []
    assert stated == [f"FROM {path}" for path in case.from_] + adapter


def _check_request(standin: Standin, new_name: str, case: Works) -> None:
    bodies = [sent.json for sent in standin.requests if sent.path == "/api/create"]
    body = next(body for body in bodies if body["model"] == new_name)
    merged = bool(case.adapters) and standin.version == "0.34.1"
    assert sorted(body.get("files", {})) == (["model.gguf"] if merged else sorted(case.files))
    assert sorted(body.get("adapters", {})) == ([] if merged else sorted(case.adapters))
    assert body.items() >= case.request.items()


@dataclass(frozen=True)
class Refused:
    """A zip, fields and a version of Ollama that don't make a model, and what is said of it; `kept`
    as a model of ours where the zip itself is right."""

    members: Callable[[Files], Members]
    error: str
    hint: str | None = None
    fields: dict[str, str] = field(default_factory=dict)
    status: int = 422
    action: str = "Failed upload model file."
    version: str = "0.32.15"
    kept: bool = False


CREATE = "Failed create model"
KEPT = "The upload is kept as model 'zipped': POST /models/create/ makes it, without a new upload."
REFUSED = {
    "two bases": Refused(
        lambda f: {"a.gguf": f.base, "b.gguf": f.q8},
        "Found 2 base models: a.gguf, b.gguf.",
        "Zip one of each, or add a Modelfile whose FROM and ADAPTER say which.",
    ),
    "two adapters": Refused(
        lambda f: {"a.gguf": f.lora, "b.gguf": f.named_lora},
        "Found 2 adapters: a.gguf, b.gguf.",
        "Zip one of each, or add a Modelfile whose FROM and ADAPTER say which.",
    ),
    "nothing usable": Refused(
        lambda f: {"README.md": b"hello"},
        "Found no model that could be used.",
        "It needs a GGUF base model or LoRA adapter, or a safetensors folder with its config.json.",
    ),
    "an archive in the archive": Refused(
        lambda f: {"README.md": b"hello", "m/model.tar.gz": b"\x1f\x8b"},
        "Found no model that could be used, but other archives: m/model.tar.gz.",
        "Unpack them first, or upload each by itself.",
    ),
    "pickles": Refused(
        lambda f: {"pytorch_model.bin": b"\x80\x02", "optimizer.pt": b"x"},
        "The only weights found are Python pickles: pytorch_model.bin, optimizer.pt.",
        "Pickles can run code and aren't accepted. Save as safetensors, or convert to GGUF.",
    ),
    "a Git LFS pointer": Refused(
        lambda f: {"base.gguf": b"version https://git-lfs.github.com/spec/v1\n"},
        "base.gguf isn't a GGUF file but a Git LFS pointer; run `git lfs pull` and zip again.",
    ),
    "adapter of another architecture": Refused(
        lambda f: {"base.gguf": f.base, "lora.gguf": f.qwen_lora},
        "lora.gguf is for qwen2, but the base model is llama.",
    ),
    "adapter for a deeper base": Refused(
        lambda f: {"base.gguf": f.base, "lora.gguf": f.deep_lora},
        "lora.gguf changes blk.1.attn_q.weight, which the base model doesn't have.",
    ),
    "adapter for a wider base": Refused(
        lambda f: {"base.gguf": f.base, "lora.gguf": f.wide_lora},
        "lora.gguf doesn't fit blk.0.attn_q.weight: lora_a is 64x4 and lora_b 4x64"
        " where the base has 32x32.",
    ),
    "adapter without alpha": Refused(
        lambda f: {"base.gguf": f.base, "lora.gguf": f.no_alpha},
        "lora.gguf has no usable adapter.lora.alpha; convert the adapter again.",
    ),
    "a shard is missing": Refused(
        lambda f: {"m-00001-of-00002.gguf": f.shard(1, 2)},
        "The shards of m aren't complete: m-00002-of-00002.gguf isn't in the zip.",
    ),
    "shards of two sets": Refused(
        lambda f: {
            "m-00001-of-00002.gguf": f.shard(1, 2, 5),
            "m-00002-of-00002.gguf": f.shard(2, 2, 5),
        },
        "The shards of m aren't of one set: they hold 12 tensors where 5 belong.",
    ),
    "a shard under another number": Refused(
        lambda f: {
            "m-00001-of-00002.gguf": f.shard(2, 2),
            "m-00002-of-00002.gguf": f.shard(1, 2),
        },
        "m-00001-of-00002.gguf says inside that it is shard 2 of 2.",
    ),
    "a shard that isn't named like one": Refused(
        lambda f: {"model.gguf": f.shard(1, 2)},
        "model.gguf is shard 1 of 2 but isn't named like one.",
        "Name it <prefix>-00001-of-00002.gguf, as it was made.",
    ),
    "mmproj alone": Refused(
        lambda f: {"mmproj.gguf": f.mmproj, "lora.gguf": f.lora},
        "mmproj.gguf is a projector (mmproj) without its base model.",
        "Add the base model's GGUF to the zip.",
    ),
    "safetensors without its config": Refused(
        lambda f: {"model.safetensors": HF_MODEL["model.safetensors"]},
        "model.safetensors has no config.json beside it.",
        "Zip the whole folder that save_pretrained wrote, tokenizer files included.",
    ),
    "PEFT weights without their config": Refused(
        lambda f: {"adapter_model.safetensors": PEFT["adapter_model.safetensors"]},
        "adapter_model.safetensors has no adapter_config.json beside it.",
        "Zip the whole folder that PEFT's save_pretrained wrote.",
    ),
    "PEFT that isn't LoRA": Refused(
        lambda f: {**PEFT, "adapter_config.json": b'{"peft_type": "IA3"}'},
        "adapter_config.json: IA3 isn't a LoRA adapter.",
    ),
    "PEFT that can't be merged where Ollama doesn't convert it": Refused(
        lambda f: {
            "base.gguf": f.qwen,
            **PEFT,
            "adapter_model.safetensors": safetensors_bytes({"a": (2, 4)}),
        },
        "adapter_model.safetensors: The adapter changes a, which the base model doesn't have.",
        "Send it with the base model that it was trained on.",
        action=CREATE,
    ),
    "PEFT alone for an architecture that Ollama doesn't convert": Refused(
        lambda f: PEFT,
        "adapter_model.safetensors: Ollama doesn't convert safetensors adapters for qwen2. The"
        " adapter would have to be merged, but its base is a model that only Ollama has.",
        "Put the base model into the zip, or upload it here as a model of its own and name that one"
        " in the field 'from'.",
        fields={"from": "qwen-on-ollama"},
        action=CREATE,
    ),
    "adapter alone, base only on an Ollama that takes no adapters": Refused(
        lambda f: {"lora.gguf": f.lora},
        "This Ollama server (version 0.34.1) no longer takes adapters. The adapter would have to"
        " be merged, but its base is a model that only Ollama has.",
        "Put the base model into the zip, or upload it here as a model of its own and name that one"
        " in the field 'from'.",
        fields={"from": "base-on-ollama"},
        action=CREATE,
        version="0.34.1",
    ),
    "an adapter that must not be merged": Refused(
        lambda f: {"base.gguf": f.base, "lora.gguf": f.lora},
        "This Ollama server (version 0.34.1) no longer takes LoRA adapters.",
        "Send merge=auto, and the adapter is merged into its base before it is sent.",
        fields={"merge": "never"},
        action=CREATE,
        version="0.34.1",
        kept=True,
    ),
    "an adapter that must not be merged, beside a base that is quantised here": Refused(
        lambda f: {"base.gguf": f.base, "lora.gguf": f.lora},
        "This Ollama server (version 0.34.1) no longer takes LoRA adapters.",
        "Send merge=auto, and the adapter is merged into its base before it is sent.",
        fields={"merge": "never", "quantize": "Q8_0"},
        action=CREATE,
        version="0.34.1",
        kept=True,
    ),
    "adapter alone, no base named": Refused(
        lambda f: {"lora.gguf": f.lora},
        "Found an adapter without a base model, and it doesn't name one that Ollama has.",
        "Name the base in the field 'from'. Ollama has these of architecture llama:"
        " base-on-ollama:latest.",
        action=CREATE,
        kept=True,
    ),
    "adapter alone, no candidate": Refused(
        lambda f: {"lora.gguf": f.qwen_lora},
        "Found an adapter without a base model, and it doesn't name one that Ollama has.",
        "Name the base in the field 'from'. Ollama has none of architecture qwen2.",
        action=CREATE,
        kept=True,
    ),
    "adapter alone, base absent": Refused(
        lambda f: {"lora.gguf": f.lora},
        "Ollama has no model 'absent' to put the adapter on.",
        "Get it first, with `ollama pull absent`. Ollama has these of architecture llama:"
        " base-on-ollama:latest.",
        fields={"from": "absent"},
        action=CREATE,
    ),
    "adapter alone, base of another architecture": Refused(
        lambda f: {"lora.gguf": f.qwen_lora},
        "lora.gguf is for qwen2, and 'base-on-ollama' is llama.",
        "Ollama has none of architecture qwen2.",
        fields={"from": "base-on-ollama"},
        action=CREATE,
    ),
    "from beside a base": Refused(
        lambda f: {"base.gguf": f.base},
        "The zip has its own base, base.gguf: leave the field 'from' out.",
        fields={"from": "base-on-ollama"},
        status=400,
        action=CREATE,
    ),
    "Modelfile with an absolute path": Refused(
        lambda f: {"Modelfile": b"FROM /etc/passwd\n", "base.gguf": f.base},
        "The zip's Modelfile says FROM /etc/passwd, which points out of the zip.",
        "Name a file in the zip, relative to the Modelfile, or a model that Ollama has.",
    ),
    "Modelfile with dots": Refused(
        lambda f: {"Modelfile": b"FROM ./a/../../b.gguf\n", "base.gguf": f.base},
        "The zip's Modelfile says FROM ./a/../../b.gguf, which points out of the zip.",
        "Name a file in the zip, relative to the Modelfile, or a model that Ollama has.",
    ),
    "Modelfile that names nothing": Refused(
        lambda f: {"Modelfile": b"FROM ./other.gguf\n", "base.gguf": f.base},
        "The zip's Modelfile says FROM ./other.gguf, which is no base model in the zip.",
        "There are: base.gguf.",
    ),
    "Modelfile whose ADAPTER is a base": Refused(
        lambda f: {"Modelfile": b"FROM ./a.gguf\nADAPTER ./a.gguf\n", "a.gguf": f.base},
        "The zip's Modelfile says ADAPTER ./a.gguf, which is no adapter in the zip.",
        "There are: a.gguf.",
    ),
    "Modelfile that can't be read": Refused(
        lambda f: {"Modelfile": b"FORM ./a.gguf\n", "a.gguf": f.base},
        "The zip's Modelfile can't be read: Line 1: 'FORM' is no instruction. There are FROM,"
        " ADAPTER, TEMPLATE, SYSTEM, PARAMETER, LICENSE, MESSAGE, RENDERER, PARSER, REQUIRES,"
        " DRAFT.",
    ),
    "unknown parameter": Refused(
        lambda f: {"base.gguf": f.base},
        "Ollama has no parameter 'temprature'. Did you mean 'temperature'?",
        fields={"parameters": '{"temprature": 1}'},
        status=400,
        action=CREATE,
    ),
    "ill-typed parameter": Refused(
        lambda f: {"base.gguf": f.base},
        "The parameter 'num_ctx' must be a whole number of at most 64 bits, not '4096'.",
        fields={"parameters": '{"num_ctx": "4096"}'},
        status=400,
        action=CREATE,
    ),
    "unknown quantization": Refused(
        lambda f: {"base.gguf": f.base},
        "The field 'quantize' takes one of F32, F16, BF16, Q8_0, Q6_K, Q5_K_M, Q5_K_S, Q5_0,"
        " Q4_K_M, Q4_K_S, Q4_0, Q3_K_L, Q3_K_M, Q3_K_S, Q2_K, IQ4_NL, IQ4_XS, not 'Q9'.",
        fields={"quantize": "q9"},
        status=400,
    ),
    "quantizing twice": Refused(
        lambda f: {"base.gguf": f.q8},
        "The model is Q8_0 already; only F16, BF16, F32 can be quantized.",
        "Leave the field 'quantize' out, or zip the unquantized model.",
        fields={"quantize": "Q4_K_M"},
        action=CREATE,
    ),
    "a template that isn't there": Refused(
        lambda f: {"base.gguf": f.base},
        "There is no template 'klingon'. There are chatml, default, gemma, llama3, mistral, phi3,"
        " phi4.",
        fields={"modelfile_template": "klingon"},
        status=400,
        action=CREATE,
    ),
    "a name that must not be replaced": Refused(
        lambda f: {"base.gguf": f.base},
        "Ollama has a model 'base-on-ollama' already. Choose another name, or send replace=true.",
        fields={"model_name_on_ollama": "base-on-ollama", "replace": "false"},
        status=409,
        action=CREATE,
    ),
    "safetensors of an unknown kind where Ollama no longer converts": Refused(
        lambda f: {**HF_MODEL, "config.json": config_of("CohereForCausalLM")},
        "Safetensors models of the architecture CohereForCausalLM can't be converted here, and this"
        " Ollama server (version 0.34.1) doesn't convert them.",
        "Convert the model to GGUF with llama.cpp:"
        " python convert_hf_to_gguf.py <folder> --outfile model.gguf Known here are gemma, gemma2,"
        " gemma3, gemma4, gpt-oss, granite, llama, mistral3, olmo2, phi3, qwen2, qwen2moe, qwen3,"
        " qwen35, qwen3moe, smollm3. The service's owner can set MODEL_HANDLER_CONVERTER to such a"
        " command.",
        action=CREATE,
        version="0.34.1",
    ),
    "safetensors that can't be converted, on any server": Refused(
        lambda f: {**HF_MODEL, "config.json": config_of("LlamaForCausalLM")},
        "model.safetensors: config.json lacks num_hidden_layers.",
        "Zip the whole folder that save_pretrained wrote, with its own config.json.",
        action=CREATE,
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(tmp_path: Path, models_dir: Path, files: Files, name: str) -> None:
    case = REFUSED[name]
    with Standin(tmp_path / "ollama", version=case.version) as standin:
        app = create_app({"MODELS_DIR": models_dir, "OLLAMA_HOST": standin.url})
        caller = FlaskCaller(app.test_client())
        _put_on_ollama(caller, files.base, BASE_ON_OLLAMA, tmp_path)
        if case.fields.get("from") == "qwen-on-ollama":
            _put_on_ollama(caller, files.qwen, "qwen-on-ollama", tmp_path)
        zipped = write_zip(tmp_path / "zipped.zip", case.members(files))
        form = {"model_name_on_ollama": NEW, **case.fields}
        answer = caller.send_form("/models/deploy/", [("Model", zipped), *form.items()])
        hint = " ".join(filter(None, (case.hint, KEPT if case.kept else None)))
        assert answer.last["details"] == {"error": case.error, **({"hint": hint} if hint else {})}
        assert (answer.status, answer.last["status"]) == (case.status, case.status)
        assert answer.last["action"] == case.action
        assert not litter(models_dir)
        assert (models_dir / "zipped").exists() == case.kept

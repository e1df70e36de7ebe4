"""What people zip up, and what becomes of it: the Modelfile and Ollama's request, or the reason."""

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
from tests.callers import FlaskCaller
from tests.conftest import litter
from tests.gguf_files import write_base, write_lora, write_zip
from tests.standin import Standin

Members = Mapping[str, Path | bytes]
NEW = "becomes"


def safetensors_bytes(**tensors: tuple[int, ...]) -> bytes:
    """A safetensors file of float32 zeros, by tensor name and shape."""
    header, offset = {}, 0
    for name, shape in tensors.items():
        size = 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(offset)


PEFT = {
    "adapter_config.json": json.dumps(
        {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": "org/tiny"}
    ).encode(),
    "adapter_model.safetensors": safetensors_bytes(a=(2, 4)),
}
HF_MODEL = {
    "config.json": json.dumps({"architectures": ["LlamaForCausalLM"]}).encode(),
    "model.safetensors": safetensors_bytes(weight=(4, 4)),
    "tokenizer.json": b"{}",
    "tokenizer.model": b"sentencepiece",
    "README.md": b"hello",
}


class Files:
    """The files that zips are made of, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base = write_base(folder / "base.gguf")
        self.q8 = write_base(folder / "q8.gguf", dtype=gguf.GGMLQuantizationType.Q8_0)
        self.with_template = write_base(folder / "t.gguf", chat_template="{{ messages }}")
        self.qwen = write_base(folder / "qwen.gguf", "qwen2")
        self.lora = write_lora(folder / "lora.gguf")
        self.qwen_lora = write_lora(folder / "qwen-lora.gguf", "qwen2")
        self.wide_lora = write_lora(folder / "wide-lora.gguf", width=64)
        self.deep_lora = write_lora(folder / "deep-lora.gguf", blocks=2)
        self.no_alpha = write_lora(folder / "no-alpha.gguf", alpha=None)
        self.named_lora = write_lora(folder / "named-lora.gguf", base_name="base-on-ollama")
        self.mmproj = self._mmproj()

    def shard(self, number: int, count: int, tensors: int) -> Path:
        """One shard, with two tensors of its own."""
        path = self.folder / f"part-{number:05}-of-{count:05}-{tensors}.gguf"
        if not path.exists():
            writer = gguf.GGUFWriter(path, "llama")
            writer.add_uint16("split.no", number - 1)
            writer.add_uint16("split.count", count)
            writer.add_int32("split.tensors.count", tensors)
            for name in ("first", "second"):
                writer.add_tensor(f"{name}.{number}.weight", np.ones((2, 32), np.float32))
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
        return path

    def _mmproj(self) -> Path:
        path = self.folder / "mmproj.gguf"
        writer = gguf.GGUFWriter(path, "clip")
        writer.add_type("mmproj")
        writer.add_tensor("v.weight", np.ones((2, 32), np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("files"))


@dataclass(frozen=True)
class Works:
    """A zip that becomes a model: its FROM and ADAPTER, and the names in Ollama's request."""

    members: Callable[[Files], Members]
    from_: list[str]
    adapter: str | None = None
    files: list[str] = field(default_factory=list)
    adapters: list[str] = field(default_factory=list)
    fields: dict[str, str] = field(default_factory=dict)
    request: dict[str, Any] = field(default_factory=dict)


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
    ),
    "adapter alone with from": Works(
        lambda f: {"lora.gguf": f.lora},
        ["base-on-ollama"],
        "./lora.gguf",
        adapters=["lora.gguf"],
        fields={"from": "base-on-ollama"},
        request={"from": "base-on-ollama"},
    ),
    "adapter alone that names its base": Works(
        lambda f: {"lora.gguf": f.named_lora},
        ["base-on-ollama"],
        "./lora.gguf",
        adapters=["lora.gguf"],
        request={"from": "base-on-ollama"},
    ),
    "PEFT adapter alone": Works(
        lambda f: PEFT,
        ["base-on-ollama"],
        ".",
        adapters=["adapter_config.json", "adapter_model.safetensors"],
        fields={"from": "base-on-ollama"},
        request={"from": "base-on-ollama"},
    ),
    "PEFT adapter in a folder beside a GGUF": Works(
        lambda f: {"base.gguf": f.base, **{f"lora/{name}": data for name, data in PEFT.items()}},
        ["./base.gguf"],
        "./lora",
        files=["base.gguf"],
        adapters=["adapter_config.json", "adapter_model.safetensors"],
    ),
    "safetensors model": Works(
        lambda f: HF_MODEL,
        ["."],
        files=["config.json", "model.safetensors", "tokenizer.json", "tokenizer.model"],
    ),
    "pickles beside a GGUF are ignored": Works(
        lambda f: {"base.gguf": f.base, "training_args.bin": b"\x80\x02"},
        ["./base.gguf"],
        files=["base.gguf"],
    ),
    "Modelfile": Works(
        lambda f: {
            "Modelfile": b'FROM ./q8.gguf\nSYSTEM You are kind.\nPARAMETER temperature 0.5\nPARAMETER '
            b'stop a\nPARAMETER stop b\nMESSAGE user Hi\nLICENSE """MIT"""\n',
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
    ),
    "fields": Works(
        lambda f: {"base.gguf": f.base},
        ["./base.gguf"],
        files=["base.gguf"],
        fields={
            "system": 'Say """hi"""\nFROM evil',
            "template": "{{ .Prompt }}",
            "parameters": '{"num_ctx": 4096, "temperature": 1, "stop": "###"}',
            "license": "MIT",
            "quantize": "q8_0",
        },
        request={
            "system": 'Say """hi"""\nFROM evil',
            "template": "{{ .Prompt }}",
            "parameters": {"num_ctx": 4096, "temperature": 1, "stop": ["###"]},
            "license": ["MIT"],
            "quantize": "Q8_0",
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
        lambda f: {f"m-{n:05}-of-00002.gguf": f.shard(n, 2, 4) for n in (2, 1)},
        ["./m-00001-of-00002.gguf", "./m-00002-of-00002.gguf"],
        files=["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"],
    ),
}


@pytest.fixture
def deploy(
    tmp_path: Path, models_dir: Path, standin: Standin, files: Files
) -> Callable[..., dict[str, Any]]:
    """Deploys a zip of members, with a base model on the stand-in; gives the last line."""
    caller = FlaskCaller(
        create_app({"MODELS_DIR": models_dir, "OLLAMA_HOST": standin.url}).test_client()
    )
    base = write_zip(tmp_path / "for-ollama.zip", {"base.gguf": files.base})
    made = caller.send_form(
        "/models/deploy/", [("Model", base), ("model_name_on_ollama", "base-on-ollama")]
    )
    assert made.last["status"] == 200
    caller.send_json("DELETE", "/models/", {"model": "for-ollama"})

    def call(members: Members, fields: Mapping[str, str], path: str = "deploy") -> dict[str, Any]:
        path_of_zip = write_zip(tmp_path / "zipped.zip", members)
        form = [("Model", path_of_zip), ("model_name_on_ollama", NEW), *fields.items()]
        answer = caller.send_form(f"/models/{path}/", form)
        assert not litter(models_dir)
        return {**answer.last, "http": answer.status}

    call.caller = caller  # type: ignore[attr-defined]
    return call


@pytest.mark.parametrize("name", WORKS)
def test_works(
    deploy: Callable[..., dict[str, Any]], standin: Standin, files: Files, name: str
) -> None:
    case = WORKS[name]
    last = deploy(case.members(files), case.fields)
    assert last["status"] == 200, last
    request = [
        sent.json for sent in standin.requests if sent.json and sent.json.get("model") == NEW
    ][0]
    assert sorted(request.get("files", {})) == sorted(case.files)
    assert sorted(request.get("adapters", {})) == sorted(case.adapters)
    assert request.items() >= case.request.items()
    query = f"?from={case.fields['from']}" if "from" in case.fields else ""
    answer = deploy.caller.get(f"/models/zipped/modelfile{query}")  # type: ignore[attr-defined]
    text = answer.body.decode()
    assert answer.headers["content-type"].startswith("text/plain")
    stated = [line for line in text.splitlines() if line.startswith(("FROM ", "ADAPTER "))]
    adapter = [f"ADAPTER {case.adapter}"] if case.adapter else []
    assert stated == [f"FROM {path}" for path in case.from_] + adapter

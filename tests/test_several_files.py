"""Several files in one form, and folders: what people have in hand, without an archive."""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app import create_app
from tests.conftest import litter
from tests.test_zips import HF_MODEL, PEFT, Files

UPLOAD = "/models/upload/"
DEPLOY = "/models/deploy/"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("files"))


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def send(
    client: FlaskClient,
    path: str,
    files: Mapping[str, Path | bytes],
    fields: Mapping[str, str] | None = None,
    field: str = "Model",
) -> list[dict[str, Any]]:
    """The lines that a form with these files, after these fields, is answered with."""
    body = b""
    for name, value in (fields or {}).items():
        body += f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
    for name, content in files.items():
        head = f'--b\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'
        data = content if isinstance(content, bytes) else content.read_bytes()
        body += head.encode() + data + b"\r\n"
    answer = client.post(
        path, data=body + b"--b--\r\n", content_type="multipart/form-data; boundary=b"
    )
    return [json.loads(line) for line in answer.text.splitlines()]


def stored(models_dir: Path) -> dict[str, list[str]]:
    """The names of the files of each model."""
    return {
        folder.name: sorted(
            str(path.relative_to(folder))
            for path in folder.rglob("*")
            if path.is_file() and ".model-handler" not in str(path.relative_to(folder))
        )
        for folder in models_dir.iterdir()
        if not folder.name.startswith(".")
    }


INDEX = b'{"metadata": {}, "weight_map": {}}'
ROWS: dict[str, tuple[Any, dict[str, str], str, str, list[str]]] = {
    # files -> fields -> details.model, the model, its files
    "one GGUF": (
        lambda f: {"mine.gguf": f.base}, {}, "mine.gguf", "mine", ["mine.gguf"],
    ),
    "one GGUF with a name": (
        lambda f: {"a.gguf": f.base}, {"name": "other"}, "a.gguf", "other", ["a.gguf"],
    ),
    "one GGUF with its own name, as uploaders send it": (
        lambda f: {"m.gguf": f.base}, {"name": "m.gguf"}, "m.gguf", "m", ["m.gguf"]
    ),
    "base and adapter with a name": (
        lambda f: {"base.gguf": f.base, "lora.gguf": f.lora},
        {"name": "tuned"}, "tuned", "tuned", ["base.gguf", "lora.gguf"],
    ),
    "base and adapter with a name on Ollama": (
        lambda f: {"base.gguf": f.base, "lora.gguf": f.lora},
        {"model_name_on_ollama": "me/tuned:v2"},
        "me-tuned-v2", "me-tuned-v2", ["base.gguf", "lora.gguf"],
    ),
    "an adapter and its config": (
        lambda f: dict(PEFT), {}, "adapter_model.safetensors", "adapter_model", sorted(PEFT),
    ),
    "an adapter of any name and its config": (
        lambda f: {"mine.safetensors": PEFT["adapter_model.safetensors"],
                   "adapter_config.json": PEFT["adapter_config.json"]},
        {}, "mine.safetensors", "mine", ["adapter_config.json", "mine.safetensors"],
    ),
    "an adapter and its config as a field": (
        lambda f: {"mine.safetensors": PEFT["adapter_model.safetensors"]},
        {"adapter_config": PEFT["adapter_config.json"].decode()},
        "mine.safetensors", "mine", ["adapter_config.json", "mine.safetensors"],
    ),
    "shards with their index": (
        lambda f: {**{n: c for n, c in HF_MODEL.items() if n != "model.safetensors"},
                   "model-00001-of-00001.safetensors": HF_MODEL["model.safetensors"],
                   "model.safetensors.index.json": INDEX},
        {"name": "sharded"}, "sharded", "sharded",
        sorted([*(n for n in HF_MODEL if n != "model.safetensors"),
                "model-00001-of-00001.safetensors", "model.safetensors.index.json"]),
    ),
    "a folder": (
        lambda f: {f"my model/{n}": c for n, c in HF_MODEL.items()},
        {}, "my model", "my model", sorted(HF_MODEL),
    ),
    "a folder with a name": (
        lambda f: {f"out/{n}": c for n, c in PEFT.items()}, {"name": "x"}, "out", "x", sorted(PEFT),
    ),
    "a folder within a folder, and what systems add": (
        lambda f: {"top/.DS_Store": b"x", "top/base.gguf": f.base, "top/adapter/lora.gguf": f.lora},
        {}, "top", "top", ["adapter/lora.gguf", "base.gguf"],
    ),
    "a folder with Windows's separators": (
        lambda f: {"top\\\\base.gguf": f.base}, {"name": "win"}, "top", "win", ["base.gguf"],
    ),
    "an archive among a folder's files": (
        lambda f: {"top/m.gguf": f.base, "top/old.zip": b"PK"}, {}, "top", "top",
        ["m.gguf", "old.zip"],
    ),
    "a browser's empty field beside it": (
        lambda f: {"": b"", "m.gguf": f.base}, {}, "m.gguf", "m", ["m.gguf"],
    ),
    "a Modelfile that chooses": (
        lambda f: {"Modelfile": b"FROM ./a.gguf\n", "a.gguf": f.base, "b.gguf": f.f16},
        {"name": "chosen"}, "chosen", "chosen", ["Modelfile", "a.gguf", "b.gguf"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("field", ["Model", "model"])
def test_what_becomes_of_files(
    client: FlaskClient, files: Files, models_dir: Path, row: str, field: str
) -> None:
    members, fields, said, name, kept = ROWS[row]
    lines = send(client, UPLOAD, members(files), fields, field)
    assert [line["message"]["details"] for line in lines] == [{"model": said}] * 3
    assert [line["message"]["progress_ratio"] for line in lines] == [0, 0.66, 1.0]
    assert stored(models_dir) == {name: kept}
    assert not litter(models_dir)


def test_fields_after_the_files(client: FlaskClient, files: Files, models_dir: Path) -> None:
    def part(name: str, content: bytes, filename: str = "") -> bytes:
        named = f'; filename="{filename}"' if filename else ""
        head = f'--b\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'
        return head.encode() + content + b"\r\n"

    body = part("Model", files.base.read_bytes(), "base.gguf")
    body += part("Model", files.lora.read_bytes(), "lora.gguf")
    body += part("model_name_on_ollama", b"late") + b"--b--\r\n"
    kind = "multipart/form-data; boundary=b"
    answer = client.post(DEPLOY, data=body, content_type=kind)
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [line["message"]["progress"] for line in lines] == [0.0, 0.33, 0.5, 0.67, 0.83, 1.0]
    assert lines[-1]["message"]["details"] == {"model": "late", "model_name_on_ollama": "late"}


@pytest.mark.parametrize("way", ["files", "folder"])
def test_deploy_is_the_zip_s(
    client: FlaskClient, files: Files, models_dir: Path, tmp_path: Path, standin: Any, way: str
) -> None:
    """Files or a folder make the same model on Ollama as a zip of them."""
    members: dict[str, Path | bytes] = {"base.gguf": files.base, "lora.gguf": files.lora}
    zipped = tmp_path / "tuned.zip"
    with zipfile.ZipFile(zipped, "w") as archive:
        for name, path in members.items():
            archive.writestr(name, Path(str(path)).read_bytes())
    if way == "folder":
        members = {f"tuned/{name}": content for name, content in members.items()}
    fields = {"model_name_on_ollama": "tuned"}
    made = []
    for sent in (members, {"tuned.zip": zipped}):
        assert send(client, DEPLOY, sent, fields)[-1]["status"] == 200
        made.append([r.json for r in standin.requests if r.path == "/api/create"][-1])
    assert made[0] == made[1]


REFUSED: dict[str, tuple[Any, dict[str, str], int, str]] = {
    "two zips": (
        lambda f: {"a.zip": b"PK\5\6" + bytes(18), "b.zip": b""}, {},
        400, "The form holds more than one file. Send one zip at a time.",
    ),
    "a GGUF and a zip": (
        lambda f: {"a.gguf": f.base, "b.zip": b""}, {},
        400, "The form holds more than one file. Send one zip at a time.",
    ),
    "no name": (
        lambda f: {"base.gguf": f.base, "lora.gguf": f.lora}, {},
        400, "Several files came without a name for the model. Send it in the field 'name'.",
    ),
    "two folders": (
        lambda f: {"a/base.gguf": f.base, "b/lora.gguf": f.lora}, {},
        400, "Several files came without a name for the model. Send it in the field 'name'.",
    ),
    "traversal": (
        lambda f: {"a/../../base.gguf": f.base}, {},
        422, "The name 'a/../../base.gguf' in the archive points out of its folder.",
    ),
    "an absolute path": (
        lambda f: {"/etc/base.gguf": f.base}, {"name": "x"},
        422, "The name '/etc/base.gguf' in the archive is an absolute path.",
    ),
    "the service's own name": (
        lambda f: {"a/.model-handler.json": b"{}"}, {},
        422, "The name 'a/.model-handler.json' in the archive is one of the service's own; zip the"
        " model's files without it.",
    ),
    "a name that can't be": (
        lambda f: {"m.gguf": f.base}, {"name": "a/b"},
        400, "'a/b' can't be a model's name.",
    ),
    "a folder's name that can't be": (
        lambda f: {".hidden/m.gguf": f.base}, {}, 400, "'.hidden' can't be a model's name.",
    ),
    "names that differ in case": (
        lambda f: {"a/M.gguf": f.base, "a/m.gguf": f.lora}, {}, 422,
        "'a/m.gguf' differs from another name of the archive only in case",
    ),
    "an HTML page": (
        lambda f: {"m.gguf": b"<!DOCTYPE html>" + bytes(999)}, {}, 422,
        "m.gguf isn't a GGUF file but an HTML page; the download went wrong.",
    ),
    "a config alone": (
        lambda f: {"config.json": b"{}"}, {}, 400, "'config.json' isn't named like an upload.",
    ),
    "an adapter without its config": (
        lambda f: {"adapter_model.safetensors": PEFT["adapter_model.safetensors"]}, {}, 422,
        "adapter_model.safetensors has no adapter_config.json beside it.",
    ),
    "something else": (
        lambda f: {"model.bin": b"x"}, {}, 400, "'model.bin' isn't named like an upload.",
    ),
    "text instead of a file": (
        lambda f: {}, {"Model": "base.zip"}, 400,
        "The field 'Model' holds text, not a file. With curl, a file is -F Model=@model.zip.",
    ),
    "no file chosen": (
        lambda f: {"": b""}, {}, 400, "No file was chosen. Send a zip in the field 'Model'.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("row", REFUSED)
def test_what_is_refused(client: FlaskClient, files: Files, models_dir: Path, row: str) -> None:
    members, fields, status, sentence = REFUSED[row]
    (line,) = send(client, UPLOAD, members(files), fields)
    assert line["status"] == status
    assert line["message"]["details"]["error"].startswith(sentence)
    assert stored(models_dir) == {}
    assert not litter(models_dir)


def test_an_adapter_as_the_body(client: FlaskClient, models_dir: Path) -> None:
    """Its config is in the query; without it, the body isn't asked for."""
    config = PEFT["adapter_config.json"].decode()
    path, data = "/models/upload/mine.safetensors", PEFT["adapter_model.safetensors"]
    answer = client.put(path, data=data, query_string={"adapter_config": config})
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [line["message"]["details"] for line in lines] == [{"model": "mine.safetensors"}] * 3
    assert stored(models_dir) == {"mine": ["adapter_config.json", "mine.safetensors"]}
    assert client.get("/models/mine/").json["kind"] == "adapter"  # type: ignore[index]
    for query, error in {
        "": "mine.safetensors comes without a config, which tells what it is.",
        '{"peft_type": "IA3"}': "adapter_config.json: IA3 isn't a LoRA adapter.",
        "[]": "adapter_config.json isn't",
    }.items():
        answer = client.put(path, data=data, query_string={"adapter_config": query})
        assert answer.status_code == 422
        assert error in json.loads(answer.text)["message"]["details"]["error"]


def test_a_file_twice(client: FlaskClient, files: Files) -> None:
    head = b'--b\r\nContent-Disposition: form-data; name="Model"; filename="m.gguf"\r\n\r\n'
    body = (head + files.base.read_bytes() + b"\r\n") * 2 + b"--b--\r\n"
    answer = client.post(UPLOAD, data=body, content_type="multipart/form-data; boundary=b")
    assert answer.status_code == 422
    assert "is in the archive twice" in answer.text


def test_as_many_files_as_an_archive_may_hold(models_dir: Path, files: Files, ollama: str) -> None:
    settings = {"MODELS_DIR": models_dir, "OLLAMA_HOST": ollama, "MAX_ENTRIES": 80}
    client = create_app(settings).test_client()
    many: dict[str, Path | bytes] = {f"top/{number}.txt": b"" for number in range(79)}
    assert send(client, UPLOAD, {"top/m.gguf": files.base, **many})[-1]["status"] == 200
    (line,) = send(client, UPLOAD, {"top/m.gguf": files.base, **many, "top/z.txt": b""})
    assert (line["status"], "the limit is 80" in line["message"]["details"]["error"]) == (422, True)


def test_check_takes_them_too(client: FlaskClient, files: Files, models_dir: Path) -> None:
    (report,) = send(client, "/models/check/", {"top/base.gguf": files.base})
    assert (report["model"], report["kind"]) == ("top", "base")
    assert stored(models_dir) == {}


def test_a_busy_model_is_refused_before_its_file(
    app: Flask, client: FlaskClient, files: Files
) -> None:
    with app.extensions["service"].storage.hold("m", "another-task"):
        (line,) = send(client, UPLOAD, {"m.gguf": b"never looked at"})
        assert line["status"] == 409

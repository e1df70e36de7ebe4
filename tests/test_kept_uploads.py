"""A deploy that fails keeps an upload that is whole and right: create makes it, without bytes."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from app.storage.directory import Storage
from app.storage.failures import NoSpace
from tests.callers import FlaskCaller
from tests.conftest import litter
from tests.gguf_files import write_base, write_zip
from tests.standin import Standin
from tests.test_several_files import stored
from tests.test_zips import Files

CREATE, UPLOAD = "Failed create model", "Failed upload model file."
KEPT = "The upload is kept as model 'm': POST /models/create/ makes it, without a new upload."
NAME = ("model_name_on_ollama", "new")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("files"))


@pytest.fixture
def caller(app: Flask) -> FlaskCaller:
    return FlaskCaller(app.test_client())


def deploy(
    app: Flask, zipped: Path, fields: Sequence[tuple[str, str]], query: str = ""
) -> dict[str, Any]:
    """The last line of a deploy whose fields come after the file."""
    body = b'--b\r\nContent-Disposition: form-data; name="Model"; filename="m.zip"\r\n\r\n'
    body += zipped.read_bytes() + b"\r\n"
    for name, value in fields:
        body += f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
    kind = "multipart/form-data; boundary=b"
    answer = app.test_client().post(
        f"/models/deploy/{query}", data=body + b"--b--\r\n", content_type=kind
    )
    line: dict[str, Any] = json.loads(answer.text.splitlines()[-1])
    assert line["status"] == answer.status_code or query
    return line


LATE: dict[str, tuple[list[tuple[str, str]], int, str, str, dict[str, Any]]] = {
    # the fields after the file -> status, action, the sentence, what create needs besides
    "no name on Ollama": ([], 400, UPLOAD, "The field 'model_name_on_ollama' is missing", {}),
    "a bad name on Ollama": (
        [("model_name_on_ollama", "a@b")], 400, CREATE, "'a@b' can't be a model's name", {},
    ),
    "a name that is taken": (
        [("model_name_on_ollama", "base"), ("replace", "false")], 409, CREATE, "Ollama has", {},
    ),
    "an option's name with a typo": (
        [NAME, ("replaec", "false")], 400, UPLOAD, "There is no field 'replaec'", {},
    ),
    "an option's value": ([NAME, ("quantize", "Q9")], 400, UPLOAD, "The field 'quantize'", {}),
    "a parameter": (
        [NAME, ("parameters", '{"tmperature": 1}')], 400, CREATE, "Ollama has no parameter", {},
    ),
    "a Modelfile": (
        [NAME, ("modelfile", "FROM ./a.gguf")], 400, CREATE, "Line 1: The Modelfile's", {},
    ),
    "no such server": (
        [NAME, ("server", "nowhere")], 400, CREATE, "There is no Ollama server 'nowhere'", {},
    ),
    "a projector that isn't there": (
        [NAME, ("projector", "none.gguf")], 422, UPLOAD, "The field 'projector' names", {},
    ),
    "quantizing twice": (
        [NAME, ("quantize", "Q4_0")], 422, CREATE, "The model is Q8_0 already", {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("row", LATE)
def test_what_only_the_request_had_wrong(
    app: Flask, caller: FlaskCaller, files: Files, models_dir: Path, tmp_path: Path, row: str
) -> None:
    base = write_zip(tmp_path / "base.zip", {"base.gguf": files.base})
    caller.send_form("/models/deploy/", [("Model", base), ("model_name_on_ollama", "base")])
    fields, status, action, sentence, more = LATE[row]
    zipped = write_zip(tmp_path / "m.zip", {"q8.gguf": files.q8})
    line = deploy(app, zipped, fields)
    details = line["message"]["details"]
    assert (line["status"], line["message"]["action"]) == (status, action)
    assert details["error"].startswith(sentence)
    assert details["hint"].endswith(KEPT)
    assert set(details) == {"error", "hint"}
    assert stored(models_dir)["m"] == ["q8.gguf"]
    assert not litter(models_dir)
    asked = {"model": "m", "model_name_on_ollama": "new", **more}
    assert caller.send_json("POST", "/models/create/", asked).last["status"] == 200


@pytest.mark.parametrize("ollama_version", ["0.32.15"])
def test_an_adapter_whose_base_was_not_named(
    app: Flask, caller: FlaskCaller, files: Files, models_dir: Path, tmp_path: Path
) -> None:
    base = write_zip(tmp_path / "base.zip", {"base.gguf": files.base})
    caller.send_form("/models/deploy/", [("Model", base), ("model_name_on_ollama", "base")])
    line = deploy(app, write_zip(tmp_path / "m.zip", {"lora.gguf": files.lora}), [NAME])
    assert line["status"] == 422
    assert line["message"]["details"]["error"].startswith("Found an adapter without a base model")
    assert line["message"]["details"]["hint"].endswith(KEPT)
    asked = {"model": "m", "model_name_on_ollama": "new", "from": "base"}
    assert caller.send_json("POST", "/models/create/", asked).last["status"] == 200


def test_an_ollama_that_went_while_the_file_came(
    app: Flask, files: Files, standin: Standin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The details of a verbose line name the model."""
    service = app.extensions["service"]
    monkeypatch.setattr(type(service), "servers", lambda self, asked: self.ollamas())
    standin.stop()
    zipped = write_zip(tmp_path / "m.zip", {"base.gguf": files.base})
    line = deploy(app, zipped, [NAME], "?verbose=1")
    assert (line["status"], line["message"]["details"]["kept_as"]) == (502, "m")
    assert line["message"]["details"]["hint"].endswith(KEPT)


WRONG: dict[str, Any] = {
    "no model in it": lambda f: {"a.txt": b"x"},
    "a broken model": lambda f: {"a.gguf": b"GGUF" + bytes(200)},
    "two bases": lambda f: {"a.gguf": f.base, "b.gguf": f.f16},
    "a base and an adapter that don't fit": lambda f: {"a.gguf": f.base, "b.gguf": f.qwen_lora},
    "a model that can't be converted": lambda f: {
        "config.json": b'{"architectures": ["LlamaForCausalLM"]}',
        "model.safetensors": b"\x02\0\0\0\0\0\0\0{}",
    },
}  # fmt: skip


@pytest.mark.parametrize("row", WRONG)
@pytest.mark.parametrize("fields", [[NAME], []], ids=["right request", "wrong request"])
def test_what_is_wrong_itself_is_not_kept(
    app: Flask,
    files: Files,
    models_dir: Path,
    tmp_path: Path,
    row: str,
    fields: list[tuple[str, str]],
) -> None:
    if not fields and row == "a model that can't be converted":
        return  # That takes an Ollama to know.
    line = deploy(app, write_zip(tmp_path / "m.zip", WRONG[row](files)), fields)
    assert line["status"] in (400, 422)
    assert "kept" not in line["message"]["details"].get("hint", "")
    assert stored(models_dir) == {}
    assert not litter(models_dir)


def test_a_resumable_upload_stays_as_it_is(
    app: Flask, caller: FlaskCaller, files: Files, models_dir: Path, tmp_path: Path
) -> None:
    zipped = write_zip(tmp_path / "m.zip", {"base.gguf": files.base})
    asked = {"upload": whole_upload(app, zipped), "model_name_on_ollama": "new"}
    refused = caller.send_json("POST", "/models/deploy/", {**asked, "parameters": {"x": 1}})
    assert refused.status == 400
    assert refused.last["details"]["hint"] == (
        "The upload is still here: send the same request again, without its bytes."
    )
    assert stored(models_dir) == {}
    assert caller.send_json("POST", "/models/deploy/", asked).last["status"] == 200


def whole_upload(app: Flask, zipped: Path) -> str:
    """The id of a resumable upload that has arrived."""
    uploads = app.extensions["service"].storage.uploads
    upload = uploads.create(zipped.stat().st_size, {"filename": "m.zip"})
    uploads.append(upload.id, 0, [zipped.read_bytes()])
    return str(upload.id)


NO_USE: dict[str, Any] = {
    "no model in it": lambda f: {"a.txt": b"x"},
    "weights without a config": lambda f: {"model.safetensors": b"\x02\0\0\0\0\0\0\0{}"},
    "two bases": lambda f: {"a.gguf": f.base, "b.gguf": f.f16},
    "a base and an adapter that don't fit": lambda f: {"a.gguf": f.base, "b.gguf": f.qwen_lora},
}  # fmt: skip


@pytest.mark.parametrize("path", ["/models/upload/", "/models/deploy/"])
@pytest.mark.parametrize("row", NO_USE)
def test_a_resumable_upload_that_can_never_become_a_model_goes_at_once(
    app: Flask,
    caller: FlaskCaller,
    files: Files,
    models_dir: Path,
    tmp_path: Path,
    row: str,
    path: str,
) -> None:
    upload = whole_upload(app, write_zip(tmp_path / "m.zip", NO_USE[row](files)))
    asked = {"upload": upload, "model_name_on_ollama": "new"}
    refused = caller.send_json("POST", path, asked)
    assert refused.status == 422
    assert refused.last["details"]["hint"].endswith(
        "The upload is removed, since no other request would make a model of it."
    )
    assert not list(models_dir.glob(".model-handler/uploads/*"))
    assert caller.send_json("POST", path, asked).status == 404


def test_a_resumable_upload_stays_that_other_files_may_complete(
    app: Flask, caller: FlaskCaller, files: Files, models_dir: Path, tmp_path: Path
) -> None:
    """Files that the service has can be named beside it; these aren't the right ones."""
    large = write_base(tmp_path / "a.gguf", width=192, blocks=4).read_bytes()
    stored = whole_upload(app, write_zip(tmp_path / "b.zip", {"m/a.gguf": large}))
    assert caller.send_json("POST", "/models/upload/", {"upload": stored}).last["status"] == 200
    upload = whole_upload(app, write_zip(tmp_path / "m.zip", {"m/b.gguf": files.f16}))
    known = {"name": "a.gguf", "size": len(large), "sha256": hashlib.sha256(large).hexdigest()}
    refused = caller.send_json("POST", "/models/upload/", {"upload": upload, "known": [known]})
    assert refused.status == 422
    assert "removed" not in refused.last["details"].get("hint", "")
    assert caller.send_json("POST", "/models/upload/", {"upload": upload}).last["status"] == 200


def test_no_room_for_what_would_be_made_of_it(
    app: Flask, files: Files, models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said after the lines of the upload, as the hint of the last one."""

    def full(self: object, size: int, what: str, **_: object) -> None:
        if what not in ("This upload", "Extracting this archive"):
            raise NoSpace(f"{what} needs {size} bytes.")

    monkeypatch.setattr(Storage, "require_space", full)
    zipped = write_zip(tmp_path / "m.zip", {"base.gguf": files.f16})
    answer = FlaskCaller(app.test_client()).send_form(
        "/models/deploy/", [NAME, ("quantize", "Q8_0"), ("Model", zipped)]
    )
    assert (answer.status, answer.last["status"]) == (200, 507)
    assert answer.last["details"]["hint"] == KEPT
    assert stored(models_dir) == {"m": ["base.gguf"]}

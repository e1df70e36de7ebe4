"""Every failure in the contract's shape: its status, its sentence, and nothing left behind."""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from flask import Flask

from tests.callers import Answer, Caller, FlaskCaller
from tests.conftest import Zips, litter
from tests.gguf_files import write_zip
from tests.standin import Standin


@dataclass(frozen=True)
class Case:
    """A request that fails, and what it is answered with; `error` is a regular expression."""

    call: Callable[[Caller], Answer]
    status: int
    action: str
    error: str
    name: str = field(default="")


def json_case(method: str, path: str, value: object, *expected: object) -> Case:
    return Case(lambda caller: caller.send_json(method, path, value), *expected)  # type: ignore[arg-type]


DELETE, CREATE = "Failed delete model.", "Failed create model"
BEFORE_ANYTHING = {
    "delete without a name": json_case(
        "DELETE", "/models/", {}, 400, DELETE, r"The field 'model' is missing or empty\."
    ),
    "delete an unknown model": json_case(
        "DELETE", "/models/", {"model": "nope"}, 404, DELETE, r"There is no model 'nope'\."
    ),
    "delete outside": json_case(
        "DELETE", "/models/", {"model": "../x"}, 400, DELETE, r"'\.\./x' can't be a model's name\."
    ),
    "delete the service's own": json_case(
        "DELETE", "/models/", {"model": ".model-handler"}, 400, DELETE, r"can't be a model's name"
    ),
    "delete with a list": json_case(
        "DELETE", "/models/", ["x"], 400, DELETE, r"The body must be a JSON object"
    ),
    "delete with a number": json_case(
        "DELETE", "/models/", {"model": 1}, 400, DELETE, r"The field 'model' must be text\."
    ),
    "create without a new name": json_case(
        "POST", "/models/create/", {"model": "x"}, 400, CREATE, r"'model_name_on_ollama' is missing"
    ),
    "create an unknown model": json_case(
        "POST",
        "/models/create/",
        {"model": "nope", "model_name_on_ollama": "x"},
        *(404, CREATE, r"There is no model 'nope'\."),
    ),
    "create under a bad name": json_case(
        "POST",
        "/models/create/",
        {"model": "nope", "model_name_on_ollama": "bad name!"},
        *(400, CREATE, r"'bad name!' can't be a model's name on Ollama\."),
    ),
    "create under a cloud tag": json_case(
        "POST",
        "/models/create/",
        {"model": "nope", "model_name_on_ollama": "x:cloud"},
        *(400, CREATE, r"keeps the tag 'cloud' for itself"),
    ),
    "upload without a file": Case(
        lambda caller: caller.send_form("/models/upload/", [("other", "x")]),
        *(400, "Failed upload model file.", r"The form has no file\."),
    ),
    "upload as JSON that names none": json_case(
        "POST", "/models/upload/", {}, 400, "Failed upload model file.", r"'upload' is missing"
    ),
}


@pytest.mark.parametrize("name", BEFORE_ANYTHING)
def test_refused_before_any_work(caller: Caller, models_dir: Path, name: str) -> None:
    case = BEFORE_ANYTHING[name]
    answer = case.call(caller)
    assert answer.status == case.status
    assert answer.headers["content-type"] == "application/x-ndjson"
    (line,) = answer.lines
    assert line["status"] == case.status
    message = line["message"]
    assert list(message) == ["action", "task_uuid", "progress_ratio", "details"]
    assert (message["action"], message["progress_ratio"]) == (case.action, 0)
    assert re.search(case.error, message["details"]["error"])
    assert not litter(models_dir)


FILES = {
    "not a zip": (b"hello, this is not a zip file", 422, "zip"),
    "empty file": (b"", 422, "zip|empty"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("endpoint", ["upload", "deploy"])
def test_bad_archive(
    caller: Caller, models_dir: Path, tmp_path: Path, name: str, endpoint: str
) -> None:
    content, status, error = FILES[name]
    path = tmp_path / "bad.zip"
    path.write_bytes(content)
    answer = caller.send_form(
        f"/models/{endpoint}/", [("Model", path), ("model_name_on_ollama", "x")]
    )
    assert answer.status == answer.last["status"] == status
    assert answer.last["action"] == "Failed upload model file."
    assert re.search(error, answer.last["details"]["error"])
    assert not litter(models_dir)
    assert caller.get("/models/").body == b""


def test_unusable_model_file_is_a_real_422(
    caller: Caller, models_dir: Path, tmp_path: Path
) -> None:
    path = write_zip(tmp_path / "bad.zip", {"model.gguf": b"not a GGUF file at all"})
    answer = caller.send_form("/models/upload/", [("Model", path)])
    assert answer.status == 422
    assert answer.last["details"]["error"].startswith("model.gguf ")
    assert not litter(models_dir)


@pytest.mark.parametrize("filename", ["model.txt", ".zip", ".hidden.zip", "..zip", "a/b.zip"])
def test_file_names_that_make_no_model_name(app: Flask, filename: str) -> None:
    data = {"Model": (io.BytesIO(b"x"), filename)}
    response = app.test_client().post("/models/upload/", data=data)
    assert response.status_code == 400


def test_ollama_unreachable_is_502_before_the_body_is_read(
    models_dir: Path, app: Flask, zips: Zips
) -> None:
    app.config["OLLAMA_HOST"] = ("http://127.0.0.1:9",)
    answer = FlaskCaller(app.test_client()).send_form(
        "/models/deploy/", [("Model", zips.both), ("model_name_on_ollama", "x")]
    )
    assert answer.status == 502
    assert answer.last["action"] == "Failed create model"
    assert list(answer.lines[0]["message"]) == ["action", "task_uuid", "progress", "details"]
    assert not litter(models_dir)


OLLAMA_FAILURES = {
    "error line": ({"lines": [b'{"error":"no room"}\n']}, 502, "Ollama refused the model: no room"),
    "no success": ({"lines": [b'{"status":"writing manifest"}\n']}, 502, "without success"),
    "half a line": ({"lines": [b'{"status":"succ']}, 502, '{"status":"succ'),
    "invalid UTF-8": ({"lines": [b'{"status":"\xff"}\n']}, 502, "Ollama refused the model"),
    "a 500": ({"status": 500, "body": b'{"error":"boom"}'}, 502, "HTTP 500: boom"),
    "HTML": ({"status": 502, "body": b"<html>bad gateway</html>"}, 502, "HTTP 502"),
    "reset": ({"reset": True}, 502, "can't be reached|broke"),
}


@pytest.mark.parametrize("name", OLLAMA_FAILURES)
def test_ollama_fails_after_the_first_line(
    caller: Caller, standin: Standin, zips: Zips, models_dir: Path, name: str
) -> None:
    fault, status, error = OLLAMA_FAILURES[name]
    fields = [("Model", zips.both), ("model_name_on_ollama", "broken")]
    standin.fail_next("/api/create", **fault)  # type: ignore[arg-type]
    answer = caller.send_form("/models/deploy/", fields)
    assert answer.status == 200
    assert [line["status"] for line in answer.lines] == [200] * 5 + [status]
    last = answer.last
    assert (last["action"], last["progress"]) == ("Failed create model", 0.83)
    assert re.search(error, last["details"]["error"])
    assert not litter(models_dir)
    again = {"model": "tiny_lora", "model_name_on_ollama": "broken"}
    assert caller.send_json("POST", "/models/create/", again).last["status"] == 200


def test_unknown_route_and_method_answer_in_the_same_shape(caller: Caller) -> None:
    answer = caller.get("/nowhere")
    assert (answer.status, answer.last["action"]) == (404, "Failed request.")
    answer = caller.send_json("PUT", "/models/create/", {})
    assert (answer.status, answer.last["action"]) == (405, "Failed create model")
    assert "POST" in answer.headers["allow"]


def test_a_browser_gets_a_page(caller: Caller) -> None:
    answer = caller.get("/nowhere", {"Accept": "text/html"})
    assert answer.status == 404
    assert answer.headers["content-type"].startswith("text/html")


def test_api_key(models_dir: Path, standin: Standin) -> None:
    from app import create_app

    app = create_app({"MODELS_DIR": models_dir, "OLLAMA_HOST": standin.url, "API_KEY": "s3cret"})
    client = app.test_client()
    assert client.get("/healthz").status_code == 200
    assert client.get("/models/").status_code == 401
    assert client.get("/models/", headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert client.get("/models/", headers={"Authorization": "Bearer s3cret"}).status_code == 200
    assert client.get("/models/", headers={"X-API-Key": "s3cret"}).status_code == 200

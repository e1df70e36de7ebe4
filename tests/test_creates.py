"""The history of a model's creates: what was asked, what came of it, and that it stays small."""

import json
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from app.storage import creates as creates_module
from app.storage.creates import CREATES, KEPT_CREATES, VALUE_BYTES, add_create, read_creates
from app.storage.directory import Storage
from tests.callers import FlaskCaller
from tests.conftest import Zips
from tests.standin import Standin


@pytest.fixture
def caller(app: Flask, zips: Zips) -> FlaskCaller:
    """With the model tiny_lora stored."""
    caller = FlaskCaller(app.test_client())
    upload(caller, zips.both)
    return caller


def upload(caller: FlaskCaller, path: Path) -> None:
    assert caller.send_form("/models/upload/", [("Model", path)]).last["status"] == 200


def create(caller: FlaskCaller, **fields: Any) -> dict[str, Any]:
    sent = {"model": "tiny_lora", "model_name_on_ollama": "x", **fields}
    return caller.send_json("POST", "/models/create/", sent).last


def history(caller: FlaskCaller) -> list[dict[str, Any]]:
    report = json.loads(caller.get("/models/tiny_lora/?verbose=1").body)
    found: list[dict[str, Any]] = report["creates"]
    return found


def test_a_create_is_kept_with_what_was_asked(caller: FlaskCaller, standin: Standin) -> None:
    asked = {"system": "You are terse.", "parameters": {"temperature": 0.2}, "quantize": "Q8_0"}
    last = create(caller, **asked)
    [kept] = history(caller)
    assert kept["options"] == asked
    assert "SYSTEM You are terse." in kept["modelfile"]
    assert not kept["edited"]
    assert (kept["state"], kept["error"]) == ("succeeded", None)
    assert (kept["task_uuid"], kept["servers"]) == (last["task_uuid"], [standin.url])
    assert kept["converted"]["quantize"] == "Q8_0"
    report = json.loads(caller.get("/models/tiny_lora/").body)
    assert "creates" not in report
    assert kept["uploaded_at"] == report["created_at"]


def test_what_was_asked_can_be_asked_again(caller: FlaskCaller) -> None:
    create(caller, merge="always", adapter_scale=0.5, replace=True, verify=False)
    [first] = history(caller)
    create(caller, **first["options"])
    assert history(caller)[0]["options"] == first["options"]
    assert first["options"] == {"merge": "always", "adapter_scale": 0.5, "verify": False}


def test_an_edited_modelfile_is_kept(caller: FlaskCaller) -> None:
    text = caller.get("/models/tiny_lora/modelfile").body.decode() + "\n# mine\nSYSTEM Hi.\n"
    create(caller, modelfile=text)
    [kept] = history(caller)
    assert (kept["modelfile"], kept["edited"], kept["options"]) == (text, True, {})


def test_a_create_that_failed_is_kept_with_its_reason(
    caller: FlaskCaller, standin: Standin
) -> None:
    standin.fail_next("/api/create", body=b'{"error": "disk on fire"}')
    assert create(caller)["status"] == 502
    [kept] = history(caller)
    assert (kept["state"], kept["servers"]) == ("failed", [])
    assert "disk on fire" in kept["error"]


@pytest.mark.parametrize(
    ("modelfile", "line"),
    [
        ("{pair}TEMPLATE {{{{ .Prompt", 3),
        ('{pair}SYSTEM Hi\nTEMPLATE """a\nb\n{{{{ nothing }}}}"""\n', 6),
        ('TEMPLATE x\n{pair}TEMPLATE """\n{{{{ if }}}}"""', 5),
    ],
)
def test_the_line_that_ollama_refuses_in_a_template(
    caller: FlaskCaller, modelfile: str, line: int
) -> None:
    pair = "FROM ./base.gguf\nADAPTER ./lora.gguf\n"
    text = modelfile.format(pair=pair)
    sent = {"model": "tiny_lora", "model_name_on_ollama": "x", "modelfile": text}
    last = caller.send_json("POST", "/models/create/?verbose=1", sent).last
    assert "template: :" in last["details"]["error"]
    assert last["details"]["line"] == line
    assert history(caller)[0]["line"] == line


def test_a_create_that_was_left_is_kept_as_stopped(caller: FlaskCaller, app: Flask) -> None:
    client = app.test_client()
    fields = {"model": "tiny_lora", "model_name_on_ollama": "x"}
    answer = client.post("/models/create/", json=fields, buffered=False)
    next(iter(answer.response))
    answer.close()
    assert [kept["state"] for kept in history(caller)] == ["stopped"]


def test_what_is_refused_at_once_is_no_history(caller: FlaskCaller) -> None:
    assert create(caller, modelfile="FROM elsewhere")["status"] == 400
    assert history(caller) == []


def test_the_history_outlives_a_replacement_and_says_of_which_upload_it_was(
    caller: FlaskCaller, zips: Zips, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(caller)
    stamps = iter(["2030-01-01T00:00:00Z"])
    monkeypatch.setattr("app.storage.staging.time.strftime", lambda *_: next(stamps))
    upload(caller, zips.both)
    monkeypatch.undo()
    [kept] = history(caller)
    assert json.loads(caller.get("/models/tiny_lora/").body)["created_at"][:4] == "2030"
    assert kept["uploaded_at"][:4] != "2030"
    caller.send_json("DELETE", "/models/", {"model": "tiny_lora"})
    upload(caller, zips.both)
    assert history(caller) == []


def test_the_history_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / CREATES).parent.mkdir()
    for number in range(KEPT_CREATES + 5):
        add_create(tmp_path, {"number": number, "options": {"license": "x" * VALUE_BYTES}})
    kept = read_creates(tmp_path)
    assert [create["number"] for create in kept] == list(range(KEPT_CREATES + 4, 4, -1))
    assert kept[0]["options"] == {"license": None}
    monkeypatch.setattr(creates_module, "CREATES_BYTES", 10_000)
    add_create(tmp_path, {"modelfile": "y" * 6_000})
    add_create(tmp_path, {"modelfile": "z" * 6_000})
    assert [create["modelfile"][0] for create in read_creates(tmp_path)] == ["z"]


@pytest.mark.parametrize("content", ["{", "{}", "[1]", "[" * 10_000, "\xff"])
def test_a_damaged_history_is_none_and_is_written_anew(
    caller: FlaskCaller, models_dir: Path, content: str
) -> None:
    (models_dir / "tiny_lora" / CREATES).write_text(content, "latin-1")
    assert history(caller) == []
    create(caller)
    assert len(history(caller)) == 1


def test_a_folder_that_cannot_be_written_is_created_all_the_same(
    caller: FlaskCaller, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr("app.storage.creates.write_whole", refuse)
    assert create(caller)["status"] == 200
    assert history(caller) == []
    assert not Storage(models_dir).model("tiny_lora").creates()

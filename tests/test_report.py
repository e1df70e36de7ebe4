"""What the service says of its models and tasks to those who ask."""

import hashlib
import json
from pathlib import Path

import pytest

from app.formats import gguf
from app.storage.tasks import NoSuchTask, TaskLog
from tests.callers import Caller
from tests.conftest import Zips, litter
from tests.gguf_files import write_base, write_zip


def upload(caller: Caller, zip_path: Path) -> str:
    last = caller.send_form("/models/upload/", [("Model", zip_path)]).last
    assert last["status"] == 200
    uuid: str = last["task_uuid"]
    return uuid


def test_report(caller: Caller, zips: Zips, models_dir: Path) -> None:
    upload(caller, zips.both)
    answer = caller.get("/models/tiny_lora/")
    assert answer.headers["content-type"] == "application/json"
    report = json.loads(answer.body)
    files = {path.name: path.read_bytes() for path in (models_dir / "tiny_lora").glob("*.gguf")}
    assert report.pop("created_at").endswith("Z")
    assert report == {
        "model": "tiny_lora",
        "kind": "base+adapter",
        "architecture": "llama",
        "parameter_count": gguf.open_header(models_dir / "tiny_lora" / "base.gguf").parameter_count,
        "quantization": "F32",
        "context_length": 64,
        "files": [
            {
                "name": name,
                "kind": kind,
                "size": len(files[name]),
                "sha256": hashlib.sha256(files[name]).hexdigest(),
            }
            for name, kind in (("base.gguf", "base"), ("lora.gguf", "adapter"))
        ],
        "template": "default",
        "template_reason": report["template_reason"],
        "problems": [],
        "last_create": None,
    }


def test_check_reports_the_same_and_keeps_nothing(
    caller: Caller, zips: Zips, models_dir: Path
) -> None:
    checked = json.loads(caller.send_form("/models/check/", [("Model", zips.both)]).body)
    assert not (models_dir / "tiny_lora").exists()
    assert not litter(models_dir)
    upload(caller, zips.both)
    reported = json.loads(caller.get("/models/tiny_lora/").body)
    assert {**checked, "created_at": None} == {**reported, "created_at": None}


def test_check_of_what_can_t_be_used_is_422(caller: Caller, tmp_path: Path) -> None:
    zipped = write_zip(tmp_path / "bad.zip", {"README.md": b"hello"})
    answer = caller.send_form("/models/check/", [("Model", zipped)])
    assert (answer.status, answer.last["action"]) == (422, "Failed check model file.")


def test_problems_say_what_an_adapter_alone_lacks(
    caller: Caller, zips: Zips, tmp_path: Path
) -> None:
    upload(caller, zips.lora)
    report = json.loads(caller.get("/models/tiny_adapter/").body)
    assert (report["kind"], report["template"]) == ("adapter", None)
    assert report["problems"] == [
        "Found an adapter without a base model, and it doesn't name one that Ollama has."
        " Name the base in the field 'from'."
    ]


@pytest.mark.parametrize(
    ("chat_template", "arch", "template"),
    [("{{ messages }}", "qwen2", "default"), (None, "qwen2", "chatml"), (None, "gemma", "gemma")],
)
def test_a_family_fills_in_for_a_missing_chat_template(
    caller: Caller, tmp_path: Path, chat_template: str | None, arch: str, template: str
) -> None:
    base = write_base(tmp_path / "base.gguf", arch, chat_template=chat_template)
    upload(caller, write_zip(tmp_path / "m.zip", {"base.gguf": base}))
    report = json.loads(caller.get("/models/m/").body)
    assert report["template"] == template
    assert ("TEMPLATE" in caller.get("/models/m/modelfile").body.decode()) == (
        chat_template is None
    )


def test_a_report_on_no_model_is_404(caller: Caller) -> None:
    answer = caller.get("/models/nope/")
    assert (answer.status, answer.last["action"]) == (404, "Failed get model.")
    assert caller.get("/models/nope/modelfile").status == 404


def test_verbose_list_says_what_the_models_are(caller: Caller, zips: Zips) -> None:
    upload(caller, zips.base)
    (line,) = caller.get("/models/?verbose=1").lines
    details = line["message"]["details"]
    assert details.pop("created_at").endswith("Z")
    assert details.pop("size") > 100_000
    assert details.pop("parameter_count") > 10_000
    assert details == {
        "model": "tiny_base",
        "kind": "base",
        "architecture": "llama",
        "quantization": "F32",
        "context_length": 64,
    }
    (line,) = caller.get("/models/").lines
    assert line["message"]["details"] == {"model": "tiny_base"}


def test_a_task_s_lines_can_be_asked_for(caller: Caller, zips: Zips) -> None:
    sent = caller.send_form("/models/upload/", [("Model", zips.base)])
    uuid = sent.last["task_uuid"]
    answer = caller.get(f"/tasks/{uuid}")
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.body == sent.body
    failed = caller.send_json("DELETE", "/models/", {"model": "nope"}).last["task_uuid"]
    tasks = json.loads(caller.get("/tasks/").body)["tasks"]
    states = {
        task["task_uuid"]: (task["state"], task["model"], task["progress_ratio"]) for task in tasks
    }
    assert states == {uuid: ("succeeded", "tiny_base.zip", 1.0), failed: ("failed", "nope", 0)}


def test_an_unknown_task_is_404(caller: Caller) -> None:
    assert caller.get("/tasks/00000000-0000-4000-8000-000000000000").status == 404
    assert caller.get("/tasks/0000").status == 404


def test_the_oldest_tasks_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.storage.tasks.KEPT", 3)
    log = TaskLog(tmp_path)
    uuids = [f"{number:08}-0000-4000-8000-000000000000" for number in range(5)]
    for uuid in uuids:
        with log.writer(uuid) as keep:
            keep(b'{"status": 200, "message": {"action": "x", "details": {}}}\n')
            (running, *_) = log.recent()
            assert (running["task_uuid"], running["state"]) == (uuid, "running")
    assert [task["task_uuid"] for task in log.recent()] == uuids[:1:-1]
    assert {task["state"] for task in log.recent()} == {"stopped"}
    with pytest.raises(NoSuchTask):
        log.lines(uuids[0])

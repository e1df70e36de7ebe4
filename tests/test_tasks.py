"""The log of tasks: a task that runs is there, whatever else happens."""

import json
import time
from pathlib import Path
from uuid import uuid4

import pytest

from app.storage import tasks as task_module
from app.storage.tasks import KEPT, NoSuchTask, TaskLog, TaskStopped


def line(ratio: float, status: int = 200, **details: str) -> bytes:
    message = {"action": "Doing.", "progress_ratio": ratio, "details": {"model": "m", **details}}
    return json.dumps({"status": status, "message": message}).encode() + b"\n"


def states(log: TaskLog) -> dict[str, str]:
    return {task["task_uuid"]: task["state"] for task in log.recent()}


def test_refused_tasks_push_no_running_one_out(tmp_path: Path) -> None:
    log = TaskLog(tmp_path)
    running = str(uuid4())
    with log.writer(running) as keep:
        keep(line(0.5))
        for _ in range(KEPT + 5):
            with log.writer(str(uuid4())) as refuse:
                refuse(line(0, 409))
        assert states(log)[running] == "running"
        assert log.lines(running) == line(0.5)
    with log.writer(str(uuid4())):
        assert len(states(log)) == KEPT
        assert running not in states(log)


def test_a_clock_that_was_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = TaskLog(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(task_module.time, "time", lambda: 4e9)
        for _ in range(KEPT):
            with log.writer(str(uuid4())) as keep:
                keep(line(1))
    new = [str(uuid4()), str(uuid4())]
    for uuid in new:
        with log.writer(uuid) as keep:
            keep(line(1))
    recent = log.recent()
    assert [task["task_uuid"] for task in recent[:2]] == new[::-1]
    assert recent[0]["started"][:4] == time.strftime("%Y")
    assert len(recent) == KEPT


def test_tasks_of_an_earlier_version(tmp_path: Path) -> None:
    old, new = str(uuid4()), str(uuid4())
    (tmp_path / f"001700000000-{old}.jsonl").write_bytes(line(1))
    log = TaskLog(tmp_path)
    with log.writer(new):
        assert list(states(log)) == [new, old]
    assert log.recent()[1]["started"] == "2023-11-14T22:13:20Z"


@pytest.mark.parametrize(
    ("kept", "state"),
    [
        ([line(0.5), line(1)], "succeeded"),
        ([line(0.5), line(0.5, 507)], "failed"),
        ([line(0.5)], "stopped"),
        ([], "stopped"),
        ([line(0.5), b'{"status": 200, "mess'], "stopped"),
    ],
)
def test_state_of_a_task_that_has_ended(tmp_path: Path, kept: list[bytes], state: str) -> None:
    log = TaskLog(tmp_path)
    uuid = str(uuid4())
    with log.writer(uuid) as keep:
        for each in kept:
            keep(each)
    assert states(log) == {uuid: state}


def test_a_long_log_is_read_at_its_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = TaskLog(tmp_path)
    monkeypatch.setattr(task_module, "LINES_BYTES", 10**6)
    uuid = str(uuid4())
    with log.writer(uuid) as keep:
        keep(line(0))
        for _ in range(100):
            keep(line(0.5, text="x" * 20_000))
        keep(line(1))
    assert states(log) == {uuid: "succeeded"}
    assert len(log.lines(uuid)) == 10**6


@pytest.mark.parametrize("content", [b"{\n", b"[]\n", b"{}\n", b"\xff\n", b"x" * 200_000 + b"\n"])
def test_a_damaged_log_harms_no_other(tmp_path: Path, content: bytes) -> None:
    log = TaskLog(tmp_path)
    uuid = str(uuid4())
    with log.writer(str(uuid4())) as keep:
        keep(content)
    with log.writer(uuid) as keep:
        keep(line(1))
    assert states(log)[uuid] == "succeeded"


def test_another_process_sees_how_far_a_task_is_and_stops_it(tmp_path: Path) -> None:
    uuid, other = str(uuid4()), str(uuid4())
    log, elsewhere = TaskLog(tmp_path), TaskLog(tmp_path)
    with log.writer(uuid) as keep, log.writer(other):
        keep(line(0.5))
        log.check(uuid)
        log.note(uuid, {"action": "Pushing.", "bytes": 5})
        assert elsewhere.recent()[1]["now"] == {"action": "Pushing.", "bytes": 5}
        assert elsewhere.recent()[0]["now"] is None
        assert elsewhere.stop(uuid)
        with pytest.raises(TaskStopped, match="stopped on request"):
            log.check(uuid)
        log.check(other)
    assert not elsewhere.stop(uuid)
    assert "now" not in elsewhere.recent()[0]
    with pytest.raises(NoSuchTask, match="There is no task"):
        elsewhere.stop(str(uuid4()))
    assert all(path.suffix == ".jsonl" for path in tmp_path.iterdir())

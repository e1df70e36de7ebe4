"""The log: one true line for each thing that happened, whatever strangers send."""

import json
import logging
import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from flask import Flask

from app import metrics
from app.logs import EscapingFormatter, JSONFormatter, as_pairs, escaped
from tests.serving import Served
from tests.test_faults import wait_until

PROGRAM = """
import os
from app import metrics
metrics.share_between_processes()
for _ in range(5):
    pid = os.fork()
    if not pid:
        metrics.RECEIVED_BYTES.labels("raw").inc(7)
        with metrics.phase("receive"), metrics.watched("upload"):
            pass
        os._exit(0)
    os.waitpid(pid, 0)
    metrics.forget_process(pid)
print(len(os.listdir(os.environ["PROMETHEUS_MULTIPROC_DIR"])))
print(metrics.exposition(1).decode())
"""

REMOVED = """
import os, shutil
from app import metrics
metrics.share_between_processes()
shutil.rmtree(os.environ["PROMETHEUS_MULTIPROC_DIR"])
with metrics.watched("upload") as task:
    task.status = "200"
print(metrics.exposition(1).decode())
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain, \u6a21\u578b, \u00e9", "plain, \u6a21\u578b, \u00e9"),
        ("a\nb\r\tc", "a\\nb\\r\\tc"),
        ("\x1b[31mred\x9b0m", "\\x1b[31mred\\x9b0m"),
        ("a\u2028b\u2029c\u202ed", "a\\u2028b\\u2029c\\u202ed"),
        ("\udcff", "\\udcff"),
    ],
)
def test_what_is_escaped(text: str, expected: str) -> None:
    assert escaped(text) == expected


def test_an_error_s_text_forges_no_line() -> None:
    try:
        raise ValueError("x\n[2026-01-01] [1] [INFO] all is well")
    except ValueError:
        record = logging.LogRecord("a", 40, "b", 1, "%s", ("a\nb",), sys.exc_info())
    lines = EscapingFormatter("%(message)s").format(record).split("\n")
    assert lines[0] == "a\\nb"
    assert all(line.startswith("    ") for line in lines[1:])


def test_a_path_or_a_header_writes_no_escapes(served: Served) -> None:
    host = urlsplit(served.url)
    head = b"GET /models/%1b%5b31m%0aforged HTTP/1.1\r\nHost: localhost\r\nUser-Agent: \x9b31m\r\n"
    with socket.create_connection((host.hostname or "", host.port or 0)) as client:
        client.sendall(head + b"Connection: close\r\n\r\n")
        while client.recv(65536):
            pass
    wait_until(lambda: any("\\x1b[31m\\nforged" in line for line in served.log))
    said = "".join(served.log)
    assert not {"\x1b", "\x9b"} & set(said)
    assert not any(line.startswith("forged") for line in served.log)


@pytest.mark.parametrize("accept", ["text/html", "*/*"])
def test_an_unforeseen_error_is_logged_once(
    app: Flask, caplog: pytest.LogCaptureFixture, accept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the cause")

    monkeypatch.setattr("app.service.inspection.describe", fail)
    answer = app.test_client().get("/models/m/", headers={"Accept": accept})
    assert answer.status_code == 500
    assert "the cause" not in answer.text
    [record] = [record for record in caplog.records if record.exc_info]
    assert "the cause" in str(record.exc_info)


def test_restarts_leave_no_files_of_counts_and_lose_none(tmp_path: Path) -> None:
    environ = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("2\n")
    assert 'model_handler_received_bytes_total{kind="raw"} 35.0' in done.stdout


def test_a_start_removes_the_counts_of_one_that_was_killed_alone(tmp_path: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if "PROMETHEUS" not in name}
    start = "from app import metrics; metrics.share_between_processes(); print(flush=True); input()"
    command = [sys.executable, "-c", start]
    pipe = subprocess.PIPE
    others = tmp_path / "others"
    others.mkdir()
    (tmp_path / "model-handler-metrics-link").symlink_to(others)
    with ExitStack() as running:
        folders = []
        for _ in range(3):
            process = running.enter_context(
                subprocess.Popen(
                    command, env={**environ, "TMPDIR": str(tmp_path)}, stdin=pipe, stdout=pipe
                )
            )
            running.callback(process.kill)
            assert process.stdout is not None
            process.stdout.readline()
            folders.append(
                {each for each in tmp_path.glob("model-handler-*") if not each.is_symlink()}
            )
            if len(folders) == 2:
                process.kill()
                process.wait()
    first, second, third = folders
    assert first < second
    assert first < third
    assert len(third) == 2
    assert third != second
    assert others.is_dir()


def test_importing_makes_no_folder(tmp_path: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if "PROMETHEUS" not in name}
    command = [sys.executable, "-c", "import app, app.metrics"]
    subprocess.run(command, env={**environ, "TMPDIR": str(tmp_path)}, check=True)
    assert not list(tmp_path.iterdir())


def test_a_process_killed_while_it_makes_its_file_of_counts_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / "counter_77.db").touch()
    environ = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    command = [sys.executable, "-c", "from app import metrics; metrics.forget_process(77)"]
    subprocess.run(command, env=environ, check=True)
    assert not list(tmp_path.iterdir())


def test_counts_go_on_where_their_folder_was_removed(tmp_path: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if "PROMETHEUS" not in name}
    command = [sys.executable, "-c", REMOVED]
    done = subprocess.run(
        command, env={**environ, "TMPDIR": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.stderr == ""
    assert 'model_handler_tasks_total{kind="upload",status="200"} 1.0' in done.stdout
    assert not list(tmp_path.iterdir())


def test_a_record_s_traceback_stays_within_its_json() -> None:
    try:
        raise ValueError("x\ny")
    except ValueError:
        record = logging.LogRecord("a", 40, "b", 1, "%s", ("c",), sys.exc_info())
    line = JSONFormatter().format(record)
    assert "\n" not in line
    assert "ValueError" in json.loads(line)["exc_info"]


def test_a_phase_that_several_threads_are_in_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    task, now = metrics.Watched(), iter([10.0, 12.0, 15.0, 20.0, 21.5])
    monkeypatch.setattr("app.metrics.time.monotonic", lambda: next(now))
    task.enter("push")  # at 10
    task.enter("push")  # at 12
    task.leave("push")
    task.leave("push")  # at 15
    task.enter("push")  # at 20
    task.leave("push")  # at 21.5
    assert task.seconds == {"push": 6.5}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("word", "word"),
        ("", '""'),
        ("a status=200", '"a status=200"'),
        ('"', '"\\""'),
        (3, "3"),
        ({"push": 0.5}, '{"push":0.5}'),
        ("\ud800", "\\ud800"),
        ("a\n\u202e b", '"a\\n\\u202e b"'),
    ],
)
def test_a_fact_s_text_makes_no_other_fact(value: Any, said: str) -> None:
    assert as_pairs({"error": value}) == f"error={said}"

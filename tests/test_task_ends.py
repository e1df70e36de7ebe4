"""The one line that the log has of each task, at its end: all that is known of it, and no more."""

import base64
import io
import json
import logging
import socket
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
import requests
from flask import Flask
from flask.testing import FlaskClient

from app import create_app
from app.logs import EscapingFormatter, JSONFormatter
from tests.conftest import Zips
from tests.gguf_files import write_base, write_zip
from tests.serving import Served, serve
from tests.standin import Standin
from tests.test_faults import wait_until

HOSTILE = (
    "a\r\n[2026-01-01] [1] [INFO] task 1: ended status=200\x1b[31m\x9b1m\u2028\u2029\u202e\u2066b"
)
UNPRINTABLE = set("\r\x1b\x9b\u2028\u2029\u202e\u2066")


def ended(caplog: pytest.LogCaptureFixture) -> dict[str, Any]:
    """The facts of the one task that has ended."""
    [record] = [record for record in caplog.records if hasattr(record, "task_uuid")]
    return vars(record)


def test_a_deploy_ends_with_one_line_that_says_everything(
    app: Flask, caplog: pytest.LogCaptureFixture, zips: Zips, new_name: str, ollama: str
) -> None:
    caplog.set_level(logging.INFO)
    with zips.both.open("rb") as file:
        fields = {"Model": (file, "m.zip"), "model_name_on_ollama": new_name}
        answer = app.test_client().post("/models/deploy/", data=fields)
    assert answer.get_data()
    said = ended(caplog)
    assert said["task_uuid"] == answer.headers["X-Task-UUID"]
    assert said["kind"] == "deploy"
    assert (said["status"], said["error"]) == (200, "")
    assert (said["model"], said["model_name_on_ollama"]) == ("m", new_name)
    assert (said["server"], said["client"]) == (ollama, "127.0.0.1")
    assert said["bytes"] == zips.both.stat().st_size
    assert {"receive", "extract", "push", "create"} <= set(said["phases"])
    assert sum(said["phases"].values()) <= said["seconds"] + 0.01


@pytest.mark.parametrize(
    ("path", "body", "status", "model"),
    [
        ("/models/create/", {"model": "no", "model_name_on_ollama": "x"}, 404, "no"),
        ("/models/create/", {"model": "../x", "model_name_on_ollama": "x"}, 400, "../x"),
        ("/models/create/", {}, 400, None),
    ],
)
def test_a_refused_task_ends_with_its_status_and_cause(
    app: Flask,
    caplog: pytest.LogCaptureFixture,
    path: str,
    body: dict[str, str],
    status: int,
    model: str | None,
) -> None:
    answer = app.test_client().post(path, json=body)
    details = json.loads(answer.data)["message"]["details"]
    said = ended(caplog)
    assert (said["status"], said["error"]) == (status, details["error"])
    assert said.get("model") == model
    assert said["task_uuid"] == answer.headers["X-Task-UUID"]


def test_a_create_of_ollama_s_clients_ends_like_all_tasks(
    app: Flask, caplog: pytest.LogCaptureFixture, ollama: str
) -> None:
    answer = app.test_client().post("/api/create", json={"model": "x", "from": "nowhere"})
    assert "error" in answer.text
    said = ended(caplog)
    assert said["task_uuid"] == answer.headers["X-Task-UUID"]
    assert (said["model_name_on_ollama"], said["server"], said["status"]) == ("x", ollama, 502)


def test_an_unknown_address_has_its_uuid_in_the_header(app: Flask) -> None:
    answer = app.test_client().get("/nowhere")
    assert json.loads(answer.data)["message"]["task_uuid"] == answer.headers["X-Task-UUID"]


@pytest.mark.parametrize("sent", [b"PK\3\4", b"", b"GGUF\3\0\0\0", b"\x1f\x8b"])
@pytest.mark.parametrize("has_form", [True, False])
def test_a_client_that_hangs_up_within_its_upload_is_said_so(
    served: Served, has_form: bool, sent: bytes
) -> None:
    url, name = urlsplit(served.url), f"cut-{has_form}-{sent[:2].hex()}"
    head = b"POST /models/upload/" if has_form else f"PUT /models/upload/{name}.zip".encode()
    typed = b"Content-Type: multipart/form-data; boundary=b\r\n" if has_form else b""
    disposition = f'Content-Disposition: form-data; name="Model"; filename="{name}.zip"'
    field = f"--b\r\n{disposition}\r\n\r\n".encode()
    with socket.create_connection((url.hostname or "", url.port or 0)) as client:
        client.sendall(head + b" HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n" + typed)
        client.sendall(b"\r\n" + field * has_form + sent)
    wait_until(lambda: any(f"model={name} " in line for line in served.log), 30)
    [said] = [line for line in served.log if f"model={name} " in line]
    assert " status=499 " in said
    assert 'error="The client hung up."' in said


def test_the_access_log_carries_the_uuid(served: Served) -> None:
    task = requests.get(f"{served.url}/models/", timeout=30).headers["X-Task-UUID"]
    wait_until(lambda: any(line.endswith(f'" {task}\n') for line in served.log))


def test_json_lines_are_json_and_a_stranger_s_text_stays_in_its_key(
    tmp_path: Path, ollama: str
) -> None:
    settings = {"MODEL_HANDLER_LOG_FORMAT": "json", "MODEL_HANDLER_TRUSTED_PROXIES": "1"}
    with serve(tmp_path / "models", ollama, settings) as served:
        body = {"model": 'a\n\x1b"', "model_name_on_ollama": "x"}
        headers = {"X-Forwarded-For": "10.9.9.9, 10.0.0.7", "User-Agent": "\x9b31m"}
        requests.post(f"{served.url}/models/create/", json=body, headers=headers, timeout=30)
        wait_until(lambda: any("HTTP/1.1" in line for line in served.log), 30)
        lines = [json.loads(line) for line in served.log]
    [said] = [line for line in lines if "task_uuid" in line]
    assert (said["model"], said["status"], said["level"]) == ('a\\n\\x1b"', 400, "WARNING")
    assert said["client"] == "10.0.0.7"
    [access] = [line["message"] for line in lines if "HTTP/1.1" in line["message"]]
    assert access.startswith("10.0.0.7 - - ")
    assert access.endswith(f'"\\x9b31m" {said["task_uuid"]}')


def test_two_failing_deploys_at_once_can_be_told_apart(
    served: Served, standin: Standin, zips: Zips
) -> None:
    def deploy(name: str) -> tuple[requests.Response, list[dict[str, Any]]]:
        url = f"{served.url}/models/deploy/{name}.zip?model_name_on_ollama={name}"
        answer = requests.put(url, data=zips.both.read_bytes(), timeout=60)
        return answer, [json.loads(line) for line in answer.text.splitlines()]

    for cause in ("disk on fire", "memory on strike"):
        standin.fail_next("/api/create", body=json.dumps({"error": cause}).encode())
    with standin.hold("/api/blobs/", method="POST") as gate, ThreadPoolExecutor() as pool:
        answers = [pool.submit(deploy, name) for name in ("one", "two")]
        wait_until(lambda: sum("blobs" in sent.path for sent in standin.requests) >= 4, 30)
        gate.open()
    causes = set()
    for name, future in zip(("one", "two"), answers, strict=True):
        answer, lines = future.result()
        task, error = answer.headers["X-Task-UUID"], lines[-1]["message"]["details"]["error"]
        assert answer.status_code == 200
        assert {line["message"]["task_uuid"] for line in lines} == {task}
        wait_until(lambda task=task: sum(task in line for line in served.log) >= 3, 30)  # type: ignore[misc]
        [said] = [line for line in served.log if f"task {task}: ended" in line]
        facts = ("kind=deploy_raw", "status=502", f"model={name}", f"model_name_on_ollama={name}")
        assert all(f" {fact} " in said for fact in (*facts, f"server={standin.url}")), said
        assert f'error="{error}"' in said
        causes.add(error)
    assert len(causes) == 2


def test_an_upload_whose_client_hangs_up_within_a_piece_is_no_failure_of_ours(
    served: Served,
) -> None:
    tus = {"Tus-Resumable": "1.0.0"}
    name = base64.b64encode(b"cut.zip").decode()
    headers = {**tus, "Upload-Length": "100000", "Upload-Metadata": f"filename {name}"}
    place = urlsplit(
        requests.post(f"{served.url}/uploads/", headers=headers, timeout=30).headers["Location"]
    )
    url, before = urlsplit(served.url), len(served.log)
    head = f"PATCH {place.path} HTTP/1.1\r\nHost: localhost\r\nTus-Resumable: 1.0.0\r\n"
    head += "Upload-Offset: 0\r\nContent-Type: application/offset+octet-stream\r\n"
    with socket.create_connection((url.hostname or "", url.port or 0)) as client:
        client.sendall(head.encode() + b"Content-Length: 100000\r\n\r\nPK\3\4")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    wait_until(lambda: any(f"PATCH {place.path}" in line for line in served.log[before:]))
    said = "".join(served.log[before:])
    assert 'error="The client hung up."' in said
    assert " status=499 " in said
    assert "Traceback" not in said


@pytest.mark.parametrize("place", ["app.metrics.watched", "app.storage.tasks.TaskLog.writer"])
def test_no_failure_is_silent(
    app: Flask, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def fail(*_: object) -> None:
        raise FileNotFoundError(2, "the cause")

    monkeypatch.setattr(place, fail)
    answer = app.test_client().put("/models/upload/m.zip", data=b"PK")
    assert answer.status_code == 500
    [record] = [record for record in caplog.records if record.exc_info]
    assert "the cause" in str(record.exc_info)
    assert answer.headers["X-Task-UUID"] in record.getMessage()


def send_form_with_names(client: FlaskClient, _: Standin) -> None:
    name = HOSTILE.replace("\r\n", "")  # A line end ends the head's line, and so the name.
    head = f'Content-Disposition: form-data; name="Model"; filename="{name}.zip"'
    client.post(
        "/models/upload/",
        data=f"--b\r\n{head}\r\n\r\nPK\r\n--b--\r\n".encode(),
        content_type="multipart/form-data; boundary=b",
    )


def send_json(client: FlaskClient, _: Standin) -> None:
    fields = {"model": HOSTILE, "model_name_on_ollama": HOSTILE}
    client.post("/models/create/", json=fields, query_string={"server": HOSTILE})


def send_names_in_a_zip(client: FlaskClient, _: Standin) -> None:
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as archive:
        archive.writestr(f"{HOSTILE}/x.gguf", b"GGUF")
    client.put("/models/upload/m.zip", data=body.getvalue())


def be_told_by_ollama(client: FlaskClient, standin: Standin) -> None:
    standin.fail_next("/api/create", body=json.dumps({"error": HOSTILE}).encode())
    fields = {"model": "m", "model_name_on_ollama": "x"}
    assert client.post("/models/create/", json=fields).get_data()


def claim_a_client(client: FlaskClient, _: Standin) -> None:
    headers = {"X-Forwarded-For": HOSTILE.replace("\r\n", " ")}
    client.get("/models/", headers=headers)


def ask_for_a_path(client: FlaskClient, _: Standin) -> None:
    client.get(f"/models/{quote(HOSTILE)}/")
    client.put(f"/models/upload/{quote(HOSTILE)}.zip", data=b"PK")


def begin_an_upload(client: FlaskClient, _: Standin) -> None:
    name = base64.b64encode(f"{HOSTILE}.exe".encode()).decode()
    headers = {"Upload-Length": "9", "Upload-Metadata": f"filename {name}"}
    client.post("/uploads/", headers={"Tus-Resumable": "1.0.0", **headers})


@pytest.mark.parametrize(
    "send",
    [
        send_form_with_names,
        send_json,
        send_names_in_a_zip,
        be_told_by_ollama,
        claim_a_client,
        ask_for_a_path,
        begin_an_upload,
    ],
)
def test_no_stranger_s_text_forges_a_line_or_moves_a_cursor(
    models_dir: Path,
    standin: Standin,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    send: Callable[[FlaskClient, Standin], None],
) -> None:
    app = create_app({"MODELS_DIR": models_dir, "OLLAMA_HOST": standin.url, "TRUSTED_PROXIES": "1"})
    base = write_base(tmp_path / "base.gguf")
    zipped = write_zip(tmp_path / "m.zip", {"base.gguf": base})
    app.test_client().put("/models/upload/m.zip", data=zipped.read_bytes()).get_data()
    caplog.clear()
    caplog.set_level(logging.INFO)
    send(app.test_client(), standin)
    text, as_json = EscapingFormatter("%(message)s"), JSONFormatter()
    assert any("[INFO] task 1:" in record.getMessage() for record in caplog.records)
    for record in caplog.records:
        line, packed = text.format(record), as_json.format(record)
        assert "\n" not in line + packed
        assert not UNPRINTABLE & set(line)
        assert packed.isascii()
        assert not UNPRINTABLE & set("".join(map(str, json.loads(packed).values())))
        if hasattr(record, "task_uuid"):
            begun = f"task {record.task_uuid}: "
            assert line.startswith((f"{begun}ended ", f"{begun}refused "))
            assert line.count(" status=") - line.count(" ended status=200") == 1


@pytest.mark.parametrize("field", ["model", "model_name_on_ollama", "quantize", "server"])
def test_what_is_said_of_a_long_text_is_short(
    app: Flask, caplog: pytest.LogCaptureFixture, field: str
) -> None:
    fields = {"model": "m", "model_name_on_ollama": "x", field: "x" * 2**20}
    answer = app.test_client().post("/models/create/", json=fields)
    assert answer.status_code in (400, 404)
    assert len(answer.data) < 5000
    assert len(caplog.records[-1].getMessage()) < 2000

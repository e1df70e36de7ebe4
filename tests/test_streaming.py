"""Lines as they become true, and requests that don't wait for each other, under gunicorn."""

import http.client
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from flask import Flask

from tests.callers import CurlCaller, RequestsCaller
from tests.conftest import Zips, litter
from tests.serving import Served
from tests.standin import Standin

BOUNDARY = "a-boundary"


def form(fields: dict[str, str], file_field: str, zip_path: Path) -> Iterator[bytes]:
    """A multipart body in pieces: the fields, then the file in 1000-byte pieces."""
    for name, value in fields.items():
        yield (
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        ).encode()
    yield (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{file_field}";'
        f' filename="{zip_path.name}"\r\nContent-Type: application/zip\r\n\r\n'
    ).encode()
    with zip_path.open("rb") as file:
        while piece := file.read(1000):
            yield piece
    yield f"\r\n--{BOUNDARY}--\r\n".encode()


FORM_HEADERS = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


def test_lines_come_before_the_work_is_done(served: Served, zips: Zips, standin: Standin) -> None:
    with zips.both.open("rb") as file:
        requests.post(f"{served.url}/models/upload/", files={"Model": file}, timeout=30)
    fields = {"model": "tiny_lora", "model_name_on_ollama": "gated"}
    with (
        standin.hold("/api/create") as gate,
        requests.post(
            f"{served.url}/models/create/", json=fields, stream=True, timeout=30
        ) as response,
    ):
        lines = response.iter_lines()
        actions = [json.loads(next(lines))["message"]["action"] for _ in range(2)]
        assert actions == ["Started to create model.", "Start structure template"]
        gate.wait_reached(10)
        gate.open()
        rest = [json.loads(line)["message"]["action"] for line in lines]
    assert rest == ["Success create model"]


def test_verbose_lines_come_also_while_nothing_happens(
    app: Flask, zips: Zips, standin: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.views.stream.HEARTBEAT_SECONDS", 0.0)
    client = app.test_client()
    assert client.put("/models/upload/tiny_lora.zip", data=zips.both.read_bytes()).data
    fields = {"model": "tiny_lora", "model_name_on_ollama": "gated"}
    with standin.hold("/api/create") as gate:
        opened = threading.Timer(5, gate.open)
        opened.start()
        response = client.post("/models/create/?verbose=1", json=fields, buffered=False)
        actions = []
        for line in response.response:
            actions.append(json.loads(line)["message"]["action"])
            if actions[-1] == "Still working.":
                gate.open()
        opened.cancel()
    assert "Still working." in actions
    assert actions[-1] == "Success create model"


def test_client_that_streams_the_form_and_reads_line_by_line(
    served: Served, zips: Zips, standin: Standin
) -> None:
    with standin.hold("/api/create") as gate:
        response = requests.post(
            f"{served.url}/models/deploy/",
            data=form({"model_name_on_ollama": "streamed"}, "model", zips.both),
            headers=FORM_HEADERS,
            stream=True,
            timeout=30,
        )
        with response:
            lines = (json.loads(line) for line in response.iter_lines())
            before = [next(lines)["message"]["progress"] for _ in range(5)]
            gate.wait_reached(10)
            gate.open()
            after = [line["message"]["progress"] for line in lines]
    assert before + after == [0.0, 0.33, 0.5, 0.67, 0.83, 1.0]


def test_client_that_sends_the_file_field_alone(served: Served, zips: Zips) -> None:
    with zips.both.open("rb") as file:
        response = requests.post(
            f"{served.url}/models/upload/", files={"model": (zips.both.name, file)}, timeout=30
        )
    ratios = [json.loads(line)["message"]["progress_ratio"] for line in response.iter_lines()]
    assert (response.status_code, ratios) == (200, [0, 0.66, 1.0])


def test_a_slow_upload_delays_nobody(served: Served, zips: Zips, models_dir: Path) -> None:
    """One worker process; after each piece of the upload others are answered before the next."""
    took = []

    def slowly() -> Iterator[bytes]:
        for number, piece in enumerate(form({}, "Model", zips.both)):
            yield piece
            if number % 20 == 0:
                for path in ("/models/", "/healthz"):
                    started = time.monotonic()
                    assert requests.get(served.url + path, timeout=10).status_code == 200
                    took.append(time.monotonic() - started)

    url = f"{served.url}/models/upload/"
    answer = requests.post(url, data=slowly(), headers=FORM_HEADERS, timeout=60)
    assert answer.status_code == 200
    assert len(took) >= 10
    assert max(took) < 1
    assert not litter(models_dir)


@pytest.mark.parametrize("way", ["requests", "curl"])
def test_a_refusal_reaches_a_client_that_is_still_sending(
    served: Served, standin: Standin, models_dir: Path, tmp_path: Path, way: str
) -> None:
    standin.stop()
    large = tmp_path / "large.zip"
    large.write_bytes(bytes(100_000_000))
    callers = {"requests": RequestsCaller, "curl": CurlCaller}
    caller = callers[way](served.url)
    fields = [("model_name_on_ollama", "x"), ("Model", large)]
    with ThreadPoolExecutor() as at_once:
        answers = (
            at_once.submit(caller.send_form, "/models/deploy/", fields),
            at_once.submit(caller.send_file, "/models/deploy/", large, "?model_name_on_ollama=x"),
        )
    for answer in (each.result() for each in answers):
        assert answer.status == 502
        assert "can't be reached" in answer.last["details"]["error"]
    assert not litter(models_dir)


def test_a_client_that_leaves_stops_the_work(
    served: Served, zips: Zips, standin: Standin, models_dir: Path
) -> None:
    with standin.hold("/api/blobs/") as gate:
        host = urlsplit(served.url)
        connection = http.client.HTTPConnection(host.hostname or "", host.port)
        body = b"".join(form({"model_name_on_ollama": "left"}, "Model", zips.both))
        connection.request("POST", "/models/deploy/", body, FORM_HEADERS)
        response = connection.getresponse()
        assert b"Start save model." in response.readline()
        gate.wait_reached(10)
        response.close()
        connection.close()
        deadline = time.monotonic() + 10
        while litter(models_dir) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not litter(models_dir)
    assert "left" not in [request.json.get("model") for request in standin.requests if request.json]


@pytest.mark.parametrize("verbose", ["", "?verbose=0"])
def test_nothing_but_the_fixed_lines_without_verbose(
    served: Served, zips: Zips, verbose: str
) -> None:
    with zips.both.open("rb") as file:
        response = requests.post(
            f"{served.url}/models/deploy/{verbose}",
            files={"Model": file},
            data={"model_name_on_ollama": "quiet"},
            timeout=30,
        )
    assert len(response.content.splitlines()) == 6


def test_verbose_adds_lines_whose_ratios_never_go_back(served: Served, zips: Zips) -> None:
    with zips.both.open("rb") as file:
        response = requests.post(
            f"{served.url}/models/deploy/?verbose=1",
            files={"Model": file},
            data={"model_name_on_ollama": "talkative"},
            timeout=30,
        )
    messages = [json.loads(line)["message"] for line in response.iter_lines()]
    actions = [message["action"] for message in messages]
    assert {"Extracting.", "Pushing.", "Ollama: success"} <= set(actions)
    fixed = [action for action in actions if action.startswith(("Start", "Success"))]
    assert len(fixed) == 6
    ratios = [message["progress"] for message in messages]
    assert ratios == sorted(ratios)

"""Killed workers, full disks, silent peers, two at once: nothing lost, half-installed or left."""

import errno
import hashlib
import json
import os
import random
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit
from zipfile import ZIP_DEFLATED

import psutil
import pytest
import requests

from app import create_app
from tests.callers import FlaskCaller, RequestsCaller
from tests.conftest import Zips, litter
from tests.gguf_files import write_base, write_lora, write_zip
from tests.serving import Served, serve
from tests.standin import Standin

KILLS = 50


def worker_of(served: Served) -> psutil.Process:
    (worker,) = psutil.Process(served.process.pid).children()
    return worker


def wait_until_healthy(url: str) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with suppress(requests.RequestException):
            if requests.get(f"{url}/healthz", timeout=2).status_code == 200:
                return
        time.sleep(0.02)
    raise TimeoutError("the service didn't come back")


def upload(url: str, path: Path) -> requests.Response:
    with path.open("rb") as file:
        return requests.post(f"{url}/models/upload/", files={"Model": ("m.zip", file)}, timeout=60)


def content(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.gguf")
    }


def test_killed_at_50_random_moments(tmp_path: Path, models_dir: Path) -> None:
    """Whenever a worker dies in an upload, extraction, publication or replacement, the model is
    the old or the new one, whole; what the dead one staged is gone once another has started."""
    versions = []
    for number in range(2):
        lora = write_lora(tmp_path / f"lora{number}.gguf", width=512, seed=number)
        base = write_base(tmp_path / f"base{number}.gguf", width=512, seed=number)
        members = {f"base{number}.gguf": base, "lora.gguf": lora}
        versions.append(write_zip(tmp_path / f"v{number}.zip", members, ZIP_DEFLATED))
    with serve(models_dir, "127.0.0.1:9") as served:
        whole = []
        for version in versions:
            assert upload(served.url, version).status_code == 200
            whole.append(content(models_dir / "m"))
        started = time.monotonic()
        upload(served.url, versions[0])
        takes = time.monotonic() - started
        moments = random.Random(1)
        for number in range(KILLS):
            sender = threading.Thread(
                target=quietly_upload, args=(served.url, versions[number % 2])
            )
            sender.start()
            time.sleep(moments.uniform(0, takes * 1.1))
            worker_of(served).kill()
            sender.join()
            wait_until_healthy(served.url)
            assert content(models_dir / "m") in whole
            assert not litter(models_dir)
        assert upload(served.url, versions[0]).status_code == 200
        assert content(models_dir / "m") == whole[0]


def quietly_upload(url: str, path: Path) -> None:
    with suppress(requests.RequestException):
        upload(url, path)


@pytest.fixture
def own_served(models_dir: Path, standin: Standin) -> Iterator[Served]:
    """A service that the test may stop."""
    with serve(models_dir, standin.url) as served:
        yield served


def test_sigterm_lets_running_requests_end_and_refuses_new_ones(
    own_served: Served, zips: Zips, standin: Standin
) -> None:
    served = own_served
    upload(served.url, zips.both)
    fields = {"model": "m", "model_name_on_ollama": "last-one"}
    with standin.hold("/api/create") as gate:
        response = requests.post(
            f"{served.url}/models/create/", json=fields, stream=True, timeout=30
        )
        gate.wait_reached(10)
        served.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 10
        with pytest.raises(requests.ConnectionError):
            while time.monotonic() < deadline:
                requests.get(f"{served.url}/healthz", timeout=5)
        gate.open()
        lines = [json.loads(line) for line in response.iter_lines()]
    assert lines[-1]["message"]["action"] == "Success create model"


@pytest.fixture
def little_space(models_dir: Path, standin: Standin) -> Iterator[RequestsCaller]:
    """The service where no file can grow beyond 200 kB."""
    limit = 200_000
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, old[1]))
    try:
        with serve(models_dir, standin.url) as served:
            resource.setrlimit(resource.RLIMIT_FSIZE, old)
            yield RequestsCaller(served.url)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


@pytest.mark.parametrize("compressed", [False, True], ids=["stored", "deflated"])
def test_no_space(
    tmp_path: Path, models_dir: Path, little_space: RequestsCaller, zips: Zips, compressed: bool
) -> None:
    assert little_space.send_form("/models/upload/", [("Model", zips.both)]).status == 200
    before = content(models_dir / "tiny_lora")
    noise = os.urandom(300_000) if not compressed else bytes(300_000)
    base = write_base(tmp_path / "base.gguf")
    members = {"base.gguf": base, "large.bin": noise}
    large = write_zip(tmp_path / "tiny_lora.zip", members, ZIP_DEFLATED)
    answer = little_space.send_form("/models/upload/", [("Model", large)])
    assert answer.status == answer.last["status"] == 507
    assert (
        answer.last["details"]["error"]
        == "There is no space left for this in the models directory."
    )
    assert content(models_dir / "tiny_lora") == before
    assert not litter(models_dir)
    assert little_space.send_form("/models/upload/", [("Model", zips.both)]).status == 200


def test_more_than_the_disk_holds_is_refused_by_its_length(
    served: Served, models_dir: Path
) -> None:
    host = urlsplit(served.url)
    with socket.create_connection((host.hostname or "", host.port or 0)) as connection:
        connection.sendall(
            b"POST /models/upload/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99000000000\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        )
        answer = connection.recv(65536)
    free = os.statvfs(models_dir)
    expected = b"507" if free.f_bavail * free.f_frsize < 99_000_000_000 else b"400"
    assert answer.split()[1] == expected


def test_an_archive_that_grows_beyond_the_free_space(
    models_dir: Path, standin: Standin, zips: Zips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = create_app({"MODELS_DIR": models_dir, "OLLAMA_HOST": standin.url})
    caller = FlaskCaller(app.test_client())
    members = {"base.gguf": write_base(tmp_path / "base.gguf"), "zeros": bytes(10**6)}
    zipped = write_zip(tmp_path / "m.zip", members, ZIP_DEFLATED)
    with monkeypatch.context() as patched:
        patched.setattr("app.storage.directory.Storage.free_bytes", lambda _: 500_000)
        answer = caller.send_form("/models/upload/", [("Model", zipped)])
    assert (answer.status, answer.last["status"]) == (507, 507)
    assert answer.last["details"]["error"] == (
        "Extracting this archive needs 1000000 bytes and the models directory has 500000 left."
        " Delete models that are no longer needed, or give it a larger disk."
    )
    assert not litter(models_dir)
    assert caller.send_form("/models/upload/", [("Model", zips.both)]).status == 200


@pytest.mark.parametrize(
    ("where", "code", "status"),
    [
        ("pathlib.Path.mkdir", errno.EROFS, 500),
        ("pathlib.Path.mkdir", errno.EIO, 500),
        ("os.fsync", errno.EIO, 200),
        ("os.rename", errno.EIO, 200),
    ],
    ids=["read-only", "staging", "extraction", "publication"],
)
def test_a_disk_that_fails(
    models_dir: Path,
    standin: Standin,
    zips: Zips,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    code: int,
    status: int,
) -> None:
    app = create_app({"MODELS_DIR": models_dir, "OLLAMA_HOST": standin.url})
    caller = FlaskCaller(app.test_client())
    assert caller.send_form("/models/upload/", [("Model", zips.base)]).status == 200

    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code), str(models_dir))

    with monkeypatch.context() as patched:
        patched.setattr(where, fail)
        answer = caller.send_form("/models/upload/", [("Model", zips.both)])
    assert (answer.status, answer.last["status"]) == (status, 500)
    error = answer.last["details"]["error"]
    assert error == f"The models directory can't be used: {os.strerror(code)}."
    assert not litter(models_dir)
    assert not (models_dir / "tiny_lora").exists()
    assert caller.get("/models/tiny_base/").status == 200
    assert caller.send_form("/models/upload/", [("Model", zips.both)]).status == 200


def test_ollama_that_stays_silent(tmp_path: Path, models_dir: Path, zips: Zips) -> None:
    with Standin(tmp_path / "ollama") as standin, standin.hold("/api/create"):
        app = create_app(
            {"MODELS_DIR": models_dir, "OLLAMA_HOST": standin.url, "SILENCE_TIMEOUT": 1}
        )
        fields = [("Model", zips.both), ("model_name_on_ollama", "x")]
        answer = FlaskCaller(app.test_client()).send_form("/models/deploy/", fields)
    assert answer.last["status"] == 504
    assert answer.last["details"] == {
        "error": f"Ollama at {standin.url} stopped sending in the middle of its answer.",
        "hint": "The upload is kept as model 'tiny_lora': once Ollama is available again,"
        " POST /models/create/ makes it, without a new upload.",
    }
    assert not litter(models_dir)


def test_a_push_that_breaks_is_tried_once_more(
    tmp_path: Path, models_dir: Path, zips: Zips
) -> None:
    with Standin(tmp_path / "ollama") as standin:
        app = create_app({"MODELS_DIR": models_dir, "OLLAMA_HOST": standin.url})
        caller = FlaskCaller(app.test_client())
        standin.fail_next("/api/blobs/", reset=True, method="POST")
        fields = [("Model", zips.both), ("model_name_on_ollama", "x")]
        assert caller.send_form("/models/deploy/", fields).last["status"] == 200
        standin.fail_next("/api/blobs/", 500, b'{"error":"disk"}', method="HEAD")
        create = {"model": "tiny_lora", "model_name_on_ollama": "y"}
        last = caller.send_json("POST", "/models/create/", create).last
        assert (last["status"], last["details"]["error"]) == (502, "Ollama answered HTTP 500.")


def test_what_only_reads_is_tried_again(models_dir: Path, standin: Standin, zips: Zips) -> None:
    app = create_app({"MODELS_DIR": models_dir, "OLLAMA_HOST": standin.url})
    standin.fail_next("/api/version", reset=True)
    standin.fail_next("/api/blobs/", reset=True, method="HEAD")
    fields = [("Model", zips.base), ("model_name_on_ollama", "x")]
    answer = FlaskCaller(app.test_client()).send_form("/models/deploy/", fields)
    assert answer.last["status"] == 200


def test_a_client_that_leaves_a_push_closes_ollama_s_connection(
    served: Served, standin: Standin, models_dir: Path, tmp_path: Path
) -> None:
    base = write_base(tmp_path / "base.gguf", width=2048)
    zipped = write_zip(tmp_path / "m.zip", {"base.gguf": base})
    assert upload(served.url, zipped).status_code == 200
    fields = {"model": "m", "model_name_on_ollama": "left"}
    with standin.hold("/api/blobs/", method="POST") as gate:
        response = requests.post(
            f"{served.url}/models/create/", json=fields, stream=True, timeout=30
        )
        task = json.loads(next(response.iter_lines()))["message"]["task_uuid"]
        gate.wait_reached(10)
        response.close()
        wait_until(
            lambda: any(f"{task}: ended" in line and "status=499" in line for line in served.log)
        )
    wait_until(lambda: not litter(models_dir))
    (push,) = [sent for sent in standin.requests if sent.method == "POST" and "blobs" in sent.path]
    assert push.body_bytes < base.stat().st_size


def wait_until(is_so: Callable[[], bool], seconds: float = 10) -> None:
    """Look again and again until it is so. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.02)


def test_two_services_on_one_directory(models_dir: Path, standin: Standin, zips: Zips) -> None:
    """What one works on, the other refuses, naming the task; other models don't wait."""
    with serve(models_dir, standin.url) as one, serve(models_dir, standin.url) as other:
        callers = RequestsCaller(one.url), RequestsCaller(other.url)
        assert callers[0].send_form("/models/upload/", [("Model", zips.both)]).status == 200
        fields = {"model": "tiny_lora", "model_name_on_ollama": "x"}
        with standin.hold("/api/create") as gate:
            held = requests.post(f"{one.url}/models/create/", json=fields, stream=True, timeout=30)
            gate.wait_reached(10)
            lines = held.iter_lines()
            holder = json.loads(next(lines))["message"]["task_uuid"]
            answers = [
                callers[1].send_form("/models/upload/", [("Model", zips.both)]),
                callers[1].send_json("POST", "/models/create/", fields),
                callers[1].send_json("DELETE", "/models/", {"model": "tiny_lora"}),
                callers[0].send_json("DELETE", "/models/", {"model": "tiny_lora"}),
            ]
            assert callers[1].send_form("/models/upload/", [("Model", zips.base)]).status == 200
            gate.open()
            last = [json.loads(line) for line in lines][-1]
        for answer in answers:
            assert answer.status == 409
            error = answer.last["details"]["error"]
            assert error == f"Task {holder} is working on model 'tiny_lora'."
        assert last["message"]["action"] == "Success create model"
        assert callers[1].send_json("DELETE", "/models/", {"model": "tiny_lora"}).status == 200
    assert not litter(models_dir)


def test_a_race_of_uploads_of_one_name(models_dir: Path, standin: Standin, zips: Zips) -> None:
    """Each is stored whole or refused; one at least gets through."""
    statuses: list[int] = []
    with serve(models_dir, standin.url) as one, serve(models_dir, standin.url) as other:

        def send(url: str) -> None:
            statuses.extend(upload(url, zips.both).status_code for _ in range(5))

        senders = [threading.Thread(target=send, args=(url,)) for url in (one.url, other.url) * 2]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
    assert set(statuses) <= {200, 409}
    assert 200 in statuses
    assert sorted(content(models_dir / "m")) == ["base.gguf", "lora.gguf"]
    assert not litter(models_dir)

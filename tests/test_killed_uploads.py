"""Uploads to two instances whose client, workers and masters are killed at random moments.

`KILLS=50 make test ARGS=tests/test_killed_uploads.py` has more of them; `KIND=client` (or `worker`,
or `master`) kills nothing else, and with `NGINX=1` all goes through nginx.
"""

import hashlib
import http.client
import io
import json
import os
import random
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import psutil
import pytest
import requests

from tests.conftest import litter
from tests.gguf_files import write_base
from tests.serving import Served, serve
from tests.test_nginx import nginx
from tests.test_tar import tarred
from tests.test_uploads_clients import TUS, offset

KILLS = int(os.environ.get("KILLS", "8"))
KINDS = os.environ.get("KIND", "client worker master").split()
THROUGH_NGINX = "NGINX" in os.environ
GATEWAY_ERRORS = (502, 504)
"""What nginx says of an instance that was killed."""
Result = TypeVar("Result")
DEADLINE_SECONDS = 60
PIECE = 2**14
NOISE = random.Random(3).randbytes(900_000)
GUNICORN = (
    "from app.archive import arrival; arrival.CHECKPOINT_BYTES = 200_000;"
    "from app import connection; connection.SILENT_SECONDS = 0.2;"
    "from gunicorn.app.wsgiapp import run; run()"
)
DYING_CLIENT = """
import os, socket, sys
host, port, head, file, start, end = sys.argv[1:]
with socket.create_connection((host, int(port))) as connection, open(file, "rb") as content:
    content.seek(int(start))
    connection.sendall(head.encode() + content.read(int(end) - int(start)))
    os.kill(os.getpid(), 9)
"""


class Instances:
    """Two services on one models directory; a killed master is followed by another instance."""

    def __init__(self, models_dir: Path, ollama: str, dice: random.Random) -> None:
        self._running = ExitStack()
        self._models_dir, self._ollama = models_dir, ollama
        self._dice = dice
        self._proxies = 0
        self._served = [self._start(), self._start()]
        self.stop = self._running.close

    def _start(self) -> Served:
        command = (sys.executable, "-c", GUNICORN)
        served = self._running.enter_context(serve(self._models_dir, self._ollama, command=command))
        if THROUGH_NGINX:
            self._proxies += 1
            folder = self._models_dir.with_name(f"nginx-{self._proxies}")
            served.url = self._running.enter_context(nginx(folder, served.url))
        return served

    def any(self) -> Served:
        return self._dice.choice(self._served)

    def kill_worker(self, served: Served) -> None:
        for worker in psutil.Process(served.process.pid).children():
            with suppress(psutil.NoSuchProcess):
                worker.kill()

    def kill_master(self, served: Served) -> None:
        served.process.kill()
        self._served.remove(served)
        self._served.append(self._start())


@pytest.fixture
def instances(models_dir: Path, ollama: str) -> Iterator[Instances]:
    running = Instances(models_dir, ollama, random.Random(7))
    yield running
    running.stop()


def sources(folder: Path) -> Iterator[tuple[str, bytes, dict[str, bytes]]]:
    """Kind after kind: the file's name, its content, and what it holds."""
    gguf = write_base(folder / "m.gguf", width=128, blocks=2).read_bytes()
    members = {"base.gguf": gguf, "noise.bin": NOISE, "zeros.bin": bytes(500_000)}
    while True:
        yield "m.zip", zipped(members, zipfile.ZIP_STORED), members
        yield "m.zip", zipped(members, zipfile.ZIP_DEFLATED), members
        yield (
            "m.tar.gz",
            tarred({f"m/{name}": each for name, each in members.items()}, "gz"),
            members,
        )
        yield "m.gguf", gguf, {"m.gguf": gguf}


def zipped(members: dict[str, bytes], method: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


class Sending:
    """One upload of `content`, whose pieces go to either instance, with kills on the way."""

    def __init__(self, instances: Instances, file: Path, dice: random.Random) -> None:
        self._instances, self._dice, self._file = instances, dice, file
        self._content = file.read_bytes()
        self.acknowledged = self.kills = 0
        self.id = until(self._create).rpartition("/")[2]

    def send(self, most_kills: int) -> None:
        """Send all of it; `kills` counts how often something was killed meanwhile."""
        kinds = [getattr(self, f"_kill_{kind}") for kind in KINDS]
        while (start := until(self._offset)) < len(self._content):
            assert start >= self.acknowledged
            end = min(len(self._content), start + self._dice.randrange(1, 700_000))
            if self.kills < most_kills and self._dice.random() < 0.7:
                self.kills += 1
                self._dice.choice(kinds)(start, end)
            else:
                with suppress(OSError, http.client.HTTPException):
                    self._patch(self._instances.any(), start, end)

    def publish(self, *, killed: bool) -> None:
        """Make it a model, perhaps by a worker that is killed at that."""
        if killed:
            self.kills += 1
            served = self._instances.any()
            connection = _connection(served)
            body = json.dumps({"upload": self.id})
            kind = {"Content-Type": "application/json"}
            connection.request("POST", "/models/upload/", body, kind)
            time.sleep(self._dice.uniform(0, 0.05))
            self._instances.kill_worker(served)
            connection.close()
        until(self._published)

    def _create(self) -> str | None:
        name = {"m.zip": "bS56aXA=", "m.tar.gz": "bS50YXIuZ3o=", "m.gguf": "bS5nZ3Vm"}
        about = {"Upload-Metadata": f"filename {name[self._file.name]}"}
        headers = TUS | about | {"Upload-Length": str(len(self._content))}
        url = f"{self._instances.any().url}/uploads/"
        answer = requests.post(url, headers=headers, timeout=20)
        if answer.status_code in GATEWAY_ERRORS:
            return None
        assert answer.status_code == 201, answer.text
        return answer.headers["Location"]

    def _offset(self) -> int | None:
        with suppress(KeyError):  # Nothing of tus is in what nginx says itself.
            return offset(f"{self._instances.any().url}/uploads/{self.id}")
        return None

    def _published(self) -> bool | None:
        url = f"{self._instances.any().url}/models/upload/"
        answer = requests.post(url, json={"upload": self.id}, timeout=20)
        if answer.status_code in GATEWAY_ERRORS or not answer.text:
            return None
        status = json.loads(answer.text.splitlines()[-1])["status"]
        assert status in (200, 404, 409, 423), answer.text
        return True if status in (200, 404) else None

    def _kill_client(self, start: int, end: int) -> None:
        parts = urlsplit(self._instances.any().url)
        at = self._dice.randrange(start, end)
        head = "".join(f"{key}: {value}\r\n" for key, value in _headers(start, end).items())
        request = f"PATCH /uploads/{self.id} HTTP/1.1\r\nHost: {parts.netloc}\r\n{head}\r\n"
        where = [
            str(parts.hostname),
            str(parts.port),
            request,
            str(self._file),
            str(start),
            str(at),
        ]
        command = [sys.executable, "-S", "-c", DYING_CLIENT, *where]
        assert subprocess.run(command, check=False).returncode == -9

    def _kill_worker(self, start: int, end: int) -> None:
        served = self._instances.any()
        self._kill_while_it_is_sent(start, end, served, self._instances.kill_worker)

    def _kill_master(self, start: int, end: int) -> None:
        served = self._instances.any()
        self._kill_while_it_is_sent(start, end, served, self._instances.kill_master)

    def _kill_while_it_is_sent(
        self, start: int, end: int, served: Served, kill: Callable[[Served], None]
    ) -> None:
        at = self._dice.randrange(start, end)
        with suppress(OSError, http.client.HTTPException):
            self._patch(served, start, end, at, lambda: kill(served))

    def _patch(
        self,
        served: Served,
        start: int,
        end: int,
        at: int | None = None,
        then: Callable[[], None] | None = None,
    ) -> None:
        """Send a piece, and do something once the bytes before `at` are sent."""
        connection = _connection(served)
        try:
            connection.putrequest("PATCH", f"/uploads/{self.id}")
            for key, value in _headers(start, end).items():
                connection.putheader(key, value)
            connection.endheaders()
            for here in range(start, end, PIECE):
                if then and at is not None and here + PIECE > at:
                    then()
                    then = None
                connection.send(self._content[here : min(end, here + PIECE)])
            answer = connection.getresponse()
            # 408: a killed client's request came late, and this one was silent meanwhile.
            assert answer.status in (204, 408, 409, 423, *GATEWAY_ERRORS), answer.read()
            if answer.status == 204:
                self.acknowledged = end
        finally:
            connection.close()


def _headers(start: int, end: int) -> dict[str, str]:
    kind = {"Content-Type": "application/offset+octet-stream"}
    return TUS | kind | {"Upload-Offset": str(start), "Content-Length": str(end - start)}


def _connection(served: Served) -> http.client.HTTPConnection:
    parts = urlsplit(served.url)
    return http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=20)


def until(ask: Callable[[], Result | None]) -> Result:
    """What `ask` gives once it is answered, and gives something."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        with suppress(requests.RequestException):
            if (found := ask()) is not None:
                return found
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_what_arrives_is_what_was_sent(
    instances: Instances, tmp_path: Path, models_dir: Path
) -> None:
    dice = random.Random(int(os.environ.get("SEED", "16")))
    kills = 0
    for name, content, members in sources(tmp_path):
        file = tmp_path / name
        file.write_bytes(content)
        sending = Sending(instances, file, dice)
        sending.send(most_kills=min(4, KILLS - kills))
        sending.publish(killed="worker" in KINDS and kills + sending.kills < KILLS)
        kills += sending.kills
        for member, expected in members.items():
            stored = hashlib.sha256((models_dir / "m" / member).read_bytes())
            assert stored.digest() == hashlib.sha256(expected).digest()
        if kills >= KILLS:
            break
    report = requests.get(f"{instances.any().url}/models/m/", timeout=20).json()
    assert {file["name"] for file in report["files"]} == set(members)
    instances.stop()
    state = models_dir / ".model-handler"
    assert [*litter(models_dir), *state.glob("uploads/*"), *state.glob("removed/*")] == []


def test_a_client_that_lost_its_connection_silently_goes_on_soon(
    instances: Instances, tmp_path: Path
) -> None:
    """No service knows that the old connection leads nowhere."""
    content = write_base(tmp_path / "m.gguf", width=128, blocks=2).read_bytes()
    size = len(content)
    sending = Sending(instances, tmp_path / "m.gguf", random.Random(1))
    lost, other = _connection(instances.any()), instances.any()
    lost.putrequest("PATCH", f"/uploads/{sending.id}")
    for key, value in _headers(0, size).items():
        lost.putheader(key, value)
    lost.endheaders()
    lost.send(content[:1000])
    url = f"{other.url}/uploads/{sending.id}"

    def go_on(start: int, *accepted: int) -> int | None:
        headers = _headers(start, size)
        answer = requests.patch(url, data=content[start:], headers=headers, timeout=20)
        return answer.status_code if answer.status_code in accepted else None

    assert until(lambda: go_on(size - 1, 423)) == 423
    assert until(lambda: go_on(offset(url) or 0, 204)) == 204
    answer = lost.getresponse()
    assert answer.status == 408
    assert b"another request goes on" in answer.read()
    lost.close()
    sending.publish(killed=False)

"""Slow clients of every kind, twenty times as many as there are threads: others don't wait."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
import requests

from app.connection import Connection, TooSlow, Unread
from app.worker import BODIES, HEALTH, LISTS, WORK, pool_for
from tests.serving import Served, serve
from tests.slow_clients import KINDS, slow_clients

SLOW = 60
SETTINGS = {
    "MODEL_HANDLER_THREADS": "3",
    "MODEL_HANDLER_REQUEST_TIMEOUT": "1",
    "MODEL_HANDLER_UPLOAD_TIMEOUT": "1",
    "MODEL_HANDLER_UNREAD_TIMEOUT": "1",
}


@pytest.fixture(scope="module")
def beset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A service with few threads, and eleven models, one of them large."""
    folder = tmp_path_factory.mktemp("models")
    for number in range(10):
        (folder / f"model-{number}").mkdir()
    (folder / "large").mkdir()
    with (folder / "large" / "model.gguf").open("wb") as file:
        file.truncate(20_000_000)
    with serve(folder, "127.0.0.1:9", SETTINGS) as served:
        yield served


@pytest.mark.parametrize("kind", KINDS)
def test_others_are_answered_meanwhile(beset: Served, kind: str) -> None:
    with slow_clients(beset.url, kind, SLOW):
        for path in ("/healthz", "/models/", "/healthz"):
            started = time.monotonic()
            assert requests.get(beset.url + path, timeout=10).status_code == 200
            assert time.monotonic() - started < 3


def answer(client: socket.socket) -> bytes:
    """What a client is sent until the service ends the connection."""
    client.settimeout(10)
    received = b""
    try:
        while block := client.recv(65536):
            received += block
    except ConnectionResetError:
        pass
    return received


@pytest.mark.parametrize(
    ("kind", "action"),
    [
        ("half a head", b"Failed request."),
        ("half a JSON body", b"Failed create model"),
        ("half a large JSON body", b"Failed create model"),
        ("a dripping upload", b"Failed upload model file."),
    ],
)
def test_each_ends_with_408(beset: Served, kind: str, action: bytes) -> None:
    with slow_clients(beset.url, kind, 1) as [client]:
        received = answer(client)
    assert received.startswith(b"HTTP/1.1 408 ")
    assert action in received
    assert b"arrived too slowly" in received


def test_an_answer_that_is_not_read_ends(beset: Served) -> None:
    with slow_clients(beset.url, "an unread download", 1) as [client]:
        port = client.getsockname()[1]
        worker = psutil.Process(beset.process.pid).children()[0]
        deadline = time.monotonic() + 8
        while any(one.raddr and one.raddr.port == port for one in worker.net_connections()):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_worker_whose_master_was_killed_frees_its_port(tmp_path: Path) -> None:
    with serve(tmp_path / "models", "127.0.0.1:9") as served:
        assert requests.get(f"{served.url}/healthz", timeout=10).status_code == 200
        [worker] = psutil.Process(served.process.pid).children()
        host = urlsplit(served.url)
        with socket.create_connection((host.hostname or "", host.port or 0)) as idle:
            idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b"200" in idle.recv(65536)
            os.kill(served.process.pid, signal.SIGKILL)
            worker.wait(10)
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind((host.hostname or "", host.port or 0))


@pytest.mark.parametrize(
    ("request_", "pool"),
    [
        ("GET /models/ HTTP/1.1\r\nHost: x\r\n", None),
        ("GET /models/ HTTP/1.1\r\nHost: x\r\n\r\n", LISTS),
        ("GET /healthz?x=1 HTTP/1.1\r\n\r\n", HEALTH),
        ("GET /models/a/download HTTP/1.1\r\n\r\n", WORK),
        ("DELETE /models/ HTTP/1.1\r\nContent-Length: 3\r\n\r\n{}", None),
        ("DELETE /models/ HTTP/1.1\r\ncontent-length:3\r\n\r\n{} ", WORK),
        ("POST /models/upload/ HTTP/1.1\r\nContent-Length: 70000\r\n\r\n", BODIES),
        ("POST /x HTTP/1.1\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n", BODIES),
        ("POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", BODIES),
    ],
)
def test_which_threads_serve_a_request(request_: str, pool: str | None) -> None:
    assert pool_for(request_.encode()) == pool


@pytest.fixture
def pair() -> Iterator[tuple[Connection, socket.socket]]:
    """A service's end of a connection, and its client's."""
    here, there = socket.socketpair()
    with Connection(here, 0.3, 0.3) as connection, there:
        yield connection, there


@pytest.mark.parametrize(("rate", "is_enough"), [(1000, False), (5, True)])
def test_a_rate_is_required_of_an_upload(
    pair: tuple[Connection, socket.socket], rate: int, is_enough: bool
) -> None:
    """Of a byte every 10 ms, over several windows, however they fall between the bytes."""
    connection, client = pair
    connection.expect_upload(0.2, rate)
    stopped = threading.Event()

    def drip() -> None:
        while not stopped.wait(0.01):
            client.send(b"x")

    dripper = threading.Thread(target=drip)
    dripper.start()
    started = time.monotonic()
    try:
        with nullcontext() if is_enough else pytest.raises(TooSlow):
            while time.monotonic() < started + 1:
                connection.receive(1)
    finally:
        stopped.set()
        dripper.join()


def test_what_is_sent_is_to_be_read(pair: tuple[Connection, socket.socket]) -> None:
    connection, _ = pair
    with pytest.raises(Unread):
        connection.sendall(bytes(10_000_000))


def test_a_short_answer_waits_for_no_reader(pair: tuple[Connection, socket.socket]) -> None:
    connection, client = pair
    connection.begin(keeps_backlog=True)
    connection.sendall(b"x" * 3_000_000)
    received = 0
    client.setblocking(False)
    for _ in range(10_000):
        if connection.flush() and received == 3_000_000:
            break
        try:
            received += len(client.recv(65536))
        except BlockingIOError:
            continue
    assert received == 3_000_000

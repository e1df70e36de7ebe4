"""Slow clients of every kind, twenty times as many as there are threads: others don't wait."""

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from urllib.parse import urlsplit

import psutil
import pytest
import requests

from app.connection import Connection, TooSlow, Unread
from app.threads import BODIES, DOWNLOADS, HEALTH, LISTS, OLLAMA, WORK, Threads, Turns, threads_for
from app.worker import Worker
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
            assert time.monotonic() - started < 8


def test_a_download_begins_while_others_leave_theirs_unread(tmp_path: Path) -> None:
    """However long those may: they make room for who reads."""
    (tmp_path / "models" / "large").mkdir(parents=True)
    with (tmp_path / "models" / "large" / "model.gguf").open("wb") as file:
        file.truncate(20_000_000)
    settings = {"MODEL_HANDLER_THREADS": "2", "MODEL_HANDLER_UNREAD_TIMEOUT": "60"}
    with (
        serve(tmp_path / "models", "127.0.0.1:9", settings) as served,
        slow_clients(served.url, "an unread download", 12),
    ):
        started = time.monotonic()
        body = {"model": "other", "model_name_on_ollama": "other"}
        refused = requests.post(f"{served.url}/models/create/", json=body, timeout=10)
        assert refused.status_code == 404
        downloaded = requests.get(f"{served.url}/models/large/download", timeout=20)
        assert len(downloaded.content) > 20_000_000
        assert time.monotonic() - started < 15


def test_what_is_kept_for_those_who_do_not_read_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those that have waited longest go."""
    monkeypatch.setattr("app.worker.BACKLOGS_BYTES", 2_500_000)
    worker = Worker.__new__(Worker)
    dropped: list[Any] = []
    monkeypatch.setattr(worker, "_drop", dropped.append, raising=False)
    waiting: list[Any] = [Mock(**{"sock.backlog_bytes": size}) for size in (0, 10**6)]
    worker._watched = dict.fromkeys(waiting)
    worker._bound_backlogs(10**6)
    assert not dropped
    worker._bound_backlogs(2 * 10**6)
    assert dropped == waiting[1:]


@pytest.mark.parametrize("newest_first", [True, False])
def test_in_which_order_those_who_wait_are_served(newest_first: bool) -> None:
    threads, order, gate = Threads(1, "one", newest_first=newest_first), [], threading.Event()
    threads.submit(lambda give_back: (gate.wait(10), None)[1])
    for number in range(3):
        threads.submit(lambda give_back, number=number: order.append(number))  # type: ignore[misc]
    assert threads.is_awaited
    gate.set()
    threads.pool.shutdown()
    assert order == ([2, 1, 0] if newest_first else [0, 1, 2])


@pytest.mark.parametrize(
    ("turn_seconds", "gives_back", "most_at_once"),
    [(60, False, 1), (60, True, 4), (0, False, 4)],
    ids=["one after the other", "each waits for its client", "each takes long"],
)
def test_requests_begin_in_turn(turn_seconds: float, gives_back: bool, most_at_once: int) -> None:
    """32 that began at once kept health waiting for over a second, for the interpreter."""
    threads = Threads(4, "four", turn_seconds=turn_seconds)
    meeting = threading.Barrier(most_at_once)
    running, counts = set(), []

    def work(give_back: Callable[[], None]) -> None:
        running.add(threading.get_ident())
        if gives_back:
            give_back()
        meeting.wait(10)
        counts.append(len(running))
        meeting.wait(10)
        running.discard(threading.get_ident())
        meeting.wait(10)

    for _ in range(8):
        threads.submit(work)
    threads.pool.shutdown()
    assert counts == [most_at_once] * 8


def test_a_turn_that_is_over_is_not_given_back_for_another() -> None:
    turns = Turns(0)
    late = turns.take()
    turns.seconds = 60
    turns.take()
    late()
    third = threading.Thread(target=turns.take, daemon=True)
    third.start()
    third.join(0.05)
    assert third.is_alive()


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET\r\n\r\n", 400),
        (b"GET /\xff\x00<b> HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", 400),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nA: " + b"b" * 200_000 + b"\r\n\r\n", 431),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: br, chunked\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, bytes) else value,
)
def test_what_is_not_http_is_answered_in_the_contract_s_shape(
    beset: Served, request_: bytes, status: int
) -> None:
    host = urlsplit(beset.url)
    with socket.create_connection((host.hostname or "", host.port or 0)) as client:
        client.sendall(request_)
        head, _, body = answer(client).partition(b"\r\n\r\n")
    said = json.loads(body)
    assert int(head.split()[1]) == said["status"] == status, said
    assert said["message"]["details"]["error"]


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
        ("GET /models/a/download HTTP/1.1\r\n\r\n", DOWNLOADS),
        ("GET /ollama/?server=x HTTP/1.1\r\n\r\n", OLLAMA),
        ("GET /readyz HTTP/1.1\r\n\r\n", OLLAMA),
        ("DELETE /models/ HTTP/1.1\r\nContent-Length: 3\r\n\r\n{}", None),
        ("DELETE /models/ HTTP/1.1\r\ncontent-length:3\r\n\r\n{} ", WORK),
        ("POST /models/upload/ HTTP/1.1\r\nContent-Length: 70000\r\n\r\n", BODIES),
        ("POST /x HTTP/1.1\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n", BODIES),
        ("POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", BODIES),
    ],
)
def test_which_threads_serve_a_request(request_: str, pool: str | None) -> None:
    assert threads_for(request_.encode()) == pool


@pytest.fixture
def pair() -> Iterator[tuple[Connection, socket.socket]]:
    """A service's end of a connection, and its client's."""
    here, there = socket.socketpair()
    with Connection(here, 0.3, 0.3) as connection, there:
        yield connection, there


@pytest.mark.parametrize("is_taken_over", [False, True])
def test_a_silent_upload_ends_once_it_is_gone_on_with(
    pair: tuple[Connection, socket.socket], is_taken_over: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes before it is asked about is still taken; without, the window's end counts."""
    monkeypatch.setattr("app.connection.SILENT_SECONDS", 0.01)
    connection, client = pair
    connection.expect_upload(0.1, 1, lambda: is_taken_over)
    client.send(b"x")
    assert connection.receive(10) == b"x"
    started = time.monotonic()
    with pytest.raises(TooSlow, match="goes on" if is_taken_over else "too slowly"):
        connection.receive(10)
    if not is_taken_over:
        assert time.monotonic() - started > 0.09


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


def test_a_turn_is_given_back_before_a_wait_for_the_client_alone(
    pair: tuple[Connection, socket.socket],
) -> None:
    connection, client = pair
    waits: list[str] = []
    client.send(b"x")
    connection.before_waiting = lambda: waits.append("to receive")
    assert connection.receive(10) == b"x"
    connection.sendall(b"x")
    assert not waits
    with pytest.raises(TooSlow):
        connection.receive(10)
    connection.before_waiting = lambda: waits.append("to send")
    with pytest.raises(Unread):
        connection.sendall(bytes(10_000_000))
    assert waits == ["to receive", "to send"]


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

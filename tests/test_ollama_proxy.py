"""What goes through to Ollama: as it is, as it comes, in bounded memory, ended with whoever leaves;
and what is answered here in its place."""

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ollama
import psutil
import pytest
import requests

from app import create_app
from tests.serving import Served, serve
from tests.test_faults import wait_until
from tests.test_nginx import nginx

KEY = "secret"
BY_KEY = {"Authorization": f"Bearer {KEY}"}
MEBIBYTE = 2**20


class Upstream(ThreadingHTTPServer):
    """An Ollama that answers as a test says, and remembers what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.answer: Callable[[_Handler], None] = _Handler.say
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.ended = threading.Event()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections that a test breaks off are none."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Upstream

    def handle_request(self) -> None:
        if self.path == "/api/version":  # which the service asks for by itself
            self.say(b'{"version": "0.34.1"}')
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.asked.append((self.command, self.path, headers))
        self.server.answer(self)

    do_GET = do_HEAD = do_POST = do_DELETE = handle_request

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""

    def body(self) -> Iterator[bytes]:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        left = int(self.headers.get("Content-Length") or 0)
        while left and (block := self.rfile.read(min(left, 2**16))):
            left -= len(block)
            yield block

    def say(self, content: bytes = b"{}", status: int = 200, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def begin(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def chunk(self, content: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(content), content))


@pytest.fixture(scope="module")
def running() -> Iterator[Upstream]:
    with Upstream() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def upstream(running: Upstream) -> Upstream:
    running.answer = _Handler.say
    running.asked.clear()
    running.ended.clear()
    return running


@pytest.fixture(scope="module")
def proxying(running: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    settings = {"MODEL_HANDLER_OLLAMA_PROXY": "1", "MODEL_HANDLER_API_KEY": KEY}
    with serve(tmp_path_factory.mktemp("proxying"), running.url, settings) as served:
        yield served


@pytest.fixture(scope="module")
def behind_nginx(proxying: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with nginx(tmp_path_factory.mktemp("nginx") / "nginx", proxying.url) as url:
        yield url


@pytest.fixture(params=["gunicorn", "nginx"])
def url(request: pytest.FixtureRequest, proxying: Served) -> str:
    """The service's address, its own and that of an nginx before it."""
    if request.param == "gunicorn":
        return proxying.url
    found: str = request.getfixturevalue("behind_nginx")
    return found


def test_a_request_arrives_as_it_was_sent(proxying: Served, upstream: Upstream) -> None:
    def answer(handler: _Handler) -> None:
        assert b"".join(handler.body()) == b'{"model": "m"}'
        handler.say(b"no such", 418, X_Mine="yes", Connection="x-hop", X_Hop="no")

    upstream.answer = answer
    headers = {"X-Own": "kept", "Connection": "x-hop", "X-Hop": "1", "Accept": "text/x", **BY_KEY}
    said = requests.post(
        f"{proxying.url}/api/show%20x?a=%2F&b", data='{"model": "m"}', headers=headers, timeout=30
    )
    assert (said.status_code, said.content, said.headers["X-Mine"]) == (418, b"no such", "yes")
    assert "X-Hop" not in said.headers
    assert "," not in said.headers["Server"]
    ((method, path, sent),) = upstream.asked
    assert (method, path) == ("POST", "/api/show%20x?a=%2F&b")
    assert (sent["x-own"], sent["accept"], sent["content-length"]) == ("kept", "text/x", "14")
    assert sent["host"] == urlsplit(upstream.url).netloc
    assert not {"authorization", "x-api-key", "x-hop", "cookie", "origin"} & sent.keys()


@pytest.mark.parametrize("path", ["/v1/models", "/api/tags", "/api/a/b/c"])
def test_head_and_get(proxying: Served, upstream: Upstream, path: str) -> None:
    said = requests.head(f"{proxying.url}{path}", headers=BY_KEY, timeout=30)
    assert (said.status_code, said.headers["Content-Length"]) == (200, "2")
    said = requests.get(f"{proxying.url}{path}", headers=BY_KEY, timeout=30)
    assert (said.status_code, said.content) == (200, b"{}")
    assert [asked[:2] for asked in upstream.asked] == [("HEAD", path), ("GET", path)]


def test_lines_come_as_they_are_said(url: str, upstream: Upstream) -> None:
    read = threading.Event()

    def answer(handler: _Handler) -> None:
        list(handler.body())
        handler.begin()
        for number in range(3):
            handler.chunk(b"%d\n" % number)
            assert read.wait(20)
            read.clear()
        handler.chunk(b"")

    upstream.answer = answer
    chat = f"{url}/api/chat"
    with requests.post(chat, json={}, headers=BY_KEY, stream=True, timeout=30) as said:
        for number, line in enumerate(said.iter_lines(chunk_size=1)):
            assert line == str(number).encode()
            read.set()


def test_a_body_goes_on_while_it_comes(url: str, upstream: Upstream) -> None:
    arrived: list[bytes] = []

    def answer(handler: _Handler) -> None:
        arrived.extend(handler.body())
        handler.say()

    def body() -> Iterator[bytes]:
        yield b"first"
        wait_until(lambda: arrived == [b"first"])
        yield b"second"

    upstream.answer = answer
    path = "/v1/audio/transcriptions"
    assert requests.post(url + path, data=body(), headers=BY_KEY, timeout=30).status_code == 200
    assert b"".join(arrived) == b"firstsecond"


def test_memory_stays_bounded_both_ways(proxying: Served, upstream: Upstream) -> None:
    def answer(handler: _Handler) -> None:
        count = sum(map(len, handler.body()))
        handler.begin()
        for _ in range(count // MEBIBYTE):
            handler.chunk(bytes(MEBIBYTE))
        handler.chunk(b"")

    upstream.answer = answer
    (worker,) = psutil.Process(proxying.process.pid).children()
    requests.get(f"{proxying.url}/healthz", timeout=30)
    before = peak(worker.pid)
    blocks = (bytes(MEBIBYTE) for _ in range(128))
    url = f"{proxying.url}/api/push"
    with requests.post(url, data=blocks, headers=BY_KEY, stream=True, timeout=60) as said:
        assert sum(map(len, said.iter_content(MEBIBYTE))) == 128 * MEBIBYTE
    assert peak(worker.pid) - before < 32 * MEBIBYTE


def peak(pid: int) -> int:
    """The most memory that a process has had, in bytes."""
    match = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert match is not None
    return int(match[1]) * 1024


@pytest.mark.parametrize("when", ["before the answer", "within the answer"])
def test_a_client_that_leaves_ends_the_request(url: str, upstream: Upstream, when: str) -> None:
    reached = threading.Event()

    def answer(handler: _Handler) -> None:
        list(handler.body())
        if when == "within the answer":
            handler.begin()
            handler.chunk(b"line\n")
        reached.set()
        handler.connection.settimeout(20)
        assert handler.connection.recv(1) == b""  # the service has closed it
        upstream.ended.set()

    upstream.answer = answer
    with connected(url) as connection:
        head = f"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {KEY}\r\n"
        connection.sendall(f"{head}Content-Length: 2\r\n\r\n{{}}".encode())
        assert reached.wait(20)
        if when == "within the answer":
            assert b"200 OK" in connection.recv(4096)
    assert upstream.ended.wait(20)


@contextmanager
def connected(url: str) -> Iterator[socket.socket]:
    place = urlsplit(url)
    with socket.create_connection((place.hostname, place.port), timeout=20) as connection:
        yield connection


def test_a_client_that_leaves_within_its_body(proxying: Served, upstream: Upstream) -> None:
    def answer(handler: _Handler) -> None:
        try:
            list(handler.body())
        finally:
            upstream.ended.set()
        if not handler.rfile.closed:
            handler.say()

    upstream.answer = answer
    with connected(proxying.url) as connection:
        head = f"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {KEY}\r\n"
        connection.sendall(head.encode() + b"Content-Length: 999999\r\n\r\n" + bytes(70_000))
        wait_until(lambda: bool(upstream.asked))
    assert upstream.ended.wait(20)


def test_a_server_that_breaks_off_breaks_the_answer_off(
    proxying: Served, upstream: Upstream
) -> None:
    def answer(handler: _Handler) -> None:
        list(handler.body())
        handler.begin()
        handler.chunk(b"line\n")
        handler.close_connection = True

    upstream.answer = answer
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        requests.post(f"{proxying.url}/api/chat", json={}, headers=BY_KEY, timeout=30)


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
def test_a_server_that_is_not_there(tmp_path: Path, path: str) -> None:
    settings = {"MODELS_DIR": tmp_path, "OLLAMA_HOST": "127.0.0.1:9", "OLLAMA_PROXY": "1"}
    answer = create_app(settings).test_client().post(path, json={})
    assert answer.status_code == 502
    assert answer.json is not None
    error = answer.json["error"]
    said = error if path.startswith("/api") else error["message"]
    assert "can't be reached" in said


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("path", ["/api/tags", "/api/chat", "/v1/models", "/v1/chat/completions"])
def test_nothing_goes_through_unasked(tmp_path: Path, path: str, method: str) -> None:
    app = create_app({"MODELS_DIR": tmp_path, "OLLAMA_HOST": "127.0.0.1:9"})
    answer = app.test_client().open(path, method=method)
    assert answer.status_code == 404
    assert "MODEL_HANDLER_OLLAMA_PROXY=1" in answer.text


def test_paths_stay_below_the_api(proxying: Served, upstream: Upstream) -> None:
    with connected(proxying.url) as connection:
        head = f"GET /api/../secret HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {KEY}\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 404 ")
    assert not upstream.asked


@pytest.mark.parametrize("length", ["999999999999", "9" * 30])
def test_a_body_beyond_the_limit_is_not_begun(
    proxying: Served, upstream: Upstream, length: str
) -> None:
    """What no number of Python's own fits was a 500."""
    with connected(proxying.url) as connection:
        head = f"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {KEY}\r\n"
        connection.sendall(f"{head}Content-Length: {length}\r\n\r\n".encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")
    assert not upstream.asked


OURS = ("/api/version", "/api/tags", "/v1/models", "/api/blobs/sha256:" + 64 * "a")


@pytest.mark.parametrize("path", OURS)
def test_who_may_ask(tmp_path: Path, path: str) -> None:
    settings = {"MODELS_DIR": tmp_path, "OLLAMA_HOST": "127.0.0.1:9", "OLLAMA_PROXY": "1"}
    client = create_app({**settings, "API_KEY": KEY}).test_client()
    method = "POST" if "blobs" in path else "GET"
    refused = client.open(path, method=method, data=b"x")
    assert refused.status_code == 401
    assert "API key" in str(json.loads(refused.data)["error"])
    for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
        refused = client.open(path, method=method, headers={**BY_KEY, **headers})
        assert (refused.status_code, refused.data) == (403, b"")
    assert client.open(path, method=method, headers=BY_KEY).status_code not in (401, 403, 421)


def test_whether_it_runs(tmp_path: Path) -> None:
    for proxy, body in (("0", "<!DOCTYPE html>"), ("1", "Ollama is running")):
        settings = {"MODELS_DIR": tmp_path, "OLLAMA_HOST": "127.0.0.1:9", "OLLAMA_PROXY": proxy}
        client = create_app(settings).test_client()
        assert client.head("/").headers["Content-Length"] == "17"
        assert client.get("/", headers={"Accept": "*/*"}).text.lower().startswith(body.lower())
        for accept in ({"Accept": "text/html,*/*"}, {}):
            assert client.get("/", headers=accept).text.lower().startswith("<!doctype html>")


@pytest.mark.parametrize("way", ["header", "environment"])
def test_ollama_s_client_brings_the_key(
    proxying: Served, upstream: Upstream, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    upstream.answer = lambda handler: handler.say(
        b'{"models": []}', Content_Type="application/json"
    )
    if way == "environment":
        monkeypatch.setenv("OLLAMA_API_KEY", KEY)
    with ollama.Client(proxying.url, headers=BY_KEY if way == "header" else {}) as client:
        assert client.ps().models == []
    assert [asked[1] for asked in upstream.asked] == ["/api/ps"]
    assert "authorization" not in upstream.asked[0][2]


def test_pages_of_allowed_origins_may_use_openai_s_library(tmp_path: Path) -> None:
    origin = "https://console.example"
    settings = {"MODELS_DIR": tmp_path, "OLLAMA_HOST": "127.0.0.1:9", "OLLAMA_PROXY": "1"}
    client = create_app({**settings, "API_KEY": KEY, "ALLOWED_ORIGINS": origin}).test_client()
    asked = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,x-stainless-os",
    }
    for path in ("/v1/chat/completions", "/api/create"):
        answer = client.options(path, headers={"Origin": origin, **asked})
        assert answer.status_code in (200, 204)
        assert answer.headers["Access-Control-Allow-Origin"] == origin
        assert "x-stainless-os" in answer.headers["Access-Control-Allow-Headers"]
        foreign = client.options(path, headers={"Origin": "https://evil.example", **asked})
        assert "Access-Control-Allow-Origin" not in foreign.headers

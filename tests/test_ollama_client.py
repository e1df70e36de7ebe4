"""A misbehaving Ollama: whatever it answers, our memory, our time and the model stay ours."""

import hashlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from app import create_app
from app.ollama import bounded
from app.ollama import client as clients
from app.ollama.client import Ollama
from app.ollama.errors import ModelMissing, OllamaError, OllamaSilent
from app.ollama.store import MODEL_LAYER, base_blob
from app.progress import CANCEL, Cancel, Cancelled
from tests.callers import FlaskCaller
from tests.conftest import Zips, litter
from tests.gguf_files import write_base, write_lora, write_zip
from tests.standin import Standin

HEADERS = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n\r\n"


@contextmanager
def raw_server(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that does with each connection what `answer` does; its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        ended = threading.Event()

        def handle(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                answer(connection)

        def serve() -> None:
            while not ended.is_set():
                with suppress(TimeoutError):
                    connection, _ = listener.accept()
                    threading.Thread(target=handle, args=(connection,), daemon=True).start()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            ended.set()
            thread.join()


def says(body: bytes, repeated: bytes = b"") -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        connection.recv(2**16)
        connection.sendall(HEADERS + body)
        while repeated:
            connection.sendall(repeated)

    return answer


def create(url: str) -> None:
    Ollama(url, 5, 5).create({"model": "x"}, lambda status: None)


@pytest.mark.parametrize(
    ("body", "repeated"),
    [
        (b"", b"x" * 2**16),
        (b"", b'{"status": "working"}\n' * 2**12),
        (b'{"status":' + b"[" * 100 + b"]" * 100 + b"}\n", b""),
        (b'{"status":' + b"[" * 100_000 + b"\n", b""),
        (b'{"total": ' + b"9" * 400 + b"}\n", b""),
        (b'{"total": 1e999}\n', b""),
    ],
    ids=["one endless line", "endless lines", "deep", "very deep", "digits", "infinity"],
)
def test_answers_are_bounded(body: bytes, repeated: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "STREAM_BYTES", 2**22)
    with raw_server(says(body, repeated)) as url, pytest.raises(OllamaError, match=r" sent "):
        create(url)


@pytest.mark.parametrize("ask", [Ollama.version, Ollama.tags, lambda one: one.show("x")])
def test_whole_answers_are_bounded(ask: Callable[[Ollama], Any]) -> None:
    with raw_server(says(b'{"version": "', b"x" * 2**16)) as url, pytest.raises(OllamaError):
        ask(Ollama(url, 5, 5))


def test_a_total_that_is_no_number_is_harmless(app: Any, standin: Standin, zips: Zips) -> None:
    lines = [
        b'{"status": "a", "total": "many", "completed": 1}\n',
        b'{"status": "b", "total": 2, "completed": "one"}\n',
        b'{"status": "c", "total": true, "completed": null}\n',
        b'{"status": "success"}\n',
    ]
    standin.fail_next("/api/create", lines=lines)
    form = [("Model", zips.base), ("model_name_on_ollama", "x")]
    answer = FlaskCaller(app.test_client()).send_form("/models/deploy/?verbose=1", form)
    assert answer.last["status"] == 200


@pytest.mark.parametrize("where", ["body is not read", "answer does not come"])
def test_who_leaves_is_let_go_at_once(tmp_path: Path, where: str) -> None:
    """Whatever Ollama does, work that nobody waits for ends in seconds."""

    def answer(connection: socket.socket) -> None:
        if where == "answer does not come":
            while connection.recv(2**20):
                pass
        time.sleep(1.5)

    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(64 * 2**20)
    cancel, ended = Cancel(), []

    def push(url: str) -> None:
        CANCEL.set(cancel)
        try:
            Ollama(url, 60, 60).push_blob(large, "0" * 64, lambda count: None)
        except Cancelled as error:
            ended.append(error)

    with raw_server(answer) as url:
        thread = threading.Thread(target=push, args=(url,))
        thread.start()
        time.sleep(0.3)
        started = time.monotonic()
        cancel.set()
        thread.join(10)
        assert time.monotonic() - started < 1
    assert len(ended) == 1


def test_create_s_answer_is_read_to_its_end_by_whoever_left() -> None:
    """Up to 0.33, Ollama hangs on a create whose client has gone."""
    sent, go_on = threading.Event(), threading.Event()

    def answer(connection: socket.socket) -> None:
        connection.recv(2**16)
        connection.sendall(HEADERS + b'{"status": "working"}\n')
        go_on.wait(5)
        for _ in range(64):
            connection.sendall(b'{"status": "still working"}\n' * 2**10)
        sent.set()

    cancel, heard = Cancel(), threading.Event()

    def work(url: str) -> None:
        CANCEL.set(cancel)
        with pytest.raises(Cancelled):
            Ollama(url, 5, 5).create({"model": "x"}, lambda status: heard.set())

    with raw_server(answer) as url:
        thread = threading.Thread(target=work, args=(url,))
        thread.start()
        assert heard.wait(5)
        cancel.set()
        thread.join(5)
        assert not thread.is_alive(), "nobody waits for Ollama any more"
        go_on.set()
        assert sent.wait(5), "but its answer is read"


def test_a_create_that_goes_on_after_an_error_line_is_an_error(standin: Standin) -> None:
    lines = [b'{"error": "no room"}\n', b'{"status": "success"}\n']
    standin.fail_next("/api/create", lines=lines)
    with pytest.raises(OllamaError, match="Ollama refused the model: no room"):
        create(standin.url)
    standin.fail_next("/api/create", lines=[b'{"status": "success"}\n', b'{"status": "more"}\n'])
    with pytest.raises(OllamaError, match="without success after 'more'"):
        create(standin.url)


def test_only_the_two_known_answers_to_the_probe_count() -> None:
    answers = [
        (503, b'{"error": "starting"}'),
        (400, b'{"error": "something else"}'),
        (400, b'{"error": "invalid model name"}'),
    ]

    def answer(connection: socket.socket) -> None:
        asked = connection.recv(2**16)
        status, body = 200, b'{"version": "0.32.15"}'
        if b"/api/create" in asked:
            status, body = answers.pop(0)
        head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode() + body)

    with raw_server(answer) as url:
        server = Ollama(url, 5, 5)
        for _ in range(2):
            with pytest.raises(OllamaError):
                server.takes_adapters()
        assert server.takes_adapters()
        assert server.takes_adapters(), "which isn't asked for again at once"


def probes(standin: Standin) -> int:
    return sum(sent.is_probe for sent in standin.requests)


def test_the_probe_is_not_kept_for_ever(standin: Standin, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Ollama(standin.url, 5, 5)
    assert [server.takes_adapters() for _ in range(3)] == [True] * 3
    assert probes(standin) == 1
    now = time.monotonic()
    monkeypatch.setattr(clients.time, "monotonic", lambda: now + clients.PROBE_SECONDS + 1)
    server.takes_adapters()
    assert probes(standin) == 2


def test_the_probe_is_asked_again_of_another_version(tmp_path: Path) -> None:
    with Standin(tmp_path / "old", version="0.32.15") as old:
        server = Ollama(old.url, 5, 5)
        assert server.takes_adapters()
        port = int(old.url.rpartition(":")[2])
    with Standin(tmp_path / "new", version="0.34.1", port=port):
        server.version()
        assert not server.takes_adapters()


def test_each_server_is_asked_once_a_request(app: Any, standin: Standin, zips: Zips) -> None:
    caller = FlaskCaller(app.test_client())
    caller.send_form("/models/upload/", [("Model", zips.both)])
    body = {"model": "tiny_lora", "model_name_on_ollama": "x"}
    assert caller.send_json("POST", "/models/create/", body).last["status"] == 200
    assert [sent.path for sent in standin.requests].count("/api/version") == 1
    assert probes(standin) == 1


def test_no_proxy_of_the_environment_is_asked(
    standin: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert Ollama(standin.url, 5, 5).version() == standin.version


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("open /root/.ollama/models/blobs/sha256-x: denied", "open sha256-x: denied"),
        (r"open C:\Users\me\.ollama\blobs\sha256-x: denied", "open sha256-x: denied"),
        ("a\x1b[31mred\nline", "a [31mred line"),
        ("see https://example.org/a/b", "see https://example.org/a/b"),
    ],
)
def test_errors_show_no_path_of_ollama_s_machine(standin: Standin, said: str, shown: str) -> None:
    line = json.dumps({"error": said}).encode() + b"\n"
    standin.fail_next("/api/create", lines=[line])
    with pytest.raises(OllamaError) as raised:
        create(standin.url)
    assert str(raised.value) == f"Ollama refused the model: {shown}"
    standin.fail_next("/api/create", status=500, body=line)
    with pytest.raises(OllamaError) as raised:
        create(standin.url)
    assert str(raised.value) == f"Ollama answered HTTP 500: {shown}"


def test_a_blob_that_has_gone_is_pushed_again(app: Any, standin: Standin, zips: Zips) -> None:
    gone = b'{"error": "open /x/sha256-1: no such file or directory"}\n'
    standin.fail_next("/api/create", lines=[gone])
    form = [("Model", zips.base), ("model_name_on_ollama", "x")]
    assert FlaskCaller(app.test_client()).send_form("/models/deploy/", form).last["status"] == 200
    asked = [sent.method for sent in standin.requests if sent.path.startswith("/api/blobs/")]
    assert asked.count("HEAD") == 2, "looked for before each create"
    assert [sent.path for sent in standin.requests].count("/api/create") == 2


def test_an_adapter_that_did_not_arrive_is_a_failure(
    app: Any, standin: Standin, zips: Zips
) -> None:
    """Ollama says success and shows a model without an adapter."""
    caller = FlaskCaller(app.test_client())
    form = [("Model", zips.base), ("model_name_on_ollama", "x")]
    assert caller.send_form("/models/deploy/", form).last["status"] == 200
    standin.fail_next("/api/create", lines=[b'{"status": "success"}\n'])
    form = [("Model", zips.both), ("model_name_on_ollama", "x")]
    answer = caller.send_form("/models/deploy/", form)
    assert answer.last["status"] == 502
    assert answer.last["details"]["error"] == "Ollama made 'x' without its adapter."


def test_a_name_on_ollama_is_made_by_one_task_alone(
    app: Any, models_dir: Path, standin: Standin, zips: Zips
) -> None:
    """Two creates with replace=false to one name: one of them."""
    caller = FlaskCaller(app.test_client())
    caller.send_form("/models/upload/", [("Model", zips.base)])
    body = {"model": "tiny_base", "model_name_on_ollama": "x:latest", "replace": False}
    with app.extensions["service"].storage.hold_name_on_ollama(standin.url, "X", "first"):
        answer = caller.send_json("POST", "/models/create/", body)
    assert answer.status == 409
    assert "first" in answer.last["details"]["error"]
    assert caller.send_json("POST", "/models/create/", body).last["status"] == 200
    assert caller.send_json("POST", "/models/create/", body).status == 409
    assert not litter(models_dir)


VERIFY = {
    "answers": ([b'{"response": "a", "done": true}\n'], 200, ""),
    "loads and ends at once": ([b'{"model": "", "response": "", "done": false}\n'], 200, ""),
    "can't be loaded": (None, 502, "but can't run it: Ollama answered HTTP 500: unknown pre"),
    "fails within": ([b'{"error": "out of memory"}\n'], 502, "but can't run it: out of memory"),
}


@pytest.mark.parametrize("name", VERIFY)
@pytest.mark.parametrize("by", ["request", "setting"])
def test_what_ollama_says_when_it_loads_the_model_is_the_last_line(
    models_dir: Path, standin: Standin, zips: Zips, name: str, by: str
) -> None:
    lines, status, error = VERIFY[name]
    settings = {"MODELS_DIR": models_dir, "OLLAMA_HOST": standin.url, "VERIFY": by == "setting"}
    refusal = b'{"error": "unknown pre-tokenizer type"}'
    standin.fail_next("/api/generate", body=refusal, lines=lines)
    form = [("Model", zips.base), ("model_name_on_ollama", "x")]
    if by == "request":
        form.append(("verify", "1"))
    caller = FlaskCaller(create_app(settings).test_client())
    answer = caller.send_form("/models/deploy/", form)
    assert answer.last["status"] == status
    assert error in answer.last["details"].get("error", "")
    asked = [sent.json for sent in standin.requests if sent.path == "/api/generate"]
    assert [(one["model"], one["options"]) for one in asked] == [("x", {"num_predict": 1})]


def test_nothing_is_loaded_unless_it_is_asked_for(app: Any, standin: Standin, zips: Zips) -> None:
    form = [("Model", zips.base), ("model_name_on_ollama", "x"), ("verify", "0")]
    assert FlaskCaller(app.test_client()).send_form("/models/deploy/", form).last["status"] == 200
    assert "/api/generate" not in [sent.path for sent in standin.requests]


def test_silence_and_absence_have_words_of_their_own(standin: Standin) -> None:
    with pytest.raises(ModelMissing, match="Ollama has no model 'x'"):
        Ollama(standin.url, 5, 5).show("x")
    with raw_server(lambda connection: time.sleep(1)) as url, pytest.raises(OllamaSilent):
        Ollama(url, 0.2, 0.2).version()


def folder_of_ollama(folder: Path, digest: str, name: str = "the_base") -> Path:
    manifest = folder / "manifests" / "registry.ollama.ai" / "library" / name / "latest"
    manifest.parent.mkdir(parents=True)
    manifest.write_text(json.dumps({"layers": [{"mediaType": MODEL_LAYER, "digest": digest}]}))
    (folder / "blobs").mkdir()
    return folder


def test_a_base_from_ollama_s_folder(tmp_path: Path) -> None:
    base = write_base(tmp_path / "secret.gguf")
    digest = hashlib.sha256(base.read_bytes()).hexdigest()
    good = folder_of_ollama(tmp_path / "good", f"sha256:{digest}")
    blob = good / "blobs" / f"sha256-{digest}"
    blob.write_bytes(base.read_bytes())
    found = base_blob(good, "the_base")
    assert found is not None
    assert (found.name, found.sha256, found.path) == ("the_base", digest, blob)
    for name in ("../the_base", "/the_base", "the_base/../../x", "", "the_base:../latest"):
        assert base_blob(good, name) is None
    blob.unlink()
    os.symlink(base, blob)
    assert base_blob(good, "the_base") is None, "a link that leads out"


@pytest.mark.parametrize("digest", ["/etc/passwd", "../../secret.gguf", "sha256:abc", "sha256-x"])
def test_a_digest_in_ollama_s_folder_is_no_path(tmp_path: Path, digest: str) -> None:
    write_base(tmp_path / "secret.gguf")
    assert base_blob(folder_of_ollama(tmp_path / "ollama", digest), "the_base") is None


def test_no_server_path_is_shown_of_a_base_that_does_not_fit(
    tmp_path: Path, models_dir: Path
) -> None:
    base = write_base(tmp_path / "base.gguf", width=64)
    digest = hashlib.sha256(base.read_bytes()).hexdigest()
    folder = folder_of_ollama(tmp_path / "store", f"sha256:{digest}")
    (folder / "blobs" / f"sha256-{digest}").write_bytes(base.read_bytes())
    zipped = write_zip(tmp_path / "m.zip", {"lora.gguf": write_lora(tmp_path / "lora.gguf")})
    with Standin(tmp_path / "ollama", version="0.34.1") as standin:
        settings = {"MODELS_DIR": models_dir, "OLLAMA_HOST": standin.url, "OLLAMA_MODELS": folder}
        caller = FlaskCaller(create_app(settings).test_client())
        form = [("Model", zipped), ("model_name_on_ollama", "x"), ("from", "the_base")]
        answer = caller.send_form("/models/deploy/", form)
    assert answer.status == 422
    assert "doesn't fit" in answer.last["details"]["error"]
    assert str(tmp_path) not in answer.text
    assert digest not in answer.text

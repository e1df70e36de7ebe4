"""What the service makes of Ollama's protocol: files by their digests, and models that are kept."""

import errno
import json
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from app import create_app
from app.planning.create_request import parse
from app.service.lines import Line
from app.storage.blobs import SMALL_BYTES
from app.storage.directory import Storage
from app.storage.failures import UploadLocked
from app.storage.names import stored_name
from app.views.ollama_protocol.progress import Progress
from tests.conftest import litter, show
from tests.gguf_files import write_base, write_lora, write_zip
from tests.standin import Standin
from tests.test_faults import wait_until

TEMPLATE = "{{ .System }}\n{{ .Prompt }}"


class Sender:
    """Sends files and create requests to an application."""

    def __init__(self, models_dir: Path, ollama: str, **settings: Any) -> None:
        app = create_app({"MODELS_DIR": models_dir, "OLLAMA_HOST": ollama, **settings})
        self.client: FlaskClient = app.test_client()
        self.storage: Storage = app.extensions["service"].storage

    def send(self, path: Path) -> str:
        content = path.read_bytes()
        digest = f"sha256:{sha256(content).hexdigest()}"
        assert self.client.post(f"/api/blobs/{digest}", data=content).status_code in (200, 201)
        return digest

    def is_here(self, digest: str) -> bool:
        status = self.client.head(f"/api/blobs/{digest}").status_code
        assert status in (200, 404)
        return status == 200

    def create(self, model: str, **body: Any) -> dict[str, Any]:
        """The last line."""
        answer = self.client.post("/api/create", json={"model": model, **body})
        last: dict[str, Any] = json.loads(answer.text.splitlines()[-1])
        return last

    def names(self) -> list[str]:
        lines = self.client.get("/models/").text.splitlines()
        return [json.loads(line)["message"]["details"]["model"] for line in lines]


SUCCESS = {"status": "success"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base") / "base.gguf")


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lora(tmp_path_factory.mktemp("lora") / "lora.gguf")


@pytest.fixture
def ollama_version() -> str:
    return "0.34.1"


@pytest.fixture
def sender(models_dir: Path, ollama: str) -> Iterator[Sender]:
    yield Sender(models_dir, ollama)
    assert not litter(models_dir)


def created(standin: Standin, model: str) -> dict[str, Any]:
    """The request by which the service has created the model."""
    bodies = [sent.json for sent in standin.requests if sent.path == "/api/create"]
    found = [body for body in bodies if body.get("model") == model]
    return found[-1] if found else {}


def test_a_file_is_here_once_it_came_and_once_it_is_stored(
    sender: Sender, base: Path, tmp_path: Path
) -> None:
    digest = f"sha256:{sha256(base.read_bytes()).hexdigest()}"
    assert not sender.is_here(digest)
    sender.send(base)
    assert sender.is_here(digest)
    assert sender.is_here(digest.replace(":", "-"))
    sender.storage.blobs.remove([digest.removeprefix("sha256:")])
    assert not sender.is_here(digest)
    zipped = write_zip(tmp_path / "m.zip", {"base.gguf": base})
    assert "Success" in sender.client.put("/models/upload/m.zip", data=zipped.read_bytes()).text
    assert sender.is_here(digest)
    assert sender.create("again", files={"b.gguf": digest}) == SUCCESS


def test_an_empty_file(sender: Sender, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    digest = sender.send(tmp_path / "empty")
    assert digest == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert sender.is_here(digest)


def test_a_filesystem_without_links(
    sender: Sender, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EPERM, "no links")

    monkeypatch.setattr(os, "link", refuse)
    assert sender.create("mine", files={"b.gguf": sender.send(base)}) == SUCCESS
    assert sender.names() == ["mine"]


def test_a_file_expires(sender: Sender, base: Path) -> None:
    digest = sender.send(base)
    (blob,) = sender.storage.state_folder.glob("blobs/*")
    os.utime(blob, (0, 0))
    assert not sender.is_here(digest)
    sender.storage.prepare()
    assert not blob.exists()


@pytest.mark.parametrize("size", [SMALL_BYTES, SMALL_BYTES + 1])
def test_a_large_file_has_one_writer_and_a_small_one_as_many_as_come(
    models_dir: Path, size: int
) -> None:
    storage = Storage(models_dir)
    storage.prepare()
    blobs, content = storage.blobs, bytes(size)
    digest = sha256(content).hexdigest()
    written, goes_on = threading.Event(), threading.Event()

    def slowly() -> Iterator[bytes]:
        yield content
        written.set()
        goes_on.wait(20)

    first = threading.Thread(target=blobs.receive, args=(digest, slowly()))
    first.start()
    written.wait(20)
    if size > SMALL_BYTES:
        with pytest.raises(UploadLocked, match="Another client"):
            blobs.receive(digest, [content])
    else:
        blobs.receive(digest, [content])
    goes_on.set()
    first.join()
    assert blobs.find(digest)
    assert not litter(models_dir)


@pytest.mark.parametrize(
    ("settings", "free", "status", "words"),
    [
        ({"MAX_UPLOAD_BYTES": "1000"}, 2**30, 413, "limit is 1000"),
        ({}, 1000, 507, "models directory has 1000 left"),
    ],
)
def test_a_file_is_held_to_the_limits_of_uploads(
    models_dir: Path,
    base: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, str],
    free: int,
    status: int,
    words: str,
) -> None:
    sender = Sender(models_dir, "127.0.0.1:9", **settings)
    monkeypatch.setattr(Storage, "free_bytes", lambda self: free)
    content = base.read_bytes()
    path = f"/api/blobs/sha256:{sha256(content).hexdigest()}"
    answer = sender.client.post(path, data=content)
    assert answer.status_code == status
    assert words in json.loads(answer.data)["error"]
    assert not litter(models_dir)


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("mine", "mine"),
        ("Mine:latest", "Mine"),
        ("library/mine", "mine"),
        ("registry.ollama.ai/library/mine:LATEST", "mine"),
        ("me/mine:q4", "me+mine@q4"),
        ("hf.example:5000/me/mine", "hf.example@5000+me+mine"),
        (f"{80 * 'h'}/{80 * 'n'}/{80 * 'm'}", f"{80 * 'h'}+{80 * 'n'}+{21 * 'm'}+"),
    ],
)
def test_what_a_model_of_ollama_is_called_here(name: str, stored: str) -> None:
    assert stored_name(name).startswith(stored)
    assert len(stored_name(name)) == len(stored) + 16 * stored.endswith("+")


def test_the_same_name_replaces_whatever_its_case(sender: Sender, base: Path, lora: Path) -> None:
    files = {"b.gguf": sender.send(base)}
    assert sender.create("me/Mine:q4", files=files) == SUCCESS
    assert sender.create("ME/mine:Q4", files=files, system="Be brief.") == SUCCESS
    assert sender.names() == ["me+Mine@q4"]


def test_what_is_kept_makes_the_same_model_again(
    sender: Sender, standin: Standin, base: Path
) -> None:
    said = {
        "template": TEMPLATE,
        "system": 'Say "no".\n',
        "parameters": {"stop": ["<a>", "b c"], "temperature": 0.5, "num_ctx": 32, "use_mmap": True},
        "license": ["One.", "Two.\nLines."],
        "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes?"}],
        "renderer": "r",
        "parser": "p",
        "requires": "0.14.0",
    }
    files = {"sub/b.gguf": sender.send(base)}
    given_up = {"parameters": {**said["parameters"], "mirostat": 1}}  # type: ignore[dict-item]
    assert sender.create("first", files=files, **{**said, **given_up}) == SUCCESS
    fields = {"model": "first", "model_name_on_ollama": "second"}
    assert "Success" in sender.client.post("/models/create/", json=fields).text
    for model in ("first", "second"):
        assert {key: created(standin, model)[key] for key in said} == said


def test_what_is_not_to_be_kept(models_dir: Path, ollama: str, base: Path) -> None:
    sender = Sender(models_dir, ollama, KEEP_CREATED="0")
    fields = {"files": {"b.gguf": sender.send(base)}, "quantize": "q8_0"}
    assert sender.create("gone", **fields) == SUCCESS
    assert show(ollama, "gone")["details"]["quantization_level"] == "Q8_0"
    assert sender.names() == []
    left = {path.suffix for path in models_dir.rglob("*") if path.is_file()}
    assert left <= {"", ".jsonl"}


def test_an_adapter_s_model_takes_over_what_its_base_says(
    sender: Sender, standin: Standin, base: Path, lora: Path
) -> None:
    files = {"b.gguf": sender.send(base)}
    stated = {
        "template": TEMPLATE,
        "system": "Be brief.",
        "parameters": {"stop": ["<a>"], "top_k": 3},
        "license": "One.",
    }
    assert sender.create("me/base:q4", files=files, **stated) == SUCCESS
    adapters = {"a.gguf": sender.send(lora)}
    own = {"system": "Be long.", "parameters": {"top_k": 4}, "license": "Two."}
    last = sender.create("tuned", **{"from": "me/base:q4"}, adapters=adapters, **own)
    assert last == SUCCESS
    sent = created(standin, "tuned")
    assert sent["template"] == TEMPLATE
    assert sent["system"] == "Be long."
    assert sent["parameters"] == {"stop": ["<a>"], "top_k": 4}
    assert sent["license"] == ["One.", "Two."]


def test_a_base_that_carries_an_adapter_is_none(
    sender: Sender, base: Path, lora: Path, tmp_path: Path
) -> None:
    content = write_zip(tmp_path / "m.zip", {"b.gguf": base, "a.gguf": lora}).read_bytes()
    assert "Success" in sender.client.put("/models/upload/tuned.zip", data=content).text
    last = sender.create("twice", **{"from": "tuned"}, adapters={"a.gguf": sender.send(lora)})
    assert "carries an adapter already" in last["error"]


def test_the_model_is_the_one_of_a_deploy(
    sender: Sender, standin: Standin, base: Path, lora: Path, tmp_path: Path
) -> None:
    files = {"b.gguf": sender.send(base)}
    body = {"files": files, "adapters": {"a.gguf": sender.send(lora)}, "quantize": "q4_0"}
    assert sender.create("mine", **body) == SUCCESS
    zipped = write_zip(tmp_path / "mine.zip", {"b.gguf": base, "a.gguf": lora})
    query = {"model_name_on_ollama": "deployed", "quantize": "Q4_0"}
    path, content = "/models/deploy/mine.zip", zipped.read_bytes()
    assert "Success create" in sender.client.put(path, data=content, query_string=query).text
    assert created(standin, "mine")["files"] == created(standin, "deployed")["files"]


def test_several_servers_each_get_what_they_take(
    models_dir: Path, standin: Standin, tmp_path: Path, base: Path, lora: Path
) -> None:
    with Standin(tmp_path / "other", version="0.32.15") as other:
        sender = Sender(models_dir, f"{standin.url},{other.url}")
        fields = {"files": {"b.gguf": sender.send(base)}, "adapters": {"a.gguf": sender.send(lora)}}
        assert sender.create("mine", **fields) == SUCCESS
        assert "\nADAPTER " not in show(standin.url, "mine")["modelfile"]
        assert "\nADAPTER " in show(other.url, "mine")["modelfile"]
        other.fail_next("/api/create", 500, b'{"error":"disk"}')
        files = {"b.gguf": sender.send(base)}
        last = sender.create("partly", files=files)
        assert "disk" in last["error"]
        assert sender.names() == ["mine", "partly"]
    assert not litter(models_dir)


def test_servers_that_make_it_themselves_do_not_wait_for_each_other(
    models_dir: Path, standin: Standin, tmp_path: Path, base: Path
) -> None:
    with Standin(tmp_path / "other") as other:
        sender = Sender(models_dir, f"{standin.url},{other.url}")
        assert sender.create("base", files={"b.gguf": sender.send(base)}) == SUCCESS
        with ThreadPoolExecutor() as pool, standin.hold("/api/create") as gate:
            last = pool.submit(sender.create, "mine", **{"from": "base", "system": "Be terse."})
            wait_until(lambda: bool(created(other, "mine")))
            gate.open()
            assert last.result() == SUCCESS
        assert show(standin.url, "mine")["system"] == "Be terse."


def test_creates_are_tasks(sender: Sender, base: Path) -> None:
    sender.create("mine", files={"b.gguf": sender.send(base)})
    sender.create("none", files={"b.gguf": "sha256:" + 64 * "b"})
    tasks = json.loads(sender.client.get("/tasks/").data)["tasks"]
    assert [(task["state"], task["model"]) for task in tasks] == [
        ("failed", None),
        ("succeeded", "mine"),
    ]


def test_long_work_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("app.views.ollama_protocol.progress.time.monotonic", lambda: now[0])
    progress, said = Progress(), []
    for action, details in (
        ("Hashing.", {"bytes": 1, "total_bytes": 2}),
        ("Hashing.", {"bytes": 2, "total_bytes": 2}),
        ("Merging.", {"bytes": 0, "total_bytes": 10}),
        ("Merging.", {"bytes": 3, "total_bytes": 10}),
        ("Merging.", {"bytes": 7, "total_bytes": 10}),
        ("Pushing.", {"bytes": 1, "total_bytes": 10, "sha256": 64 * "a", "server": "one"}),
        ("Pushing.", {"bytes": 1, "total_bytes": 10, "sha256": 64 * "a", "server": "two"}),
        ("Pushing.", {"bytes": 4, "total_bytes": 10, "sha256": 64 * "a", "server": "one"}),
        ("Ollama: x", {"ollama": {"status": "x", "total": 3, "own": 1}, "server": "one"}),
        ("Ollama: success", {"ollama": {"status": "success"}, "server": "one"}),
    ):
        said.append(progress.line(Line(action, 0.5, details, verbose=True)))
        now[0] += 0.8
    merging = {"status": "merging adapter into model", "digest": 19 * "0", "total": 10}
    pushing = {"status": "pushing aaaaaaaaaaaa", "digest": "sha256:" + 64 * "a", "total": 10}
    assert [line for line in said if line] == [
        {**merging, "completed": 7},
        {**pushing, "completed": 4},
        {"status": "x", "total": 3},
    ]


@pytest.mark.parametrize("down", ["first", "second"])
def test_a_server_that_is_down_does_not_keep_the_other_from_it(
    models_dir: Path, standin: Standin, down: str
) -> None:
    urls = ["127.0.0.1:9", standin.url]
    sender = Sender(models_dir, ",".join(urls if down == "first" else reversed(urls)))
    content = write_base(models_dir / "b.gguf").read_bytes()
    digest = f"sha256:{sha256(content).hexdigest()}"
    sender.client.post(f"/api/blobs/{digest}", data=content)
    for model, body in (("base", {"files": {"b.gguf": digest}}), ("other", {"from": "base"})):
        assert "can't be reached" in sender.create(model, **body)["error"]
        assert show(standin.url, model)["details"]["family"] == "llama"


@pytest.mark.parametrize(
    ("asked", "meant"), [("q4_k", "Q4_K_M"), ("Q5_K", "Q5_K_M"), ("bf16", "BF16"), ("", None)]
)
def test_types_to_quantize_to(asked: str, meant: str | None) -> None:
    assert parse({"model": "m", "from": "x", "quantize": asked}).quantization() == meant

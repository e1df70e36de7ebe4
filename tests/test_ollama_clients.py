"""Ollama's own clients, which have nothing but OLLAMA_HOST set to this service, create what Ollama
has dropped: the packages `ollama` of PyPI and of npm, through gunicorn and through nginx."""

import json
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import ollama
import pytest
import requests

from app.formats.gguf import open_header
from app.modelfile import grammar
from app.modelfile.parameters import merge_parameters
from tests import go_client
from tests.adapter_files import adapter
from tests.conftest import litter, show
from tests.gguf_files import write_base, write_lora
from tests.javascript import run_node
from tests.serving import serve
from tests.standin import Standin
from tests.test_brought import two_shards
from tests.test_faults import wait_until
from tests.test_job import trainer_s_folder
from tests.test_nginx import nginx

WIDTH = 256
ABSENT = "sha256:" + 64 * "b"


@dataclass(frozen=True)
class Place:
    """A service before an Ollama of today, by itself and behind nginx."""

    url: str
    behind_nginx: str
    standin: Standin
    models_dir: Path

    def sent(self, model: str) -> dict[str, Any]:
        """The request by which the model was created on Ollama."""
        bodies = [sent.json for sent in self.standin.requests if sent.path == "/api/create"]
        return next(body for body in reversed(bodies) if body and body.get("model") == model)

    def weights(self, model: str) -> Path:
        """The one file that the model was made of."""
        (digest,) = self.sent(model)["files"].values()
        return self.models_dir.parent / "ollama" / "blobs" / digest.replace(":", "-")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("place")
    with (
        Standin(folder / "ollama", version="0.34.1") as standin,
        serve(folder / "models", standin.url) as served,
        nginx(folder / "nginx", served.url) as behind,
    ):
        yield Place(served.url, behind, standin, folder / "models")


@pytest.fixture(autouse=True)
def tidy(place: Place) -> Iterator[None]:
    """After each test, tasks have left nothing."""
    yield
    wait_until(lambda: not litter(place.models_dir))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files of small models, by names."""
    folder = tmp_path_factory.mktemp("files")
    found = {
        "base": write_base(folder / "base.gguf", width=64),
        "wide": write_base(folder / "wide.gguf", width=WIDTH),
        "lora": write_lora(folder / "lora.gguf", width=64),
        "qwen": write_lora(folder / "qwen.gguf", "qwen2", width=64),
        "noise": folder / "noise",
        "cut": folder / "cut",
        "no_tensors": folder / "no_tensors",
    }
    found["noise"].write_bytes(b"noise " * 64)
    found["cut"].write_bytes(found["base"].read_bytes()[:42])
    found["no_tensors"].write_bytes(found["base"].read_bytes()[:-4096])
    trained = trainer_s_folder(folder / "trained", width=WIDTH)
    found |= {path.name: path for path in trained.iterdir()}
    random = np.random.default_rng(1)
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    (folder / "peft").mkdir()
    weights = {
        name.format("A"): random.normal(0, 0.1, (8, WIDTH)).astype(np.float32),
        name.format("B"): random.normal(0, 0.1, (WIDTH, 8)).astype(np.float32),
    }
    found |= {
        path.name: path for path in adapter(folder / "peft", weights, {"r": 8, "lora_alpha": 16})
    }
    (folder / "shards").mkdir()
    return found | two_shards(folder / "shards")


TRAINED = ("config.json", "tokenizer.json", "model.safetensors")
PEFT = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True)
class Case:
    """A create request whose `files` and `adapters` are names in the fixture `files`; what comes of
    it is one GGUF, quantized so, and merged or not."""

    files: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    quantization: str = "F32"
    is_merged: bool = False
    fields: dict[str, Any] = field(default_factory=dict)

    def request(self, model: str, digests: dict[str, str]) -> dict[str, Any]:
        """The request, once each name has its digest."""
        named = {"files": self.files, "adapters": self.adapters}
        given = {
            key: {NAMES.get(name, name): digests[name] for name in names}
            for key, names in named.items()
            if names
        }
        return {"model": model, **given, **self.fields}


NAMES = {"base": "base.gguf", "wide": "wide.gguf", "lora": "lora.gguf", "qwen": "qwen.gguf"}
CASES = {
    "base": Case(("base",)),
    "base-and-adapter": Case(("base",), ("lora",), is_merged=True),
    "from-and-adapter": Case((), ("lora",), is_merged=True, fields={"from": "stored"}),
    "base-and-peft": Case(("wide",), PEFT, is_merged=True),
    "quantize-folder": Case(TRAINED, quantization="Q4_K_M", fields={"quantize": "q4_K_M"}),
    "quantize-from": Case(quantization="Q8_0", fields={"from": "stored", "quantize": "q8_0"}),
}


class Failed(Exception):
    """The client has got an error: its status (0 within a stream) and its words."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


Create = Callable[..., list[dict[str, Any]]]


@dataclass
class Python:
    """The package of PyPI."""

    client: ollama.Client

    def send(self, files: dict[str, Path], names: tuple[str, ...]) -> dict[str, str]:
        return {name: self.client.create_blob(files[name]) for name in names}

    def create(self, request: dict[str, Any], *, stream: bool) -> list[dict[str, Any]]:
        """What creating says."""
        fields = {("from_" if key == "from" else key): value for key, value in request.items()}
        try:
            answer = self.client.create(**fields, stream=stream)
            lines = list(answer) if stream else [answer]
            return [line.model_dump(exclude_none=True) for line in lines]
        except ollama.ResponseError as error:
            raise Failed(max(error.status_code, 0), error.error) from error


@pytest.fixture(scope="module")
def python(place: Place, files: dict[str, Path]) -> Iterator[Python]:
    """The client, which has created the model `stored`."""
    with ollama.Client(host=place.url) as client:
        python = Python(client)
        stored = CASES["base"].request("stored", python.send(files, ("base",)))
        assert python.create(stored, stream=False) == [{"status": "success"}]
        yield python


@pytest.mark.parametrize("name", CASES)
def test_what_ollama_has_dropped_by_python(
    place: Place, files: dict[str, Path], python: Python, name: str
) -> None:
    case = CASES[name]
    request = case.request(name, python.send(files, (*case.files, *case.adapters)))
    said = [line["status"] for line in python.create(request, stream=True)]
    assert said[-2:] == ["writing manifest", "success"]
    check(place, name, case)
    sent = {digest.replace(":", "-") for digest in request.get("files", {}).values()}
    assert not sent & set(blobs_of(place))


def test_shards(place: Place, files: dict[str, Path], python: Python) -> None:
    names = ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf")
    said = python.create(Case(names).request("shards", python.send(files, names)), stream=True)
    assert said[-1] == {"status": "success"}
    assert sorted(place.sent("shards")["files"]) == list(names)
    assert show(place.standin.url, "shards")["details"]["family"] == "llama"


IN_JAVASCRIPT = {
    "adapter-among-files": Case(("base", "lora"), is_merged=True, fields={"stream": True}),
    "base-not-streamed": Case(("base",), fields={"stream": False}),
}


@pytest.mark.parametrize("model", IN_JAVASCRIPT)
def test_what_ollama_has_dropped_by_javascript_through_nginx(
    place: Place, files: dict[str, Path], model: str
) -> None:
    case = IN_JAVASCRIPT[model]
    names = (*case.files, *case.adapters)
    request = case.request(model, {each: each for each in names})
    sent = [f"{each}={files[each]}" for each in names]
    answer = run_node("create.mjs", place.behind_nginx, json.dumps(request), *sent)
    statuses = [json.loads(line).get("status") for line in answer.splitlines()]
    end = ["writing manifest", "success"] if request["stream"] else ["success"]
    assert statuses[-2:] == end
    check(place, model, case)


def check(place: Place, model: str, case: Case) -> None:
    """What arrived on Ollama, and is kept here, is what was asked for."""
    header = open_header(place.weights(model))
    assert (header.architecture, header.quantization) == ("llama", case.quantization)
    assert ("model_handler.merged" in header.metadata) == case.is_merged
    assert not place.sent(model).keys() & {"adapters", "quantize"}
    kept = json.loads(requests.get(f"{place.url}/models/{model}/", timeout=30).text)
    assert kept["last_create"]["model_name_on_ollama"] == model


def test_a_file_that_is_here_is_not_read_and_the_connection_ends(
    place: Place, files: dict[str, Path], python: Python
) -> None:
    large = files["model.safetensors"].read_bytes()
    python.send(files, ("model.safetensors",))
    host = urlsplit(place.url)
    path = f"/api/blobs/sha256:{sha256(large).hexdigest()}"
    for length, says in ((len(large), "close"), (10, "keep-alive")):
        with socket.create_connection((host.hostname, host.port), timeout=20) as connection:
            head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"
            connection.sendall(head.encode() + bytes(10))
            answer = connection.recv(4096).decode()
        assert answer.startswith("HTTP/1.1 200 ")
        assert f"Connection: {says}" in answer


@dataclass(frozen=True)
class Refusal:
    """What creating fails with: `status` where it isn't streamed, or where it `is_at_once`."""

    request: dict[str, Any]
    status: int
    words: str
    is_at_once: bool = False


NO_FILE = f"open sha256-{64 * 'b'}: no such file or directory"
B = {"base.gguf": "@base"}
REFUSALS = {
    "absent blob": Refusal({"files": {"x.gguf": ABSENT}}, 500, NO_FILE),
    "absent adapter": Refusal({"files": B, "adapters": {"a.gguf": ABSENT}}, 400, NO_FILE),
    "noise": Refusal({"files": {"x.gguf": "@noise"}}, 400, "supplied file was not in GGUF format"),
    "cut in its header": Refusal({"files": {"x.gguf": "@cut"}}, 500, "unexpected EOF"),
    "cut in its tensors": Refusal(
        {"files": {"x.gguf": "@no_tensors"}}, 500, r'tensor "\S+" offset\+size \(\d+\) exceeds .*'
    ),
    "malformed digest": Refusal({"files": {"x": "sha256:abc"}}, 500, "invalid digest format", True),
    "malformed digest of a GGUF": Refusal(
        {"files": {"x.gguf": "sha256:abc"}}, 500, "invalid digest format"
    ),
    "empty digest": Refusal({"files": {"x.gguf": ""}}, 400, "invalid digest format", True),
    "absolute path": Refusal({"files": {"/x": "@base"}}, 400, "file path must be relative", True),
    "path above": Refusal({"files": {"../x": "@base"}}, 400, "file path must be relative", True),
    "invalid name": Refusal({"model": "no good", "files": B}, 400, "invalid model name", True),
    "too long a name": Refusal({"model": 81 * "a", "files": B}, 400, "invalid model name", True),
    "reserved tag": Refusal({"model": "a:cloud", "files": B}, 400, ".*'cloud' for itself.", True),
    "neither": Refusal({}, 400, "neither 'from' or 'files' was specified", True),
    "no files": Refusal({"files": {}}, 400, "unknown type", True),
    "from a model that nobody has": Refusal({"from": "nobody"}, 500, "pull model manifest: .*"),
    "onto a model that nobody has": Refusal(
        {"from": "nobody", "adapters": {"a.gguf": "@lora"}}, 400, "Ollama has no model 'nobody'.*"
    ),
    "two adapters": Refusal(
        {"files": B, "adapters": {"a.gguf": "@lora", "b.gguf": "@qwen"}},
        *(400, "only one adapter is currently supported"),
    ),
    "adapter of another architecture": Refusal(
        {"files": B, "adapters": {"a.gguf": "@qwen"}}, 400, ".*qwen2.*llama.*"
    ),
    "base as adapter": Refusal(
        {"files": B, "adapters": {"a.gguf": "@wide"}}, 400, "Found 2 base models: .*"
    ),
    "adapter alone": Refusal({"files": {"a.gguf": "@lora"}}, 400, "Found an adapter without .*"),
    "template": Refusal(
        {"files": B, "template": "{{ .x"}, 400, "template error: template: :1: unclosed action"
    ),
    "unknown parameter": Refusal(
        {"files": B, "parameters": {"temprature": 1}}, 400, ".*'temprature'.*'temperature'.*"
    ),
    "ill-typed parameter": Refusal(
        {"files": B, "parameters": {"temperature": "hot"}}, 400, ".*must be a finite number.*"
    ),
    "quantize to no such type": Refusal(
        {"files": B, "quantize": "zzz"}, 400, "unsupported quantization type ZZZ - supported .*"
    ),
    "no config": Refusal(
        {"files": {"model.safetensors": "@model.safetensors"}},
        *(500, "open config.json: no such file or directory"),
    ),
    "no adapter's config": Refusal(
        {"files": B, "adapters": {"adapter_model.safetensors": "@adapter_model.safetensors"}},
        *(400, "open adapter_config.json: no such file or directory"),
    ),
}


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("name", REFUSALS)
def test_refused_as_ollama_refuses(
    place: Place, files: dict[str, Path], python: Python, name: str, stream: bool
) -> None:
    refusal = REFUSALS[name]
    given = json.dumps({"model": "refused", **refusal.request})
    for each in set(re.findall(r'"@([\w.]+)"', given)):
        (digest,) = python.send(files, (each,)).values()
        given = given.replace(f'"@{each}"', f'"{digest}"')
    before = sorted(path.name for path in place.models_dir.iterdir())
    with pytest.raises(Failed) as failed:
        python.create(json.loads(given), stream=stream)
    assert re.fullmatch(refusal.words, str(failed.value))
    assert failed.value.status == (0 if stream and not refusal.is_at_once else refusal.status)
    assert sorted(path.name for path in place.models_dir.iterdir()) == before


@pytest.mark.parametrize(
    ("when", "stream"), [("converting", True), ("pushing", True), ("creating", False)]
)
def test_a_client_that_is_killed_leaves_nothing(
    place: Place, files: dict[str, Path], python: Python, tmp_path: Path, when: str, stream: bool
) -> None:
    model = f"killed-{when}-{stream}".lower()
    case = Case(("base",), ("lora",))
    own = write_base(tmp_path / "base.gguf", name=model, width=64)
    digests = python.send({**files, "base": own}, ("base", "lora"))
    body = {**case.request(model, digests), "stream": stream}
    before = blobs_of(place)
    path = {"pushing": "/api/blobs/", "creating": "/api/create"}.get(when, "/never")
    is_converting = "staging/"
    with place.standin.hold(path, method="POST") as gate:
        with asking(place.url, "POST", "/api/create", json.dumps(body).encode()):
            if when == "converting":
                # Beside the task's folder, one that the conversion writes to.
                wait_until(lambda: str(litter(place.models_dir)).count(is_converting) > 1)
            else:
                assert gate.wait_reached(20)
        wait_until(lambda: not litter(place.models_dir))
    assert not (place.models_dir / model).exists()
    assert blobs_of(place) == before


def blobs_of(place: Place) -> list[str]:
    return sorted(path.name for path in place.models_dir.glob(".model-handler/blobs/*"))


@pytest.mark.parametrize("length", ["known", "unknown"])
def test_a_client_that_is_killed_within_a_file(place: Place, length: str) -> None:
    path = "/api/blobs/sha256:" + 64 * "c"
    body = bytes(3 * 2**20)
    head = f"Content-Length: {2 * len(body)}\r\n"
    if length == "unknown":
        head, body = "Transfer-Encoding: chunked\r\n", b"600000\r\n" + body
    with asking(place.url, "POST", path, body, head):
        wait_until(lambda: any("staging/" in each for each in litter(place.models_dir)))
    wait_until(lambda: not litter(place.models_dir))
    assert not (place.models_dir / ".model-handler" / "blobs" / f"sha256-{64 * 'c'}").exists()


@contextmanager
def asking(
    url: str, method: str, path: str, body: bytes, head: str | None = None
) -> Iterator[socket.socket]:
    """A request under way, whose client is gone after the block."""
    host = urlsplit(url)
    head = head or f"Content-Length: {len(body)}\r\n"
    with socket.create_connection((host.hostname, host.port), timeout=20) as connection:
        start = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{head}\r\n"
        connection.sendall(start.encode() + body)
        yield connection


@dataclass(frozen=True)
class Command:
    """A Modelfile for `ollama create`, and the GGUF that comes of it."""

    modelfile: str
    quantization: str = "F32"
    is_merged: bool = False
    flags: dict[str, str] = field(default_factory=dict)


COMMANDS = {
    "a file": Command("FROM ./base.gguf\nSYSTEM Be brief.\nPARAMETER stop a\nPARAMETER stop b"),
    "a folder and its adapter's": Command(
        'FROM ./trained\nADAPTER ./peft\nTEMPLATE """{{ .Prompt }}\n"""\nLICENSE a\nLICENSE b',
        *("Q4_K_M", True, {"quantize": "q4_K_M"}),
    ),
    "a folder of a GGUF with configs": Command("FROM ./folder"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_what_ollama_s_command_sends(
    place: Place, files: dict[str, Path], python: Python, tmp_path: Path, name: str
) -> None:
    folders = {"trained": TRAINED, "peft": PEFT, "folder": ("base", "config.json")}
    for folder, names in folders.items():
        (tmp_path / folder).mkdir()
        for each in names:
            shutil.copy(files[each], tmp_path / folder / NAMES.get(each, each))
    (tmp_path / "trained" / "generation_config.json").write_text("{}")
    (tmp_path / "trained" / "special_tokens_map.json").write_text("{}")
    for each in ("base", "lora"):
        shutil.copy(files[each], tmp_path / NAMES[each])
    command, model = COMMANDS[name], f"command-{name.replace(' ', '-').replace(chr(39), '')}"
    lines = go_client.create(place.url, tmp_path, model, command.modelfile, **command.flags)
    assert json.loads(lines[-1]) == {"status": "success"}, lines
    case = Case(quantization=command.quantization, is_merged=command.is_merged)
    check(place, model, case)
    said = grammar.parse(command.modelfile)
    sent = place.sent(model)
    assert sent.get("system") == said.system
    assert sent.get("template") == said.template
    assert sent.get("parameters", {}) == merge_parameters(said.parameters, {})
    assert tuple(sent.get("license", ())) == said.license

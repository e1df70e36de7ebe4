"""What the service relies on in Ollama, asked of the stand-in or of a real server.

With OLLAMA_TEST_HOST (`host:port` or a URL) these tests run against that server, else against the
stand-in in each version that it plays, and against this service before it: Ollama's clients find in
it what they find in Ollama. tests/standin/test_recorded.py holds the stand-in to the recorded
answers of real servers.
"""

import hashlib
import ipaddress
import json
import os
import re
import secrets
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from app.ollama.address import ollama_url
from tests.gguf_files import write_base, write_lora
from tests.serving import serve
from tests.standin import Standin
from tests.standin.versions import Behaviour

pytestmark = pytest.mark.ollama

VERSIONS = ("0.12.11", "0.32.15", "0.34.1")
ABSENT = "sha256:" + 64 * "b"
WRONG = "sha256:" + 64 * "a"
HELLO = b"hello"
HELLO_DIGEST = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
SERVICE = "0.34.1 behind the service"
# What this service refuses, or does, where Ollama doesn't: see docs/api.rst.
OTHERWISE_HERE = {
    "test_create_does_not_check_parameters": "Checked before anything is pushed.",
    "test_create_with_base_and_adapter": "Merged: the server takes no adapters.",
    "test_create_from_a_model_with_an_adapter": "Merged; a second adapter is refused.",
    "test_create_accepts_adapters_that_cannot_work": "Refused with the reason.",
    "test_create_accepts_an_adapter_alone": "Refused without a base.",
    "test_create_refuses_to_quantize": "Done here, also for F32, and to more types.",
}
SUCCESS = {"status": "success"}
PARSING = {"status": "parsing GGUF"}
WRITING = {"status": "writing manifest"}


def real_server() -> str | None:
    """The URL of the real server to ask, where the environment names one."""
    host = os.environ.get("OLLAMA_TEST_HOST")
    return ollama_url(host) if host else None


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@dataclass
class Server:
    """A server to ask, and the models that were made on it."""

    url: str
    session: requests.Session
    made: list[str] = field(default_factory=list)

    def ask(self, method: str, path: str, **arguments: Any) -> requests.Response:
        return self.session.request(method, self.url + path, timeout=60, **arguments)

    def push(self, content: bytes) -> str:
        digest = digest_of(content)
        if self.ask("HEAD", f"/api/blobs/{digest}").status_code == 404:
            assert self.ask("POST", f"/api/blobs/{digest}", data=content).status_code == 201
        return digest

    def new_name(self) -> str:
        self.made.append(f"mh-test-{secrets.token_hex(6)}")
        return self.made[-1]

    def lines(self, **body: Any) -> list[dict[str, Any]]:
        """What create streams; a model that comes of it is deleted in the end."""
        response = self.ask("POST", "/api/create", json={"model": self.new_name()} | body)
        assert (response.status_code, response.headers["Content-Type"]) == (
            200,
            "application/x-ndjson",
        ), response.text
        return [json.loads(line) for line in response.text.splitlines()]

    def create(self, **body: Any) -> str:
        """Make a model, and return its name."""
        assert self.lines(**body)[-2:] == [WRITING, SUCCESS]
        return str(body.get("model", self.made[-1]))

    def show(self, model: str) -> dict[str, Any]:
        response = self.ask("POST", "/api/show", json={"model": model})
        assert response.status_code == 200, response.text
        shown: dict[str, Any] = response.json()
        return shown

    def listed(self) -> list[str]:
        return [entry["model"] for entry in self.ask("GET", "/api/tags").json()["models"]]

    def takes_adapters(self) -> bool:
        """What the side-effect-free probe says."""
        probe = {"model": "!", "adapters": {"x.gguf": "sha256:" + 64 * "0"}}
        response = self.ask("POST", "/api/create", json=probe)
        assert response.status_code == 400
        answers = {"invalid model name": True, "LoRA adapters are no longer supported": False}
        return answers[response.json()["error"]]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each test the versions that it is about: those that take adapters, or don't, or all."""
    if "ollama_server" not in metafunc.fixturenames:
        return
    about = {"adapters": (True,), "no_adapters": (False,)}
    taken = next((about[name] for name in about if name in metafunc.fixturenames), (True, False))
    versions = [each for each in VERSIONS if Behaviour.of(each).takes_adapters in taken]
    if True in taken and metafunc.function.__name__ not in OTHERWISE_HERE:
        versions.append(SERVICE)
    params = ["real"] if real_server() else versions
    metafunc.parametrize("ollama_server", params, indirect=True, scope="module")


@pytest.fixture(scope="module")
def ollama_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    with requests.Session() as session:
        if url := real_server():
            server = Server(url, session)
            yield server
            for name in server.made:
                server.ask("DELETE", "/api/delete", json={"model": name})
            return
        folder = tmp_path_factory.mktemp("ollama")
        version, _, behind = request.param.partition(" ")
        with ExitStack() as running:
            url = running.enter_context(Standin(folder, version=version)).url
            if behind:
                settings = {"MODEL_HANDLER_OLLAMA_PROXY": "1"}
                url = running.enter_context(serve(folder / "models", url, settings)).url
            yield Server(url, session)


@dataclass(frozen=True)
class Contents:
    """Whole and broken files, unlike any that the server has seen."""

    base: bytes
    other_base: bytes
    adapter: bytes
    other_adapter: bytes
    qwen_adapter: bytes
    noise: bytes
    cut_in_metadata: bytes
    cut_in_tensors: bytes


@pytest.fixture(scope="module")
def contents(ollama_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Contents:
    folder = tmp_path_factory.mktemp("files")
    mark = secrets.token_hex(8)
    base = write_base(folder / "base.gguf", name=mark).read_bytes()
    return Contents(
        base=base,
        other_base=write_base(folder / "other.gguf", "qwen2", name=mark).read_bytes(),
        adapter=write_lora(folder / "lora.gguf", base_name=mark).read_bytes(),
        other_adapter=write_lora(folder / "zero.gguf", base_name=mark, scale=0).read_bytes(),
        qwen_adapter=write_lora(folder / "qwen.gguf", "qwen2", base_name=mark).read_bytes(),
        noise=mark.encode() * 64,
        cut_in_metadata=base[:42],
        cut_in_tensors=base[: len(base) // 2],
    )


@pytest.fixture
def adapters(ollama_server: Server) -> None:
    """Skip where the server says that it takes no adapters."""
    if not ollama_server.takes_adapters():
        pytest.skip("the server's probe says that it takes no adapters")


@pytest.fixture
def no_adapters(ollama_server: Server) -> None:
    """Skip where the server says that it takes adapters."""
    if ollama_server.takes_adapters():
        pytest.skip("the server's probe says that it takes adapters")


def sources(modelfile: str) -> list[str]:
    """The instructions of a Modelfile that name a blob, in order."""
    return re.findall(r"^(FROM|ADAPTER) .*sha256-[0-9a-f]{64}$", modelfile, re.MULTILINE)


def test_root_says_that_it_runs(ollama_server: Server) -> None:
    response = ollama_server.ask("GET", "/")
    assert (response.status_code, response.text) == (200, "Ollama is running")
    assert ollama_server.ask("HEAD", "/").headers["Content-Length"] == "17"


def test_version_is_numbers(ollama_server: Server) -> None:
    response = ollama_server.ask("GET", "/api/version")
    assert response.status_code == 200
    assert re.match(r"\d+\.\d+\.\d+", response.json()["version"])


def test_blob_is_absent_then_new_then_there(ollama_server: Server) -> None:
    content = secrets.token_bytes(5000)
    path = f"/api/blobs/{digest_of(content)}"
    statuses = [
        ollama_server.ask("HEAD", path).status_code,
        ollama_server.ask("POST", path, data=content).status_code,
        ollama_server.ask("HEAD", path).status_code,
        ollama_server.ask("HEAD", path.replace(":", "-")).status_code,
        ollama_server.ask("POST", path, data=content).status_code,
        ollama_server.ask("POST", path, data=b"other bytes").status_code,
    ]
    assert statuses == [404, 201, 200, 200, 200, 200]


def test_blob_is_taken_in_chunks(ollama_server: Server) -> None:
    content = secrets.token_bytes(5000)
    path = f"/api/blobs/{digest_of(content)}"
    response = ollama_server.ask("POST", path, data=iter([content[:7], content[7:]]))
    assert response.status_code == 201
    assert ollama_server.ask("HEAD", path).status_code == 200


def test_blob_with_upper_case_digest_is_refused(ollama_server: Server) -> None:
    content = secrets.token_bytes(50)
    digest = digest_of(content)
    upper = "sha256:" + digest.removeprefix("sha256:").upper()
    response = ollama_server.ask("POST", f"/api/blobs/{upper}", data=content)
    expected = f'digest mismatch, expected "{upper}", got "{digest}"'
    assert (response.status_code, response.json()) == (400, {"error": expected})


def test_blob_with_other_content_is_refused_and_not_kept(ollama_server: Server) -> None:
    response = ollama_server.ask("POST", f"/api/blobs/{WRONG}", data=HELLO)
    expected = f'digest mismatch, expected "{WRONG}", got "{HELLO_DIGEST}"'
    assert (response.status_code, response.json()) == (400, {"error": expected})
    assert ollama_server.ask("HEAD", f"/api/blobs/{WRONG}").status_code == 404


@pytest.mark.parametrize("digest", ["sha256:abc", "md5:" + 32 * "a", "sha256:" + 65 * "a"])
def test_malformed_digest_is_refused(ollama_server: Server, digest: str) -> None:
    response = ollama_server.ask("POST", f"/api/blobs/{digest}", data=HELLO)
    assert (response.status_code, response.json()) == (400, {"error": "invalid digest format"})
    assert ollama_server.ask("HEAD", f"/api/blobs/{digest}").status_code == 400


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_blobs_are_neither_read_nor_put(ollama_server: Server, method: str) -> None:
    response = ollama_server.ask(method, f"/api/blobs/{ABSENT}")
    assert (response.status_code, response.text) == (405, "405 method not allowed")
    assert response.headers["Content-Type"] == "text/plain"


def test_create_from_files(ollama_server: Server, contents: Contents) -> None:
    base = ollama_server.push(contents.base)
    lines = ollama_server.lines(files={"base.gguf": base}, template="{{ .Prompt }}")
    name = ollama_server.made[-1]
    assert lines[0] == PARSING
    assert lines[-2:] == [WRITING, SUCCESS]
    assert all(line.keys() == {"status"} for line in lines)
    assert sources(ollama_server.show(name)["modelfile"]) == ["FROM"]
    assert f"{name}:latest" in ollama_server.listed()


def test_create_without_stream_says_success_alone(
    ollama_server: Server, contents: Contents
) -> None:
    files = {"base.gguf": ollama_server.push(contents.base)}
    body = {"model": ollama_server.new_name(), "files": files, "stream": False}
    response = ollama_server.ask("POST", "/api/create", json=body)
    assert (response.status_code, response.json()) == (200, SUCCESS)
    assert response.headers["Content-Type"] == "application/json"


def test_create_finds_a_gguf_without_its_ending(ollama_server: Server, contents: Contents) -> None:
    ollama_server.create(files={"weights": ollama_server.push(contents.base)})


def test_create_takes_the_old_key_for_the_name(ollama_server: Server, contents: Contents) -> None:
    name = ollama_server.new_name()
    files = {"base.gguf": ollama_server.push(contents.base)}
    response = ollama_server.ask("POST", "/api/create", json={"name": name, "files": files})
    assert json.loads(response.text.splitlines()[-1]) == SUCCESS
    assert f"{name}:latest" in ollama_server.listed()


def test_create_keeps_what_it_was_given(ollama_server: Server, contents: Contents) -> None:
    name = ollama_server.create(
        files={"base.gguf": ollama_server.push(contents.base)},
        template="{{ .System }}\n{{ .Prompt }}",
        system="Be brief.",
        parameters={"temperature": 0.5, "num_ctx": 32, "stop": ["<a>", "b c"]},
        license="Do as you like.",
        messages=[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes?"}],
    )
    shown = ollama_server.show(name)
    assert shown["template"] == "{{ .System }}\n{{ .Prompt }}"
    assert shown["system"] == "Be brief."
    assert shown["license"] == "Do as you like."
    assert [message["content"] for message in shown["messages"]] == ["hi", "yes?"]
    assert sorted(line.split(maxsplit=1) for line in shown["parameters"].splitlines()) == [
        ["num_ctx", "32"],
        ["stop", '"<a>"'],
        ["stop", '"b c"'],
        ["temperature", "0.5"],
    ]
    modelfile = shown["modelfile"].splitlines()
    assert {
        "SYSTEM Be brief.",
        "PARAMETER temperature 0.5",
        "PARAMETER stop b c",
        "LICENSE Do as you like.",
        "MESSAGE user hi",
    } <= set(modelfile)


@pytest.mark.parametrize("parameters", [{"no_such": 1}, {"temperature": "hot"}])
def test_create_does_not_check_parameters(
    ollama_server: Server, contents: Contents, parameters: dict[str, Any]
) -> None:
    files = {"base.gguf": ollama_server.push(contents.base)}
    ollama_server.create(files=files, parameters=parameters)


def test_create_again_replaces_whatever_the_case(ollama_server: Server, contents: Contents) -> None:
    files = {"base.gguf": ollama_server.push(contents.base)}
    name = ollama_server.create(files=files, system="first")
    ollama_server.push(contents.base)
    ollama_server.create(model=name.upper(), files=files, system="second")
    assert ollama_server.show(name)["system"] == "second"
    assert [entry.lower() for entry in ollama_server.listed()].count(f"{name}:latest") == 1


def test_create_takes_a_full_name(ollama_server: Server, contents: Contents) -> None:
    name = f"hf.example/some/{ollama_server.new_name()}:q4"
    ollama_server.made.append(name)
    ollama_server.create(model=name, files={"b.gguf": ollama_server.push(contents.base)})
    assert name in ollama_server.listed()


def test_create_from_a_model_ignores_files(ollama_server: Server, contents: Contents) -> None:
    base = ollama_server.create(files={"b.gguf": ollama_server.push(contents.base)})
    lines = ollama_server.lines(**{"from": base, "files": {"x.gguf": ABSENT}})
    assert PARSING not in lines
    assert lines[-1] == SUCCESS


def test_create_with_base_and_adapter(
    ollama_server: Server, contents: Contents, adapters: None
) -> None:
    lines = ollama_server.lines(
        files={"base.gguf": ollama_server.push(contents.base)},
        adapters={"lora.gguf": ollama_server.push(contents.adapter)},
    )
    name = ollama_server.made[-1]
    assert lines[:2] == [PARSING, PARSING]
    assert lines[-1] == SUCCESS
    modelfile = ollama_server.show(name)["modelfile"]
    assert sources(modelfile) == ["FROM", "ADAPTER"]
    assert digest_of(contents.adapter).replace(":", "-") in modelfile


def test_create_from_a_model_with_an_adapter(
    ollama_server: Server, contents: Contents, adapters: None
) -> None:
    base = ollama_server.create(files={"base.gguf": ollama_server.push(contents.base)})
    adapted = ollama_server.create(
        **{"from": base, "adapters": {"a.gguf": ollama_server.push(contents.adapter)}}
    )
    assert sources(ollama_server.show(adapted)["modelfile"]) == ["FROM", "ADAPTER"]
    other = {"b.gguf": ollama_server.push(contents.other_adapter)}
    twice = ollama_server.create(**{"from": adapted, "adapters": other})
    assert sources(ollama_server.show(twice)["modelfile"]) == ["FROM", "ADAPTER", "ADAPTER"]


def test_create_accepts_adapters_that_cannot_work(
    ollama_server: Server, contents: Contents, adapters: None
) -> None:
    files = {"base.gguf": ollama_server.push(contents.base)}
    for adapter in (contents.qwen_adapter, contents.other_base):
        ollama_server.create(files=files, adapters={"a.gguf": ollama_server.push(adapter)})


def test_create_accepts_an_adapter_alone(
    ollama_server: Server, contents: Contents, adapters: None
) -> None:
    ollama_server.create(files={"lora.gguf": ollama_server.push(contents.adapter)})


@pytest.mark.parametrize(
    ("names", "error"),
    [
        (["adapter", "other_adapter"], "only one adapter is currently supported"),
        (["absent"], f"open .*sha256-{64 * 'b'}: no such file or directory"),
        (["noise"], "supplied file was not in GGUF format"),
    ],
    ids=["two", "absent", "no GGUF"],
)
def test_create_fails_for_adapters(
    ollama_server: Server, contents: Contents, adapters: None, names: list[str], error: str
) -> None:
    given = {
        f"{name}.gguf": ABSENT if name == "absent" else ollama_server.push(getattr(contents, name))
        for name in names
    }
    body: dict[str, Any] = {
        "files": {"b.gguf": ollama_server.push(contents.base)},
        "adapters": given,
    }
    assert re.fullmatch(error, ollama_server.lines(**body)[-1]["error"])
    body |= {"model": ollama_server.new_name(), "stream": False}
    response = ollama_server.ask("POST", "/api/create", json=body)
    assert response.status_code == 400
    assert re.fullmatch(error, response.json()["error"])


def test_adapters_are_refused(ollama_server: Server, contents: Contents, no_adapters: None) -> None:
    adapter = {"lora.gguf": ollama_server.push(contents.adapter)}
    body = {"model": ollama_server.new_name(), "files": {"b.gguf": ABSENT}, "adapters": adapter}
    response = ollama_server.ask("POST", "/api/create", json=body)
    assert response.status_code == 400
    assert response.json() == {"error": "LoRA adapters are no longer supported"}
    body = {"model": ollama_server.new_name(), "files": adapter}
    response = ollama_server.ask("POST", "/api/create", json=body)
    error = json.loads(response.text.splitlines()[-1])["error"]
    assert error == "LoRA adapters are no longer supported: lora.gguf is a LoRA adapter"


@dataclass(frozen=True)
class Failure:
    """What create answers in the end: `error` is a pattern, `status` is that without a stream."""

    error: str
    status: int
    blob: str = ""
    files: str = "x.gguf"
    body: dict[str, Any] = field(default_factory=dict)


NO_FILE = f"open .*sha256-{64 * 'b'}: no such file or directory"
FAILURES = {
    "absent blob": Failure(NO_FILE, 500, ABSENT),
    "noise": Failure("supplied file was not in GGUF format", 400, "noise"),
    "cut in metadata": Failure("unexpected EOF", 500, "cut_in_metadata"),
    "malformed digest": Failure("invalid digest format", 500, "sha256:abc"),
    "template": Failure(
        "template error: template: :1: unclosed action", 400, "base", body={"template": "{{ .x"}
    ),
    "from absent": Failure("pull model manifest: .*", 500, body={"from": "mh-test-does-not-exist"}),
}


def create_body(server: Server, contents: Contents, failure: Failure) -> dict[str, Any]:
    files = {}
    if failure.blob:
        content = getattr(contents, failure.blob, None)
        files = {"files": {failure.files: server.push(content) if content else failure.blob}}
    return {"model": server.new_name(), **files, **failure.body}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_create_fails_in_its_last_line(
    ollama_server: Server, contents: Contents, failure: Failure
) -> None:
    body = create_body(ollama_server, contents, failure)
    lines = ollama_server.lines(**body)
    assert "status" in lines[0]
    assert lines[-1].keys() == {"error"}
    assert re.fullmatch(failure.error, lines[-1]["error"])
    assert f"{body['model']}:latest" not in ollama_server.listed()


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_create_without_stream_fails_with_a_status(
    ollama_server: Server, contents: Contents, failure: Failure
) -> None:
    body = create_body(ollama_server, contents, failure) | {"stream": False}
    response = ollama_server.ask("POST", "/api/create", json=body)
    assert response.status_code == failure.status
    assert response.headers["Content-Type"] == "application/json"
    assert re.fullmatch(failure.error, response.json()["error"])


@pytest.mark.parametrize(
    ("quantize", "error"),
    [
        ("q8_0", "quantization is only supported for F16(, BF16)? and F32 models"),
        (
            "zzz",
            "unsupported quantization type ZZZ - supported types are F32, F16, Q4_K_S, Q4_K_M,"
            " Q8_0",
        ),
    ],
)
def test_create_refuses_to_quantize(
    ollama_server: Server, contents: Contents, adapters: None, quantize: str, error: str
) -> None:
    files = {"base.gguf": ollama_server.push(contents.base)}
    lines = ollama_server.lines(files=files, quantize=quantize)
    assert lines[0] == PARSING
    assert re.fullmatch(error, lines[-1]["error"])


def test_create_wants_a_config_beside_safetensors(
    ollama_server: Server, contents: Contents, adapters: None
) -> None:
    lines = ollama_server.lines(files={"x.safetensors": ollama_server.push(contents.base)})
    missing = {"error": "open config.json: no such file or directory"}
    assert lines == [{"status": "converting model"}, missing]


def test_create_takes_cut_tensors_or_says_which(ollama_server: Server, contents: Contents) -> None:
    lines = ollama_server.lines(files={"x.gguf": ollama_server.push(contents.cut_in_tensors)})
    size = len(contents.cut_in_tensors)
    if lines[-1] != SUCCESS:
        pattern = rf'tensor ".*" offset\+size \(\d+\) exceeds file size \({size}\)'
        assert re.fullmatch(pattern, lines[-1]["error"])


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"model": "a", "files": {"/a.gguf": ABSENT}}, "file path must be relative"),
        ({"model": "a", "files": {"../a.gguf": ABSENT}}, "file path must be relative"),
        ({"model": "bad name!", "files": {"a.gguf": ABSENT}}, "invalid model name"),
        ({"model": "", "files": {"a.gguf": ABSENT}}, "invalid model name"),
        ({"files": {"a.gguf": ABSENT}}, "invalid model name"),
        ({"model": 81 * "a", "files": {"a.gguf": ABSENT}}, "invalid model name"),
        ({"model": "a.b/c", "files": {"a.gguf": ABSENT}}, "invalid model name"),
        ({"model": "a:", "files": {"a.gguf": ABSENT}}, "invalid model name"),
        ({"model": "mh-test"}, "neither 'from' or 'files' was specified"),
        ({"model": "mh-test", "files": {}}, "unknown type"),
    ],
)
def test_create_refuses_at_once(ollama_server: Server, body: dict[str, Any], error: str) -> None:
    response = ollama_server.ask("POST", "/api/create", json=body)
    assert (response.status_code, response.json()) == (400, {"error": error})


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"{bad", "invalid character 'b' looking for beginning of object key string"),
        (b"", "missing request body"),
    ],
)
def test_create_refuses_what_is_no_json(ollama_server: Server, body: bytes, error: str) -> None:
    response = ollama_server.ask("POST", "/api/create", data=body)
    assert (response.status_code, response.json()) == (400, {"error": error})


def test_show_tells_what_a_model_is(ollama_server: Server, contents: Contents) -> None:
    name = ollama_server.create(files={"base.gguf": ollama_server.push(contents.base)})
    shown = ollama_server.show(name)
    details, info = shown["details"], shown["model_info"]
    assert (details["format"], details["family"], details["families"]) == (
        "gguf",
        "llama",
        ["llama"],
    )
    assert (details["parameter_size"], details["quantization_level"]) == ("27K", "unknown")
    assert info["general.architecture"] == "llama"
    assert info["llama.attention.layer_norm_rms_epsilon"] == 0.00001
    assert info["tokenizer.ggml.tokens"] is None
    assert "general.name" not in info
    assert {"name": "token_embd.weight", "type": "F32", "shape": [32, 261]} in shown["tensors"]
    assert shown["template"] == "{{ .Prompt }}"
    assert "completion" in shown["capabilities"]
    assert f"# FROM {name}:latest" in shown["modelfile"]


def test_tags_lists_size_and_digest(ollama_server: Server, contents: Contents) -> None:
    name = ollama_server.create(files={"base.gguf": ollama_server.push(contents.base)})
    models = ollama_server.ask("GET", "/api/tags").json()["models"]
    (entry,) = [entry for entry in models if entry["name"] == f"{name}:latest"]
    assert entry["size"] > len(contents.base) - 10_000
    assert re.fullmatch("[0-9a-f]{64}", entry["digest"])
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", entry["modified_at"])
    assert entry["details"]["family"] == "llama"


def test_v1_lists_the_same_models(ollama_server: Server, contents: Contents) -> None:
    name = ollama_server.create(files={"base.gguf": ollama_server.push(contents.base)})
    listed = ollama_server.ask("GET", "/v1/models").json()
    assert listed["object"] == "list"
    (entry,) = [entry for entry in listed["data"] if entry["id"] == f"{name}:latest"]
    assert (entry["object"], entry["owned_by"]) == ("model", "library")


def test_copy_and_delete(ollama_server: Server, contents: Contents) -> None:
    name = ollama_server.create(files={"base.gguf": ollama_server.push(contents.base)})
    copy = ollama_server.new_name()
    response = ollama_server.ask("POST", "/api/copy", json={"source": name, "destination": copy})
    assert (response.status_code, response.content) == (200, b"")
    assert ollama_server.show(copy)["details"] == ollama_server.show(name)["details"]
    for key, model in (("model", name), ("name", copy)):
        response = ollama_server.ask("DELETE", "/api/delete", json={key: model})
        assert (response.status_code, response.content) == (200, b"")
        assert f"{model}:latest" not in ollama_server.listed()


def test_deleting_a_model_keeps_what_another_uses(
    ollama_server: Server, contents: Contents
) -> None:
    files = {"base.gguf": ollama_server.push(contents.base)}
    first, second = (ollama_server.create(files=files) for _ in range(2))
    ollama_server.ask("DELETE", "/api/delete", json={"model": first})
    assert sources(ollama_server.show(second)["modelfile"]) == ["FROM"]
    assert ollama_server.ask("HEAD", f"/api/blobs/{files['base.gguf']}").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "error"),
    [
        ("POST", "/api/show", {"model": "mh-nope"}, 404, "model 'mh-nope(:latest)?' not found"),
        ("POST", "/api/show", {}, 400, "model is required"),
        ("POST", "/api/show", None, 400, "missing request body"),
        (
            "POST",
            "/api/copy",
            {"source": "mh-nope", "destination": "mh-none"},
            404,
            'model "mh-nope" not found',
        ),
        ("DELETE", "/api/delete", {"model": "mh-nope"}, 404, "model 'mh-nope' not found"),
        ("DELETE", "/api/delete", {"model": "bad name!"}, 400, 'name "bad name!" is invalid'),
        ("DELETE", "/api/delete", None, 400, "missing request body"),
        ("POST", "/api/generate", {"model": "mh-nope"}, 404, "model 'mh-nope' not found"),
        ("POST", "/api/chat", {"model": "mh-nope"}, 404, "model 'mh-nope' not found"),
    ],
)
def test_absent_or_unnamed_models(
    ollama_server: Server,
    method: str,
    path: str,
    body: dict[str, str] | None,
    status: int,
    error: str,
) -> None:
    content = b"" if body is None else json.dumps(body).encode()
    response = ollama_server.ask(method, path, data=content)
    assert response.status_code == status
    assert re.fullmatch(error, response.json()["error"])


def test_nothing_runs_that_was_only_created(ollama_server: Server, contents: Contents) -> None:
    name = ollama_server.create(files={"base.gguf": ollama_server.push(contents.base)})
    running = ollama_server.ask("GET", "/api/ps").json()["models"]
    assert f"{name}:latest" not in [entry["model"] for entry in running]


@pytest.mark.parametrize(
    ("path", "question"),
    [
        ("/api/generate", {"prompt": "hello"}),
        ("/api/chat", {"messages": [{"role": "user", "content": "hello"}]}),
    ],
)
def test_model_answers(
    ollama_server: Server, contents: Contents, path: str, question: dict[str, Any]
) -> None:
    name = ollama_server.create(files={"base.gguf": ollama_server.push(contents.base)})
    body = {"model": name, "options": {"num_predict": 4}} | question
    response = ollama_server.ask("POST", path, json=body)
    assert response.headers["Content-Type"] == "application/x-ndjson"
    *_, last = map(json.loads, response.text.splitlines())
    assert (last["model"], last["done"]) == (name, True)
    whole = ollama_server.ask("POST", path, json=body | {"stream": False}).json()
    assert whole["done"]


@pytest.mark.parametrize(
    "headers", [{"Host": "evil.example"}, {"Origin": "http://evil.example"}], ids=["Host", "Origin"]
)
def test_strangers_are_turned_away(ollama_server: Server, headers: dict[str, str]) -> None:
    host = urlsplit(ollama_server.url).hostname or ""
    if "Host" in headers and not ipaddress.ip_address(socket.gethostbyname(host)).is_loopback:
        pytest.skip("Ollama checks Host only where it listens on loopback")
    response = ollama_server.ask("GET", "/api/tags", headers=headers)
    assert (response.status_code, response.content) == (403, b"")

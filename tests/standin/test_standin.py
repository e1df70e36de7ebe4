"""The stand-in's levers for other tests, and what it does beyond the recorded answers."""

import hashlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from tests.gguf_files import write_base, write_lora
from tests.standin import Standin

REPOSITORY = Path(__file__).parents[2]
NO_ADAPTERS = "LoRA adapters are no longer supported"
MERGED_ONLY = "0.34.1"


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def push(server: Standin, content: bytes) -> str:
    digest = digest_of(content)
    requests.post(f"{server.url}/api/blobs/{digest}", data=content, timeout=30)
    return digest


def create(server: Standin, **body: Any) -> requests.Response:
    return requests.post(f"{server.url}/api/create", json={"model": "m"} | body, timeout=30)


def last_line(response: requests.Response) -> Any:
    return json.loads(response.text.splitlines()[-1])


@pytest.fixture
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Standin]:
    """A stand-in of the version that the test asks for through a parameter."""
    version = getattr(request, "param", "0.32.15")
    with Standin(tmp_path / "ollama", version=version) as standin:
        yield standin


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_base(tmp_path_factory.mktemp("base") / "base.gguf").read_bytes()


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_lora(tmp_path_factory.mktemp("lora") / "lora.gguf").read_bytes()


def test_requests_are_recorded_in_order(server: Standin) -> None:
    digest = push(server, b"hello")
    create(server, files={"x.gguf": digest})
    seen = [(each.method, each.path, each.body_bytes) for each in server.requests]
    body = {"model": "m", "files": {"x.gguf": digest}}
    length = len(json.dumps(body))
    assert seen == [("POST", f"/api/blobs/{digest}", 5), ("POST", "/api/create", length)]
    assert server.requests[-1].json == body


def test_body_of_a_known_blob_is_not_read(server: Standin) -> None:
    digest = push(server, bytes(1 << 19))
    host = urlsplit(server.url)
    with socket.create_connection((host.hostname, host.port), timeout=30) as connection:
        head = (
            f"POST /api/blobs/{digest} HTTP/1.1\r\nHost: localhost\r\n"
            "Content-Length: 524288\r\n\r\n"
        )
        connection.sendall(head.encode())
        answer = connection.recv(1000)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"Connection: close" in answer
    assert server.requests[-1].body_bytes == 0


@pytest.mark.parametrize("is_there", [False, True])
def test_client_that_awaits_100_continue(server: Standin, is_there: bool) -> None:
    content = b"hello"
    digest = push(server, content) if is_there else digest_of(content)
    host = urlsplit(server.url)
    with socket.create_connection((host.hostname, host.port), timeout=30) as connection:
        head = (
            f"POST /api/blobs/{digest} HTTP/1.1\r\nHost: localhost\r\n"
            f"Content-Length: {len(content)}\r\nExpect: 100-continue\r\n\r\n"
        )
        connection.sendall(head.encode())
        answer = connection.recv(1000)
        if not is_there:
            assert answer == b"HTTP/1.1 100 Continue\r\n\r\n"
            connection.sendall(content)
            answer = connection.recv(1000)
    assert answer.startswith(b"HTTP/1.1 200 " if is_there else b"HTTP/1.1 201 ")


def test_gate_holds_create_after_its_first_line(server: Standin, base: bytes) -> None:
    body = {"model": "m", "files": {"x.gguf": push(server, base)}}
    url = f"{server.url}/api/create"
    with (
        server.hold("/api/create") as gate,
        requests.post(url, json=body, stream=True, timeout=30) as response,
    ):
        lines = response.iter_lines(chunk_size=1)
        assert json.loads(next(lines)) == {"status": "parsing GGUF"}
        assert gate.wait_reached()
        assert requests.get(f"{server.url}/api/tags", timeout=30).json() == {"models": []}
        gate.open()
        assert json.loads([*lines][-1]) == {"status": "success"}


def test_gate_can_be_for_one_method(server: Standin) -> None:
    path = f"/api/blobs/{digest_of(b'hello')}"
    with server.hold("/api/blobs/", method="POST") as gate:
        assert requests.head(server.url + path, timeout=30).status_code == 404
        sender = threading.Thread(target=push, args=(server, b"hello"))
        sender.start()
        gate.wait_reached()
        assert requests.head(server.url + path, timeout=30).status_code == 404
    sender.join(30)
    assert requests.head(server.url + path, timeout=30).status_code == 200


def test_gate_that_nothing_reaches_says_so(server: Standin) -> None:
    with pytest.raises(TimeoutError, match="/api/show"):
        server.hold("/api/show").wait_reached(0.01)


def test_stop_frees_what_stands_at_a_gate(tmp_path: Path) -> None:
    answers: list[int] = []
    with Standin(tmp_path) as server:
        gate = server.hold("/api/tags")
        url = f"{server.url}/api/tags"
        asker = threading.Thread(
            target=lambda: answers.append(requests.get(url, timeout=30).status_code)
        )
        asker.start()
        gate.wait_reached()
        gate.open()
        asker.join(30)
    assert answers == [200]
    with pytest.raises(requests.ConnectionError):
        requests.get(url, timeout=30)


def test_stop_ends_idle_connections(tmp_path: Path) -> None:
    with requests.Session() as session:
        with Standin(tmp_path) as server:
            assert session.get(server.url, timeout=30).ok
        with pytest.raises(requests.ConnectionError):
            session.get(server.url, timeout=30)


def test_next_request_alone_fails(server: Standin) -> None:
    server.fail_next("/api/tags", 503, b'{"error":"busy"}')
    failed = requests.get(f"{server.url}/api/tags", timeout=30)
    assert (failed.status_code, failed.json()) == (503, {"error": "busy"})
    assert requests.get(f"{server.url}/api/tags", timeout=30).status_code == 200


def test_next_create_streams_given_lines(server: Standin) -> None:
    lines = [b'{"status":"parsing GGUF"}\n', b'{"error":"no space left on device"}\n']
    server.fail_next("/api/create", lines=lines)
    response = create(server, files={})
    assert (response.status_code, response.content) == (200, b"".join(lines))


def test_next_blob_is_cut_off(server: Standin) -> None:
    content = bytes(1 << 24)
    server.fail_next("/api/blobs/", reset=True, method="POST")
    with pytest.raises(requests.ConnectionError):
        push(server, content)
    push(server, content)
    path = f"/api/blobs/{digest_of(content)}"
    assert requests.head(server.url + path, timeout=30).status_code == 200


def test_next_create_is_cut_off_after_its_first_line(server: Standin) -> None:
    server.fail_next("/api/create", reset=True)
    url = f"{server.url}/api/create"
    with requests.post(url, json={"model": "m"}, stream=True, timeout=30) as response:
        lines = response.iter_lines(chunk_size=1)
        assert json.loads(next(lines)) == {"status": "parsing GGUF"}
        with pytest.raises(requests.RequestException):
            next(lines)


@pytest.mark.parametrize(
    ("server", "status"), [("0.12.11", 404), ("0.32.15", 200)], indirect=["server"]
)
def test_pushed_blob_goes_with_its_last_model(server: Standin, base: bytes, status: int) -> None:
    digest = push(server, base)
    create(server, files={"x.gguf": digest})
    requests.delete(f"{server.url}/api/delete", json={"model": "m"}, timeout=30)
    assert requests.head(f"{server.url}/api/blobs/{digest}", timeout=30).status_code == status


def test_models_outlive_the_server(tmp_path: Path, base: bytes) -> None:
    with Standin(tmp_path) as server:
        create(server, files={"x.gguf": push(server, base)})
    with Standin(tmp_path) as server:
        models = requests.get(f"{server.url}/api/tags", timeout=30).json()["models"]
    assert [entry["name"] for entry in models] == ["m:latest"]


def test_rewritten_base_is_a_whole_gguf(server: Standin, base: bytes, tmp_path: Path) -> None:
    create(server, files={"x.gguf": push(server, base)})
    shown = requests.post(f"{server.url}/api/show", json={"model": "m"}, timeout=30).json()
    stored = Path(shown["modelfile"].split("\nFROM ")[1].splitlines()[0]).read_bytes()
    assert stored != base
    assert len(stored) > len(base)
    assert last_line(create(server, files={"x.gguf": push(server, stored)})) == {
        "status": "success"
    }
    other = requests.post(f"{server.url}/api/show", json={"model": "m"}, timeout=30).json()
    assert other["tensors"] == shown["tensors"]


def gguf(*values: bytes, tensors: int = 0, version: int = 3, count: int | None = None) -> bytes:
    amount = len(values) if count is None else count
    return b"GGUF" + struct.pack("<IQQ", version, tensors, amount) + b"".join(values)


def key(name: str, kind: int, content: bytes) -> bytes:
    return struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", kind) + content


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "supplied file was not in GGUF format"),
        (b"GGUF", "EOF"),
        (gguf(count=1), "EOF"),
        (gguf(count=1 << 60), "EOF"),
        (gguf(key("a", 13, b"")), "invalid type: 13"),
        (gguf(key("a", 4, b"\0\0")), "unexpected EOF"),
        (
            gguf(key("a", 8, struct.pack("<Q", 1 << 40))),
            "GGUF string length 1099511627776 exceeds maximum 16777216",
        ),
        (
            gguf(key("a", 9, struct.pack("<IQ", 4, 1 << 40))),
            "GGUF array size 1099511627776 exceeds maximum 67108864",
        ),
        (gguf(key("a", 9, struct.pack("<IQ", 4, 1 << 20))), "EOF"),
        (gguf(key("a", 9, struct.pack("<IQ", 9, 1))), "invalid array type: 9"),
        (gguf(tensors=1 << 60), "failed to read tensor name: EOF"),
        (
            gguf(struct.pack("<Q1sI", 1, b"t", 5), tensors=1, count=0),
            'tensor "t" dimensions 5 exceeds maximum 4',
        ),
        (
            gguf(struct.pack("<Q1sIQIQ", 1, b"t", 1, 8, 0, 0), tensors=1, count=0),
            'tensor "t" offset+size (96) exceeds file size (57)',
        ),
        (gguf(key("general.alignment", 4, bytes(4))), "invalid GGUF alignment: 0"),
    ],
)
def test_header_fails_where_ollama_says(server: Standin, content: bytes, error: str) -> None:
    response = create(server, files={"x.gguf": push(server, content)})
    assert last_line(response) == {"error": error}


@pytest.mark.parametrize(
    ("template", "error"),
    [
        ("{{ .Prompt }}{{ if .System }}{{ .System }}{{ end }}", None),
        ('{{- range $i, $_ := .Messages }}{{ if eq .Role "user" }}{{ . }}{{ end }}{{ end }}', None),
        ("{{ .Prompt", "template: :1: unclosed action"),
        ("a\nb{{ if .x }}", "template: :2: unexpected EOF"),
        ("{{ end }}", "template: :1: unexpected {{end}}"),
        ("{{ m.role }}", 'template: :1: function "m" not defined'),
        ("{{ messages[0]['role'] }}", 'template: :1: function "messages" not defined'),
        ('{{ "a', "template: :1: unterminated quoted string"),
    ],
)
def test_template_fails_where_go_says(
    server: Standin, base: bytes, template: str, error: str | None
) -> None:
    files = {"x.gguf": push(server, base)}
    expected = {"error": f"template error: {error}"} if error else {"status": "success"}
    assert last_line(create(server, files=files, template=template)) == expected


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"[]", "json: cannot unmarshal array into Go value of type api.CreateRequest"),
        (
            b'{"model": 5}',
            "json: cannot unmarshal number into Go struct field CreateRequest.model of type string",
        ),
        (
            b'{"files": "x"}',
            "json: cannot unmarshal string into Go struct field CreateRequest.files of type"
            " map[string]string",
        ),
        (b'{"model": "m"', "unexpected EOF"),
        (b'{"model" "m"}', "invalid character '\"' after object key"),
        (b'{"model": m}', "invalid character 'm' looking for beginning of value"),
        (
            b'{"model": "m",}',
            "invalid character '}' looking for beginning of object key string",
        ),
        (b'{"a": 1 "b"}', "invalid character '\"' after object key:value pair"),
        (b"[1 2]", "invalid character '2' after array element"),
    ],
)
def test_request_fails_in_words_of_go(server: Standin, body: bytes, error: str) -> None:
    response = requests.post(f"{server.url}/api/create", data=body, timeout=30)
    assert (response.status_code, response.json()) == (400, {"error": error})


def shards(folder: Path, base_seed: int = 5) -> Mapping[str, bytes]:
    return {
        f"m-0000{number}-of-00002.gguf": write_base(
            folder / f"{number}.gguf",
            seed=base_seed + number,
            extra={"split.no": number - 1, "split.count": 2},
        ).read_bytes()
        for number in (1, 2)
    }


def test_shards_become_one_base(server: Standin, tmp_path: Path) -> None:
    files = {name: push(server, content) for name, content in shards(tmp_path).items()}
    lines = [json.loads(line) for line in create(server, files=files).text.splitlines()]
    assert [line["status"].partition(" sha256")[0] for line in lines] == [
        "parsing GGUF",
        "parsing GGUF",
        "verifying conversion",
        "creating new layer",
        "writing manifest",
        "success",
    ]
    shown = requests.post(f"{server.url}/api/show", json={"model": "m"}, timeout=30).json()
    assert "split.count" not in shown["model_info"]


@pytest.mark.parametrize(
    ("renamed", "error"),
    [
        ("m-00001-of-00002.gguf", 'split GGUF "m-00001-of-00002.gguf" has 1 shards, expected 2'),
        ("m.gguf", 'split GGUF "m.gguf" must use llama.cpp split filename pattern'),
        (
            "m-00002-of-00002.gguf",
            'split GGUF "m-00002-of-00002.gguf" filename index 1 does not match metadata index 0',
        ),
        (
            "m-00001-of-00003.gguf",
            'split GGUF "m-00001-of-00003.gguf" filename count 3 does not match metadata count 2',
        ),
    ],
)
def test_shard_that_does_not_fit(server: Standin, tmp_path: Path, renamed: str, error: str) -> None:
    first = shards(tmp_path)["m-00001-of-00002.gguf"]
    assert last_line(create(server, files={renamed: push(server, first)})) == {"error": error}


@pytest.mark.parametrize(
    ("server", "files", "lines"),
    [
        (
            "0.32.15",
            {"config.json": b'{"architectures": ["LlamaForCausalLM"]}'},
            ["converting model", "verifying conversion", "creating new layer"],
        ),
        (
            "0.12.11",
            {"config.json": b'{"architectures": ["LlamaForCausalLM"]}'},
            ["converting model", "creating new layer"],
        ),
        (
            "0.32.15",
            {"config.json": b'{"architectures": ["Strange"]}'},
            ["converting model", 'unsupported architecture "Strange"'],
        ),
        ("0.32.15", {"config.json": b"{}"}, ["converting model", "unknown architecture"]),
        (MERGED_ONLY, {}, ["MLX is not available on this server"]),
    ],
    indirect=["server"],
)
def test_safetensors_base(server: Standin, files: dict[str, bytes], lines: list[str]) -> None:
    digests = {"model.safetensors": push(server, b"weights")}
    digests |= {name: push(server, content) for name, content in files.items()}
    response = create(server, files=digests)
    said = [
        line.get("status", line.get("error")) for line in map(json.loads, response.iter_lines())
    ]
    assert [text.partition(" sha256")[0] for text in said[: len(lines)]] == lines
    assert response.status_code == (200 if len(said) > 1 else 503)


@pytest.mark.parametrize(
    ("arch", "files", "last"),
    [
        ("llama", {"adapter_config.json": b"{}"}, {"status": "success"}),
        ("qwen2", {"adapter_config.json": b"{}"}, {"error": "unsupported architecture"}),
        ("llama", {}, {"error": "open adapter_config.json: no such file or directory"}),
    ],
)
def test_safetensors_adapter(
    server: Standin, tmp_path: Path, arch: str, files: dict[str, bytes], last: dict[str, str]
) -> None:
    base = push(server, write_base(tmp_path / "base.gguf", arch).read_bytes())
    adapters = {"adapter_model.safetensors": push(server, b"weights")}
    adapters |= {name: push(server, content) for name, content in files.items()}
    response = create(server, files={"base.gguf": base}, adapters=adapters)
    assert '{"status":"converting adapter"}' in response.text.splitlines()
    assert last_line(response) == last


@pytest.mark.parametrize("server", [MERGED_ONLY], indirect=True)
def test_new_server_takes_neither_adapters_nor_quantization(
    server: Standin, base: bytes, adapter: bytes
) -> None:
    files = {"base.gguf": push(server, base)}
    lora = {"lora.gguf": push(server, adapter)}
    refused = create(server, model="!", files=files, adapters=lora)
    assert (refused.status_code, refused.json()) == (400, {"error": NO_ADAPTERS})
    hidden = create(server, files=files | lora)
    assert last_line(hidden) == {"error": f"{NO_ADAPTERS}: lora.gguf is a LoRA adapter"}
    assert "error" in last_line(create(server, files=files, quantize="q8_0"))
    lines = create(server, files=files).text.splitlines()
    assert json.loads(lines[1]) == {"status": f"using existing layer {files['base.gguf']}"}


def test_model_with_a_strange_adapter_does_not_run(
    server: Standin, base: bytes, tmp_path: Path
) -> None:
    strange = write_lora(tmp_path / "strange.gguf", "qwen2").read_bytes()
    files, adapters = {"b.gguf": push(server, base)}, {"a.gguf": push(server, strange)}
    assert last_line(create(server, files=files, adapters=adapters)) == {"status": "success"}
    body = {"model": "m", "prompt": "hello"}
    response = requests.post(f"{server.url}/api/generate", json=body, timeout=30)
    assert response.status_code == 500


def test_creates_at_the_same_time(server: Standin, base: bytes) -> None:
    files = {"x.gguf": push(server, base)}
    lasts: list[Any] = []

    def make(name: str) -> None:
        for _ in range(3):
            lasts.append(last_line(create(server, model=name, files=files)))

    makers = [threading.Thread(target=make, args=(name,)) for name in ("a", "a", "b", "c")]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join(30)
    assert lasts == [{"status": "success"}] * 12


def test_command_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.standin", "--folder", str(tmp_path / "models")]
    with subprocess.Popen(
        [*command, "--version", "0.12.11"], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    ) as process:
        assert process.stdout
        assert select.select([process.stdout], [], [], 30)[0]
        url = process.stdout.readline().strip()
        version = requests.get(f"{url}/api/version", timeout=30).json()
        chunk = bytes(1 << 20)
        digest = digest_of(chunk * 128)
        pushed = requests.post(
            f"{url}/api/blobs/{digest}", data=(chunk for _ in range(128)), timeout=60
        )
        status = Path(f"/proc/{process.pid}/status")
        peak = status.read_text().partition("VmHWM:")[2].split()[0] if status.exists() else "0"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert version == {"version": "0.12.11"}
    assert pushed.status_code == 201
    assert int(peak) < 80 << 10, "KiB: a blob isn't held in memory"


def test_command_needs_no_test_packages() -> None:
    code = (
        "import sys, tests.standin.__main__ as m;"
        "sys.exit(bool({'pytest', 'numpy', 'gguf', 'requests', 'app'} & set(sys.modules)))"
    )
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0

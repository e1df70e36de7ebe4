"""Whatever a client sends, the answer is a 4xx that says so: never a 500."""

import json
import socket
import struct
import threading
import tracemalloc
from collections.abc import Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from flask import Flask

from app import create_app
from app.formats import counted_json
from app.formats.files import ModelFile
from app.formats.safetensors import read_header
from app.modelfile.grammar import parse
from app.planning.contents import examine
from app.planning.options import BadRequest, read_json
from app.planning.safetensors_parts import safetensors_parts
from app.planning.selection import select
from app.planning.unusable import Unusable
from app.service.lines import Line
from app.storage.model import Model
from tests.callers import FlaskCaller, RequestsCaller
from tests.conftest import Zips
from tests.gguf_files import write_base, write_zip
from tests.serving import Served
from tests.standin import Standin

DEEP = "[" * 100_000
JSON = {
    "deep": '{"model": ' + DEEP,
    "a deep object": '{"a":' * 50_000,
    "an integer of 400 digits": '{"model": "m", "adapter_scale": 1' + "0" * 400 + "}",
    "an integer of 5,000 digits": '{"model": ' + "9" * 5000 + "}",
    "beyond a double": '{"model": "m", "adapter_scale": 1e999}',
    "not a number": '{"model": "m", "adapter_scale": NaN}',
    "infinity": '{"model": "m", "adapter_scale": -Infinity}',
    "no UTF-8": b'{"model": "\xff"}',
    "a lone surrogate": '{"model": "\\ud800", "model_name_on_ollama": "x"}',
    "a null byte": '{"model": "a\\u0000b", "model_name_on_ollama": "x"}',
    "a list for text": '{"model": [], "model_name_on_ollama": {}}',
    "nothing": "",
}


@pytest.mark.parametrize("name", JSON)
@pytest.mark.parametrize(
    ("method", "path"),
    [("DELETE", "/models/"), ("POST", "/models/create/"), ("POST", "/ollama/generate")],
)
def test_json(app: Flask, name: str, method: str, path: str) -> None:
    client = app.test_client()
    answer = client.open(
        path, method=method, data=JSON[name], headers={"Content-Type": "application/json"}
    )
    assert 400 <= answer.status_code < 500
    assert json.loads(answer.data)["message"]["details"]["error"]


NEXT = {"model": "m", "model_name_on_ollama": "m"}
DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        *(("/ollama/generate", {"model": name, "prompt": "x"}) for name in ("a\x1bb", "a\u2028b")),
        ("/ollama/generate", {"model": "m", "prompt": "x\0"}),
        ("/ollama/chat", {"model": "m", "messages": [{"role": "user", "content": "\ud800"}]}),
        *(("/models/create/", {**NEXT, name: "x\0y"}) for name in ("system", "template", "from")),
        ("/models/create/", {**NEXT, "parameters": {"stop": ["x\0"]}}),
        *(
            ("/api/create", {"model": "m", "from": "n", "system": text})
            for text in ("\ud800", "\0")
        ),
        *(
            ("/api/create", {"model": "m", "from": "n", name: "a\tb"})
            for name in ("renderer", "parser")
        ),
        ("/api/create", {"model": "m", "files": {"a\x7f.gguf": DIGEST}}),
        ("/api/create", {"model": "m", "from": "n", "adapters": {"a\u2028b.gguf": DIGEST}}),
    ],
)
def test_what_ollama_could_not_take_does_not_go_there(
    app: Flask, standin: Standin, path: str, fields: dict[str, object]
) -> None:
    """Some was answered as though Ollama could not be reached."""
    answer = app.test_client().post(path, data=json.dumps(fields), content_type="application/json")
    assert answer.status_code == 400
    assert any(word in answer.text for word in ("Remove it.", "another name", "Ollama's names are"))
    assert not [seen for seen in standin.requests if seen.method == "POST"]


@pytest.mark.parametrize("field", ["system", "template", "license", "from"])
def test_a_form_s_field_with_a_null_byte(app: Flask, zips: Zips, field: str) -> None:
    fields = [("model_name_on_ollama", "x"), (field, "x\0y"), ("Model", zips.both)]
    answer = FlaskCaller(app.test_client()).send_form("/models/deploy/", fields)
    assert answer.status == 400


@pytest.mark.parametrize(
    "line", ["SYSTEM a\0b", "LICENSE a\0b", "MESSAGE user a\0b", "RENDERER a\x1bb"]
)
def test_a_modelfile_that_ollama_could_not_take(app: Flask, tmp_path: Path, line: str) -> None:
    base = tmp_path / "base.gguf"
    write_base(base)
    members = {"base.gguf": base, "Modelfile": f"FROM ./base.gguf\n{line}\n".encode()}
    write_zip(tmp_path / "m.zip", members)
    fields = [("model_name_on_ollama", "x"), ("Model", tmp_path / "m.zip")]
    answer = FlaskCaller(app.test_client()).send_form("/models/deploy/", fields)
    assert answer.last["status"] == 400
    assert "Remove it." in answer.last["details"]["error"]


@pytest.mark.parametrize("value", [DEEP, "9" * 5000, '{"seed": 1' + "0" * 400 + "}", "NaN", "{"])
def test_json_in_a_form_s_field(app: Flask, zips: Zips, value: str) -> None:
    fields = [("model_name_on_ollama", "x"), ("parameters", value), ("Model", zips.both)]
    answer = FlaskCaller(app.test_client()).send_form("/models/deploy/", fields)
    assert answer.status == 400


@pytest.mark.parametrize("size", [500_001, 2_000_000])
def test_fields_beyond_the_limit(served: Served, zips: Zips, size: int) -> None:
    for fields in ([("system", "x" * size)], [(f"f{n}", "x" * (size // 8)) for n in range(9)]):
        sent = [*fields, ("Model", zips.both)]
        assert RequestsCaller(served.url).send_form("/models/upload/", sent).status == 413


RAW = {
    "a bad chunk size": (
        b"PUT /models/upload/m.zip HTTP/1.1\r\n%sTransfer-Encoding: chunked\r\n\r\nzz\r\n"
    ),
    "a chunk without its end": (
        b"PUT /models/upload/m.zip HTTP/1.1\r\n%sTransfer-Encoding: chunked\r\n\r\n3\r\nabcXX\r\n"
    ),
    "a negative chunk": (
        b"PUT /models/upload/m.zip HTTP/1.1\r\n%sTransfer-Encoding: chunked\r\n\r\n-3\r\nabc\r\n"
    ),
    "a chunk in JSON": (
        b"POST /models/create/ HTTP/1.1\r\n%sContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n"
    ),
    "an origin that is none": b"DELETE /models/ HTTP/1.1\r\n%sOrigin: http://[\r\n\r\n",
    "a host that is none": b"GET /models/ HTTP/1.1\r\nHost: [\r\n\r\n",
    "a path that isn't UTF-8": b"GET /models/%%ff%%fe/ HTTP/1.1\r\n%s\r\n",
    "a file name that isn't UTF-8": (
        b"POST /models/upload/ HTTP/1.1\r\n%sContent-Type: multipart/form-data; boundary=b\r\n"
        b"Content-Length: 80\r\n\r\n--b\r\nContent-Disposition: form-data; name=Model;"
        b' filename="\xff.zip"\r\n\r\nPK\r\n--b--'
    ),
    "a length that is none": b"POST /models/upload/ HTTP/1.1\r\n%sContent-Length: abc\r\n\r\n",
    "no request": b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
    "a head without end": b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 40_000,
}


@pytest.mark.parametrize("name", RAW)
def test_bytes(served: Served, name: str) -> None:
    host = urlsplit(served.url)
    data = RAW[name].replace(b"%s", b"Host: localhost\r\n").replace(b"%%", b"%")
    with socket.create_connection((host.hostname or "", host.port or 0), timeout=10) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        head = client.recv(65536)
    assert b"400" <= head.split()[1] < b"500", head
    assert requests.get(f"{served.url}/healthz", timeout=10).status_code == 200


def test_a_verbose_stream_is_never_silent_for_long(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing happens, a line says at least every ten seconds that the work goes on."""
    clock = iter(range(0, 10_000, 4))
    monkeypatch.setattr("app.views.stream.time.monotonic", lambda: float(next(clock)))

    def models(*_: object, **__: object) -> object:
        yield Line("Get model.", 0.5, {"model": "a"})
        for _ in range(20):
            yield None
        yield Line("Get model.", 1.0, {"model": "b"})

    monkeypatch.setattr("app.service.work.Service.models", models)
    verbose, quiet = (
        [json.loads(line)["message"] for line in app.test_client().get(path).data.splitlines()]
        for path in ("/models/?verbose=1", "/models/")
    )
    beats = [message for message in verbose if message["action"] == "Still working."]
    assert len(beats) >= 5
    assert {message["progress_ratio"] for message in beats} == {0.5}
    assert [message["action"] for message in quiet] == ["Get model."] * 2


def test_a_proxy_for_the_internet_is_none_for_ollama(
    models_dir: Path, ollama: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    app = create_app({"MODELS_DIR": models_dir, "OLLAMA_HOST": ollama})
    [server] = json.loads(app.test_client().get("/ollama/").data)["servers"]
    assert "version" in server


@pytest.mark.parametrize(
    "text", [" " * 10**6, "#\n" * 500_000, "\t\r\n" * 300_000, "# a\n\n" * 200_000], ids=ascii
)
def test_what_stands_between_a_modelfile_s_instructions_takes_no_memory(text: str) -> None:
    """8 MB of it took 1.4 GB."""
    tracemalloc.start()
    try:
        assert parse(f"{text}FROM x").from_ == ("x",)
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("FROM ./" + "*?" * 200_000, "which is no base model in the zip"),
        ("FROM ./" + "*" * 9, "which is no base model in the zip"),
        ("FROM ./base.gguf\n" * 10_001, "more than 10000 instructions"),
        ("FROM ./base.gguf\n" + "#" * 2**20, "can have 1048576 at most"),
    ],
    ids=lambda text: text[:20],
)
def test_a_modelfile_is_bounded(tmp_path: Path, text: str, said: str) -> None:
    """A zip of 109 kB took 4 GB, and minutes."""
    base = tmp_path / "base.gguf"
    write_base(base)
    (tmp_path / "Modelfile").write_text(text)
    with pytest.raises(Unusable, match=said):
        select(examine(Model("m", tmp_path).files()))


def test_each_folder_is_looked_at_alone() -> None:
    """A zip of 1.5 MB with 4,000 of them took over a minute."""

    class Counted(dict[str, ModelFile]):
        looks = 0

        def items(self) -> Any:
            self.looks += 1
            return super().items()

        def __iter__(self) -> Iterator[str]:
            self.looks += 1
            return super().__iter__()

    header = b'{"a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}'
    contents = {"config.json": b"{}", "model.safetensors": struct.pack("<Q", len(header)) + header}
    files = Counted()
    for number in range(100):
        for file, content in contents.items():
            name = f"{number}/{file}"
            files[name] = ModelFile(name, len(content), partial(BytesIO, content))
    models, _ = safetensors_parts(files)
    assert len(models) == 100
    assert files.looks < 5


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "adapter_config.json"])
def test_json_is_counted_before_it_is_read(tmp_path: Path, name: str) -> None:
    """8 MB of it took 270 MB."""
    header = b'{"a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}'
    weights = "adapter_model.safetensors" if name.startswith("adapter") else "model.safetensors"
    (tmp_path / weights).write_bytes(struct.pack("<Q", len(header)) + header)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).write_bytes(b'{"a": [' + b"[]," * 500_000 + b"[]]}")
    with pytest.raises(Unusable, match=f"^{name} .* more .*values"):
        examine(Model("m", tmp_path).files())


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"system": "x" * 500_001}, "it takes 500000 at most"),
        ({"server": "a," * 100}, "takes 100 servers"),
        ({"server": ["a,b"] * 51}, "takes 100 servers"),
        ({"parameters": [[]] * 500_000}, "more than 800000 values"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_request_s_fields_are_bounded(app: Flask, fields: dict[str, object], said: str) -> None:
    """7 MB of commas took 440 MB."""
    answer = app.test_client().post("/models/create/", json={**NEXT, **fields})
    assert answer.status_code == 400
    assert said in answer.text


def test_the_tensors_of_all_files_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A zip of 1.6 MB with 600,000 took 14 s of processor time."""
    monkeypatch.setattr("app.planning.safetensors_parts.MOST_TENSORS", 2)
    header = b'{"a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}'
    content = struct.pack("<Q", len(header)) + header
    files = {"config.json": ModelFile("config.json", 2, lambda: BytesIO(b"{}"))}
    for name in ("1.safetensors", "2.safetensors", "3.safetensors"):
        files[name] = ModelFile(name, len(content), lambda: BytesIO(content))
    with pytest.raises(Unusable, match=r"^Up to 3.safetensors there are more than 2 tensors"):
        safetensors_parts(files)


def test_large_json_is_read_by_one_thread_at_a_time() -> None:
    """32 requests of 4 MB each kept /healthz waiting for 17 s."""
    reading = threading.Event()
    with counted_json.alone("x" * 70_000):
        large = threading.Thread(target=lambda: (read_json(" " * 70_000 + "1"), reading.set()))
        large.start()
        assert read_json("1") == 1
        assert not reading.wait(0.05)
    assert reading.wait(10)
    large.join()


@pytest.mark.parametrize(
    "content",
    [
        '{"a": "\\u0000"}',
        b'{"a": "\xed\xa0\x80"}',
        '{"a": "\\u0000"}'.encode("utf-16"),
        '{"\\ud800": 1}',
        '["\\udc00\\ud800"]',
    ],
    ids=ascii,
)
def test_texts_of_json_that_ollama_could_not_take(content: str | bytes) -> None:
    with pytest.raises(BadRequest, match="Remove it"):
        read_json(content)


@pytest.mark.parametrize("text", ["\\u0000", "\u00e9", "\U0001f600", "a\tb"], ids=ascii)
def test_texts_of_json_that_are_taken(text: str) -> None:
    assert read_json(json.dumps([text]).encode("utf-16")) == [text]
    assert read_json(json.dumps([text])) == [text]


def test_large_headers_are_read_by_one_thread_at_a_time() -> None:
    """32 zips of 180,000 tensors each kept /healthz waiting for 2.6 s."""
    header = b'{"a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}' + b" " * 70_000
    content = struct.pack("<Q", len(header)) + header
    read = threading.Event()
    with counted_json.alone(header):
        large = threading.Thread(
            target=lambda: (read_header(BytesIO(content), len(content)), read.set())
        )
        large.start()
        assert not read.wait(0.05)
    assert read.wait(10)
    large.join()

"""A mistake is refused at the first byte that tells it: what was sent by then, and what is said."""

import json
import select
import socket
import struct
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import gguf
import numpy as np
import pytest
import requests

from tests.callers import RequestsCaller
from tests.conftest import Zips, litter
from tests.gguf_files import finish, write_zip
from tests.serving import Served
from tests.standin import Standin
from tests.test_arrival import BROKEN, LFS, entry
from tests.test_zips import Files

UPLOAD, CREATE = "Failed upload model file.", "Failed create model"
SENT = 4 * 10**6
SIZE = 341_000_000
NAME = {"model_name_on_ollama": "new"}
LINGERS = 20.0


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("files"))


@dataclass(frozen=True)
class Mistake:
    """What is sent to deploy (or upload), and how it is refused. `content` begins the file."""

    error: str
    status: int = 422
    action: str = UPLOAD
    fields: dict[str, str] = field(default_factory=lambda: dict(NAME))
    content: Callable[[Files], bytes] = lambda files: b"PK\3\4"
    filename: str = "big.zip"
    file_field: str = "Model"
    path: str = "/models/deploy/"


def entry_head(name: str, size: int) -> bytes:
    """The head of a stored zip entry."""
    head = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 0, 0, 0, 0, size, size, len(name), 0)
    return head + name.encode()


def large(name: str, begins: bytes = b"") -> bytes:
    """The head of a stored zip entry of 300 MB, and what its content begins with."""
    return entry_head(name, 300_000_000) + begins


def tar_head(name: str, size: int) -> bytes:
    """The head of a tar's entry."""
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf()


SMALL = entry("m/a.txt", b"x" * 300)
QUANTIZED = b'{"architectures": ["X"], "quantization_config": {"quant_method": "gptq"}}'
TENSORS = b'{"w": {"dtype": "U8", "shape": [299999900], "data_offsets": [0, 299999900]}}'
TENSORS = struct.pack("<Q", 92) + TENSORS.ljust(92)


def no_tokenizer(files: Files) -> bytes:
    """A GGUF of a llama without one."""
    path = files.folder / "no-tokenizer.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("token_embd.weight", np.ones((8, 32), np.float32))
    finish(writer)
    return path.read_bytes()


BY_FIELDS = {
    "a name that Ollama doesn't take": Mistake(
        "'a@b' can't be a model's name on Ollama.", 400, CREATE, {"model_name_on_ollama": "a@b"}
    ),
    "an empty name": Mistake(
        "The field 'model_name_on_ollama' is missing or empty.",
        *(400, UPLOAD, {"model_name_on_ollama": ""}),
    ),
    "a name that is taken": Mistake(
        "Ollama has a model 'base-on-ollama' already. Choose another name, or send replace=true.",
        *(409, CREATE, {"model_name_on_ollama": "base-on-ollama", "replace": "false"}),
    ),
    "an option's name with a typo": Mistake(
        "There is no field 'replaec'. Did you mean 'replace'?", 400, fields=NAME | {"replaec": "0"}
    ),
    "a parameter that Ollama hasn't": Mistake(
        "Ollama has no parameter 'temprature'. Did you mean 'temperature'?",
        *(400, CREATE, NAME | {"parameters": '{"temprature": 1}'}),
    ),
    "parameters that aren't JSON": Mistake(
        "The field 'parameters' isn't JSON", 400, fields=NAME | {"parameters": "{"}
    ),
    "an unknown type": Mistake(
        "The field 'quantize' takes one of F32,", 400, fields=NAME | {"quantize": "Q9"}
    ),
    "no such server": Mistake(
        "There is no Ollama server 'nowhere' here", 400, CREATE, NAME | {"server": "nowhere"}
    ),
    "no such template": Mistake(
        "There is no template 'mine'.", 400, CREATE, NAME | {"modelfile_template": "mine"}
    ),
    "a Modelfile that is none": Mistake("", 400, CREATE, NAME | {"modelfile": "FORM ./x.gguf"}),
    "not an upload's name": Mistake(
        "'model.bin' isn't named like an upload.", 400, filename="model.bin"
    ),
}
BY_CONTENT = {
    "a GGUF renamed .zip": Mistake(
        "The uploaded file is a GGUF file. Send it by itself, as <model>.gguf, or in a zip.",
        content=lambda f: f.base.read_bytes(),
    ),
    "an HTML page": Mistake(
        "The uploaded file is an HTML page.", content=lambda f: b"<!doctype html><title>Sign in"
    ),
    "a Git LFS pointer": Mistake(
        "The uploaded file is a Git LFS pointer.", content=lambda f: LFS[:200]
    ),
    "a GGUF that is an HTML page": Mistake(
        "", filename="m.gguf", content=lambda f: b"<html>" * 99,
    ),
    "a GGUF of the future": Mistake(
        "m.gguf is GGUF version 9", filename="m.gguf", content=lambda f: BROKEN[:900]
    ),
    "a zip that is cut off": Mistake(
        "The archive is cut off: its end is missing. Upload it again.",
        content=lambda f: SMALL + entry_head("m/b.bin", SIZE),
    ),
    "a tar that is cut off": Mistake(
        "The archive is cut off: its end is missing. Upload it again.",
        filename="m.tar",
        content=lambda f: tar_head("m/b.bin", SIZE),
    ),
    "traversal in a zip": Mistake("The name '../x'", content=lambda f: SMALL + large("../x")),
    "encryption": Mistake(
        "'m/x' is encrypted", content=lambda f: SMALL + entry("m/x", b"", flags=1)
    ),
    "another method": Mistake(
        "'m/x' is compressed with bzip2", content=lambda f: SMALL + entry("m/x", b"x", method=12)
    ),
    "a GGUF of the future in a zip": Mistake(
        "m/b.gguf is GGUF version 9", content=lambda f: SMALL + large("m/b.gguf", BROKEN[:900])
    ),
    "a model without a tokenizer": Mistake(
        "m.gguf has no tokenizer.", content=lambda f: large("m.gguf", no_tokenizer(f))
    ),
    "a model quantized by others": Mistake(
        "model.safetensors is quantized already, by GPTQ",
        content=lambda f: entry("config.json", QUANTIZED)
        + large("model.safetensors", TENSORS),
    ),
    "an adapter of another architecture than `from`": Mistake(
        "lora.gguf is for qwen2, and 'base-on-ollama' is llama.",
        *(422, CREATE, NAME | {"from": "base-on-ollama"}),
        content=lambda f: entry("lora.gguf", f.qwen_lora.read_bytes()) + large("x.bin"),
    ),
    "an adapter that doesn't fit the stored base": Mistake(
        "wide.gguf",
        *(422, CREATE, NAME | {"from": "stored_base"}),
        content=lambda f: entry("wide.gguf", f.wide_lora.read_bytes()) + large("x.bin"),
    ),
    "a base that Ollama hasn't": Mistake(
        "Ollama has no model 'absent' to put the adapter on.",
        *(422, CREATE, NAME | {"from": "absent"}),
        content=lambda f: entry("lora.gguf", f.lora.read_bytes()) + large("x.bin"),
    ),
    "a base beside `from`": Mistake(
        "The zip has its own base, base.gguf: leave the field 'from' out.",
        *(400, CREATE, NAME | {"from": "base-on-ollama"}),
        content=lambda f: large("base.gguf", f.base.read_bytes()),
    ),
    "quantizing twice": Mistake(
        "The model is Q8_0 already; only F16, BF16, F32 can be quantized.",
        *(422, CREATE, NAME | {"quantize": "Q4_0"}),
        content=lambda f: large("q8.gguf", f.q8.read_bytes()),
    ),
}  # fmt: skip
BY_FORM = {
    "a file in another field": Mistake(
        "The file came in the field 'file', not in 'Model'.", 400, file_field="file"
    ),
    "a field that is nearly the file's": Mistake(
        "The file came in the field 'Modell', not in 'Model'.", 400, file_field="Modell"
    ),
    "traversal in a folder": Mistake("The name 'm/../../x.gguf'", filename="m/../../x.gguf"),
    "a folder's name that can't be": Mistake(
        "'.hidden' can't be a model's name.", 400, filename=".hidden/x.gguf"
    ),
    "a model's name that can't be": Mistake(
        "'a/b' can't be a model's name.", 400, fields=NAME | {"name": "a/b"}, filename="x.gguf"
    ),
}


@pytest.fixture
def mistake(request: pytest.FixtureRequest, name: str, served: Served, files: Files) -> Mistake:
    """The mistake of that name; where it is about a base, there is one on Ollama, of llama, and the
    same among the service's own models."""
    found = (BY_FIELDS | BY_CONTENT | BY_FORM)[name]
    if {"from", "replace"} & set(found.fields):
        request.getfixturevalue("standin")
        folder: Path = request.getfixturevalue("tmp_path")
        zipped = write_zip(folder / "stored_base.zip", {"base.gguf": files.base})
        form = [("model_name_on_ollama", "base-on-ollama"), ("Model", zipped)]
        answer = RequestsCaller(served.url).send_form("/models/deploy/", form)
        assert answer.last["status"] == 200
    return found


@pytest.fixture(autouse=True)
def nothing_stays(standin: Standin, models_dir: Path) -> Iterator[None]:
    yield
    assert not litter(models_dir)
    assert {path.name for path in models_dir.glob("[!.]*")} <= {"stored_base", "good"}


@dataclass
class Outcome:
    status: int
    line: dict[str, object]
    sent: int
    continued: bool


def send(url: str, head: str, begin: bytes, size: int, *, deaf: bool = False) -> Outcome:
    """Send a body that goes on and on, and stop once there is an answer; a `deaf` client looks for
    one only when it can't send any more. With `Expect`, nothing is sent before it may be."""
    host = urlsplit(url)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**16)
        client.settimeout(LINGERS)
        client.connect((host.hostname or "", host.port or 0))
        client.sendall(f"{head}Host: localhost\r\nContent-Length: {size}\r\n\r\n".encode())
        answer, sent = b"", 0
        continued = "Expect" not in head
        if not continued:
            answer = client.recv(2**16)
            continued = answer.startswith(b"HTTP/1.1 100")
            answer = b"" if continued else answer
        block = begin or bytes(2**16)
        try:
            while continued and sent < size:
                if not deaf and select.select([client], [client], [], LINGERS)[0]:
                    break
                sent += client.send(block[: size - sent], 0 if deaf else socket.MSG_DONTWAIT)
                block = block[sent:] if sent < len(begin) else bytes(2**16)
        except (BrokenPipeError, ConnectionResetError):
            pass
        while not answer.endswith((b"0\r\n\r\n", b"}\n")):
            piece = client.recv(2**16)
            assert piece, answer
            answer += piece
    top, _, body = answer.partition(b"\r\n\r\n")
    lines = body.partition(b"\r\n")[2] if b"chunked" in top.lower() else body
    return Outcome(int(top.split()[1]), json.loads(lines.splitlines()[0]), sent, continued)


def send_raw(served: Served, mistake: Mistake, files: Files, *, expects: bool = False) -> Outcome:
    head = f"PUT {mistake.path}{mistake.filename}?{urlencode(mistake.fields)} HTTP/1.1\r\n"
    head += "Expect: 100-continue\r\n" if expects else ""
    return send(served.url, head, mistake.content(files), SIZE)


def send_form(
    served: Served, mistake: Mistake, files: Files, *, expects: bool = False, deaf: bool = False
) -> Outcome:
    head = f"POST {mistake.path} HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    head += "Expect: 100-continue\r\n" if expects else ""
    body = b""
    for name, value in mistake.fields.items():
        body += f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
    part = f'name="{mistake.file_field}"; filename="{mistake.filename}"'
    body += f"--b\r\nContent-Disposition: form-data; {part}\r\n\r\n".encode()
    return send(served.url, head, body + mistake.content(files), SIZE, deaf=deaf)


@pytest.fixture
def most_sent(deaf: bool) -> float:
    """The bytes that a mistake may cost."""
    return SENT


def check(outcome: Outcome, mistake: Mistake, most_sent: float = SENT) -> None:
    message = outcome.line["message"]
    assert isinstance(message, dict)
    assert message["details"]["error"].startswith(mistake.error)
    assert (outcome.status, outcome.line["status"]) == (mistake.status, mistake.status)
    assert message["action"] == mistake.action
    assert outcome.sent < most_sent


@pytest.mark.parametrize("name", BY_FIELDS | BY_CONTENT)
def test_refused_early_as_a_body(served: Served, files: Files, mistake: Mistake) -> None:
    check(send_raw(served, mistake, files), mistake)


@pytest.mark.parametrize("name", BY_FIELDS | BY_CONTENT | BY_FORM)
def test_refused_early_in_a_form(served: Served, files: Files, mistake: Mistake) -> None:
    check(send_form(served, mistake, files), mistake)


@pytest.mark.parametrize("name", BY_FIELDS)
def test_nothing_is_sent_by_who_asks_first(served: Served, files: Files, mistake: Mistake) -> None:
    outcome = send_raw(served, mistake, files, expects=True)
    check(outcome, mistake)
    assert (outcome.continued, outcome.sent) == (False, 0)


HEADS = {
    "too large": ("PUT /models/upload/m.zip HTTP/1.1\r\n", 2**60, 413),
    "no form": ("POST /models/deploy/ HTTP/1.1\r\nContent-Type: text/plain\r\n", SIZE, 415),
    "nothing there": ("PUT /nothing HTTP/1.1\r\n", SIZE, 404),
    "another site's page": ("PUT /models/upload/m.zip HTTP/1.1\r\nOrigin: http://x\r\n", SIZE, 403),
    "JSON that is too large": (
        *("POST /models/create/ HTTP/1.1\r\nContent-Type: application/json\r\n", SIZE, 413),
    ),
}


@pytest.mark.parametrize("name", HEADS)
def test_what_the_head_tells_is_refused_without_a_body(served: Served, name: str) -> None:
    head, size, status = HEADS[name]
    outcome = send(served.url, f"{head}Expect: 100-continue\r\n", b"", size)
    assert (outcome.status, outcome.continued, outcome.sent) == (status, False, 0)


def test_a_good_body_is_asked_for(served: Served, zips: Zips, models_dir: Path) -> None:
    content = zips.base.read_bytes()
    head = "PUT /models/upload/good.zip HTTP/1.1\r\nExpect: 100-continue\r\n"
    outcome = send(served.url, head, content, len(content), deaf=True)
    assert (outcome.status, outcome.continued, outcome.sent) == (200, True, len(content))
    assert (models_dir / "good" / "base.gguf").exists()


@pytest.mark.parametrize(
    ("name", "deaf"),
    [
        ("an HTML page", False),
        ("a name that is taken", False),
        ("a file in another field", False),
        ("traversal in a zip", True),
    ],
)
def test_a_refusal_reaches_whoever_still_sends(
    served: Served, files: Files, mistake: Mistake, deaf: bool, most_sent: float
) -> None:
    check(send_form(served, mistake, files, deaf=deaf), mistake, most_sent)


def test_a_connection_goes_on_after_a_small_refusal(served: Served) -> None:
    with requests.Session() as session:
        for _ in range(3):
            answer = session.put(f"{served.url}/models/upload/m.zip?replaec=1", data=b"x" * 999)
            assert (answer.status_code, answer.headers["Connection"]) == (400, "keep-alive")
        answer = session.put(f"{served.url}/models/upload/m.zip?replaec=1", data=b"x" * 999_999)
        assert (answer.status_code, answer.headers["Connection"]) == (400, "close")


def cut_off(files: Files) -> bytes:
    """The beginning of a GGUF whose one tensor has 400 MB."""
    path = files.folder / "cut-off.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor_info("w.weight", (100_000_000,), np.dtype(np.float32), 400_000_000)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    return path.read_bytes()


def test_a_gguf_that_is_cut_off_is_told_by_its_header(served: Served, files: Files) -> None:
    mistake = Mistake("m.gguf is cut off", filename="m.gguf", content=cut_off)
    check(send_raw(served, mistake, files), mistake)

"""Requests that no good client sends, over the wire, under gunicorn."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.conftest import Zips, litter
from tests.serving import Served, serve
from tests.test_faults import wait_until

LIMIT = 300_000
FORM = "multipart/form-data; boundary=b"
ZIP = "PK\5\6" + "\0" * 18


def part(name: str, content: str = "x", filename: str | None = None) -> str:
    named = f'; filename="{filename}"' if filename is not None else ""
    return f'--b\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n{content}\r\n'


def request(
    body: str,
    *,
    path: str = "/models/upload/",
    media_type: str | None = FORM,
    length: int | None = None,
    headers: str = "",
    method: str = "POST",
) -> bytes:
    size = len(body) if length is None else length
    type_line = f"Content-Type: {media_type}\r\n" if media_type else ""
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{type_line}{headers}"
    head += f"Content-Length: {size}\r\n"
    return f"{head}Connection: close\r\n\r\n{body}".encode()


def chunked(pieces: int) -> bytes:
    head = "POST /models/upload/ HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
    start = part("Model", ZIP, "m.zip").removesuffix("\r\n")
    body = f"{len(start):x}\r\n{start}\r\n" + ("400\r\n" + "x" * 1024 + "\r\n") * pieces
    return f"{head}Content-Type: {FORM}\r\n\r\n{body}".encode()


END = "--b--\r\n"
UPLOAD, CREATE = "Failed upload model file.", "Failed create model"
CASES: dict[str, tuple[bytes, int, str, str]] = {
    "no file part": (
        request(part("other") + END),
        *(400, UPLOAD, "The form has no file. Send the zip in the field 'Model'."),
    ),
    "a file part in another field": (
        request(part("file", ZIP, "m.zip") + END),
        *(400, UPLOAD, "The file came in the field 'file', not in 'Model'."),
    ),
    "two file parts": (
        request(part("Model", ZIP, "m.zip") + part("Model", ZIP, "n.zip") + END),
        *(400, UPLOAD, "The form holds more than one file. Send one zip at a time."),
    ),
    "a file part without a name": (
        request(part("Model", "x", "") + END),
        *(400, UPLOAD, "No file was chosen. Send a zip in the field 'Model'."),
    ),
    "an empty file": (
        request(part("Model", "", "m.zip") + END),
        *(422, UPLOAD, "The uploaded file is empty."),
    ),
    "no boundary": (
        request(part("Model", "x", "m.zip") + END, media_type="multipart/form-data"),
        *(400, UPLOAD, "The Content-Type names no boundary. Let your client write that header."),
    ),
    "another boundary": (
        request(part("Model", "x", "m.zip") + END, media_type=FORM + "c"),
        *(
            400,
            UPLOAD,
            "The form can't be read: it is cut off, or its parts don't match its boundary.",
        ),
    ),
    "no last boundary": (
        request(part("Model", "x", "m.zip")),
        *(
            400,
            UPLOAD,
            "The form can't be read: it is cut off, or its parts don't match its boundary.",
        ),
    ),
    "10,000 parts": (
        request(part("a", "") * 5_000 + END),
        *(
            413,
            UPLOAD,
            "The request's body, one of its fields or the number of its parts exceeds the limit.",
        ),
    ),
    "over the limit by its length": (
        request("", length=LIMIT + 1),
        *(413, UPLOAD, f"The upload has {LIMIT + 1} bytes; the limit is {LIMIT}."),
    ),
    "over the limit by its chunks": (
        chunked(LIMIT // 1024 + 1),
        *(
            413,
            UPLOAD,
            "The request's body, one of its fields or the number of its parts exceeds the limit.",
        ),
    ),
    "no media type": (
        request("x", media_type=None),
        *(
            415,
            UPLOAD,
            "Send the zip as multipart/form-data, for example: curl -F Model=@model.zip",
        ),
    ),
    "a form where JSON is wanted": (
        request("model=x", path="/models/create/", media_type="application/x-www-form-urlencoded"),
        *(
            415,
            CREATE,
            "Send a JSON object, as application/json.",
        ),
    ),
    "broken JSON": (
        request("{", path="/models/create/", media_type="application/json"),
        *(
            400,
            CREATE,
            "The body isn't JSON: Expecting property name enclosed in double quotes:"
            " line 1 column 2 (char 1).",
        ),
    ),
    "JSON that isn't an object": (
        request("[1]", path="/models/create/", media_type="application/json"),
        *(400, CREATE, 'The body must be a JSON object such as {"model": "my-model"}.'),
    ),
    "a write from another site's page": (
        request("{}", path="/models/create/", headers="Origin: https://evil.example\r\n"),
        *(
            403,
            CREATE,
            "This request comes from another site's page. If that page may change things here,"
            " list its origin in MODEL_HANDLER_ALLOWED_ORIGINS.",
        ),
    ),
    "a write that the browser calls cross-site": (
        request("{}", path="/models/", method="DELETE", headers="Sec-Fetch-Site: cross-site\r\n"),
        *(
            403,
            "Failed delete model.",
            "This request comes from another site's page. If that page may change things here,"
            " list its origin in MODEL_HANDLER_ALLOWED_ORIGINS.",
        ),
    ),
}


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Path]]:
    """The service with a low limit; one for all cases, as a real one meets them."""
    models_dir = tmp_path_factory.mktemp("models")
    settings = {
        "MODEL_HANDLER_MAX_UPLOAD_BYTES": str(LIMIT),
        "MODEL_HANDLER_UPLOAD_TIMEOUT": "1",
        "MODEL_HANDLER_REQUEST_TIMEOUT": "1",
        "MODEL_HANDLER_ALLOWED_ORIGINS": "https://console.example",
    }
    with serve(models_dir, "127.0.0.1:9", settings) as served:
        yield served, models_dir


def send(served: Served, data: bytes, *, then_close: bool = False) -> tuple[int, bytes]:
    """The status and body that come back for bytes on the wire."""
    host = urlsplit(served.url)
    with socket.create_connection((host.hostname or "", host.port or 0), timeout=20) as connection:
        connection.sendall(data)
        if then_close:
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        while not answer.endswith(b"}\n") and (block := connection.recv(65536)):
            answer += block
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body[body.index(b"{") : body.rindex(b"}") + 1]


@pytest.mark.parametrize("name", CASES)
def test_refused_in_the_contract_s_shape(limited: tuple[Served, Path], name: str) -> None:
    data, status, action, error = CASES[name]
    served, models_dir = limited
    found, body = send(served, data)
    line = json.loads(body)
    assert (found, line["status"]) == (status, status)
    assert (line["message"]["action"], line["message"]["details"]["error"]) == (action, error)
    assert not litter(models_dir)


@pytest.mark.parametrize("closes", [True, False], ids=["client leaves", "client falls silent"])
def test_a_body_shorter_than_its_length(limited: tuple[Served, Path], closes: bool) -> None:
    served, models_dir = limited
    data = request(part("Model", ZIP + "x" * 1000, "m.zip"), length=5000)
    status, body = send(served, data, then_close=closes)
    line = json.loads(body)
    assert status == line["status"] == (400 if closes else 408)
    assert line["message"]["action"] == UPLOAD
    task = line["message"]["task_uuid"]
    ended = f"task {task}: ended task_uuid={task} kind=upload status={499 if closes else 408} "
    wait_until(lambda: any(ended in each for each in served.log))
    assert not litter(models_dir)


def test_a_good_upload_works_after_all_that(limited: tuple[Served, Path], zips: Zips) -> None:
    served, models_dir = limited
    content = zips.base.read_bytes().decode("latin-1")
    body = part("Model", content, "m.zip") + END
    head = request("", length=len(body)).decode()
    status, _ = send(served, (head + body).encode("latin-1"))
    assert status == 200
    assert (models_dir / "m" / "base.gguf").exists()


def test_an_allowed_origin_may_write(limited: tuple[Served, Path]) -> None:
    headers = "Origin: https://console.example\r\nSec-Fetch-Site: cross-site\r\n"
    data = request("{}", path="/models/create/", media_type="application/json", headers=headers)
    assert send(limited[0], data)[0] == 400

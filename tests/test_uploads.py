"""Resumable uploads over HTTP: the tus protocol, spoken by clients that are not ours."""

import base64
import hashlib
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from flask import Flask
from flask.testing import FlaskClient
from tusclient.client import TusClient

from app import create_app
from app.storage.directory import Storage
from tests.conftest import Zips, litter
from tests.gguf_files import write_zip
from tests.serving import Served
from tests.test_zips import PEFT

TUS = {"Tus-Resumable": "1.0.0"}
CHUNK = TUS | {"Content-Type": "application/offset+octet-stream"}
NAME = "filename " + base64.b64encode(b"mine.zip").decode()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def begin(client: FlaskClient, length: int) -> str:
    headers = TUS | {"Upload-Length": str(length), "Upload-Metadata": NAME}
    answer = client.post("/uploads/", headers=headers)
    assert answer.status_code == 201, answer.text
    return answer.headers["Location"]


def send(client: FlaskClient, url: str, at: int, block: bytes, **headers: str) -> int:
    answer = client.patch(url, data=block, headers=CHUNK | {"Upload-Offset": str(at)} | headers)
    return answer.status_code


@pytest.mark.parametrize("step", [700, 100_000])
def test_tuspy_uploads_in_chunks_and_a_deploy_names_the_upload(
    served: Served, zips: Zips, new_name: str, step: int
) -> None:
    tus = TusClient(f"{served.url}/uploads/")
    with zips.both.open("rb") as file:
        metadata = {"filename": "mine.zip"}
        uploader = tus.uploader(file_stream=file, chunk_size=step, metadata=metadata)
        uploader.upload_chunk()
        goes_on = tus.uploader(file_stream=file, url=uploader.url, chunk_size=step)
        assert goes_on.offset == min(step, zips.both.stat().st_size)
        goes_on.upload()
    answer = requests.post(
        f"{served.url}/models/deploy/",
        json={
            "upload": uploader.url.rpartition("/")[2],
            "model_name_on_ollama": new_name,
        },
        timeout=60,
    )
    lines = [line for line in answer.text.splitlines() if line]
    assert len(lines) == 6
    assert '"action": "Success create model"' in lines[-1], lines[-1]
    assert '"model": "mine.zip"' in lines[0]
    assert requests.head(uploader.url, headers=TUS, timeout=10).status_code == 404


def test_an_upload_in_pieces_becomes_the_same_model(
    client: FlaskClient, zips: Zips, models_dir: Path
) -> None:
    content = zips.both.read_bytes()
    url = begin(client, len(content))
    for at in range(0, len(content), 5_000):
        assert send(client, url, at, content[at : at + 5_000]) == 204
        assert client.head(url, headers=TUS).headers["Upload-Offset"] == str(
            min(at + 5_000, len(content))
        )
    answer = client.post("/models/upload/", json={"upload": url.rpartition("/")[2]})
    assert answer.text.splitlines()[-1].startswith('{"status": 200'), answer.text
    files = {file["name"]: file for file in client.get("/models/mine/").json["files"]}  # type: ignore[index]
    for name, file in files.items():
        stored = (models_dir / "mine" / name).read_bytes()
        assert hashlib.sha256(stored).hexdigest() == file["sha256"]
    assert not litter(models_dir)


def test_what_there_is_of_the_protocol(client: FlaskClient) -> None:
    answer = client.options("/uploads/")
    assert answer.status_code == 204
    assert answer.headers["Tus-Version"] == "1.0.0"
    assert "checksum" in answer.headers["Tus-Extension"]
    assert int(answer.headers["Tus-Max-Size"]) > 0


@pytest.mark.parametrize(
    ("headers", "status", "said"),
    [
        ({"Upload-Length": "9"}, 412, "Tus-Resumable: 1.0.0"),
        (TUS, 400, "Upload-Length"),
        (TUS | {"Upload-Length": "many"}, 400, "Upload-Length"),
        (TUS | {"Upload-Length": "-1"}, 400, "Upload-Length"),
        (TUS | {"Upload-Length": "9" * 400}, 400, "Upload-Length"),
        (TUS | {"Upload-Length": "9" * 19}, 413, "the limit is"),
        (TUS | {"Upload-Length": "9"}, 400, "needs the key 'filename'"),
        (TUS | {"Upload-Length": "9", "Upload-Metadata": "name bS56aXA="}, 400, "'filename'"),
        (
            TUS | {"Upload-Length": "9", "Upload-Metadata": "filename m.zip"},
            400,
            "value of 'filename'",
        ),
        (TUS | {"Upload-Length": "9", "Upload-Metadata": "filename /y56aXA="}, 400, "isn't UTF-8"),
        (TUS | {"Upload-Length": "9", "Upload-Metadata": f"{NAME},from /w=="}, 400, "isn't UTF-8"),
        (TUS | {"Upload-Defer-Length": "1", "Upload-Metadata": NAME}, 400, "Send Upload-Length."),
        (
            TUS | {"Upload-Length": "9", "Upload-Metadata": NAME, "Upload-Concat": "partial"},
            400,
            "one upload",
        ),
        (TUS | {"Upload-Length": "9", "Upload-Metadata": "filename !"}, 400, "Base64"),
        (TUS | {"Upload-Length": "9", "Upload-Metadata": "filename bS5leGU="}, 400, "'m.exe'"),
        (TUS | {"Upload-Length": "9", "Upload-Metadata": f"{NAME},{NAME}"}, 400, "twice"),
        (
            TUS | {"Upload-Length": "9", "Upload-Metadata": f"{NAME},a {'A' * 9000}"},
            413,
            "metadata",
        ),
    ],
)
def test_creations_that_are_refused(
    client: FlaskClient, headers: dict[str, str], status: int, said: str, models_dir: Path
) -> None:
    answer = client.post("/uploads/", headers=headers)
    assert (answer.status_code, said in answer.text) == (status, True), answer.text
    assert not litter(models_dir)


def test_pieces_that_are_refused_change_nothing(client: FlaskClient, zips: Zips) -> None:
    content = zips.both.read_bytes()
    url = begin(client, len(content))
    assert send(client, url, 0, content[:3_000]) == 204
    sums = {
        name: f"sha256 {base64.b64encode(hashlib.sha256(data).digest()).decode()}"
        for name, data in (("right", content[3_000:6_000]), ("wrong", b"another"))
    }
    refused = [
        ({"Upload-Offset": "0"}, content[:10], 409),
        ({"Upload-Offset": "4000"}, content[:10], 409),
        ({"Upload-Offset": "3000", "Content-Type": "text/plain"}, content[:10], 415),
        ({"Upload-Offset": "3000", "Tus-Resumable": "0.2.2"}, content[:10], 412),
        ({"Upload-Offset": "3000"}, content[3_000:] + b"more", 413),
        ({"Upload-Offset": "3000", "Upload-Checksum": "md5 aaaa"}, content[:10], 400),
        ({"Upload-Offset": "3000", "Upload-Checksum": sums["wrong"]}, content[3_000:6_000], 460),
    ]
    for headers, block, status in refused:
        answer = client.patch(url, data=block, headers=CHUNK | headers)
        assert answer.status_code == status, answer.text
        assert client.head(url, headers=TUS).headers["Upload-Offset"] == "3000"
    right = {"Upload-Checksum": sums["right"]}
    assert send(client, url, 3_000, content[3_000:6_000], **right) == 204
    early = client.post("/models/upload/", json={"upload": url.rpartition("/")[2]})
    assert early.status_code == 409
    assert f"6000 of the upload's {len(content)} bytes" in early.text


def test_a_terminated_upload_and_one_of_no_use_leave_nothing(
    client: FlaskClient, tmp_path: Path, models_dir: Path
) -> None:
    url = begin(client, 1000)
    assert client.delete(url, headers=TUS).status_code == 204
    assert client.head(url, headers=TUS).status_code == 404
    url = begin(client, 1000)
    assert send(client, url, 0, b"MZ" + bytes(998)) == 422
    broken = write_zip(tmp_path / "m.zip", {"base.gguf": b"no model" * 100}).read_bytes()
    url = begin(client, len(broken))
    assert send(client, url, 0, broken) == 422
    assert client.head(url, headers=TUS).status_code == 404
    assert client.post("/models/upload/", json={"upload": "../x"}).status_code == 404
    assert not list((models_dir / ".model-handler" / "uploads").iterdir())


def test_nothing_more_to_send_leaves_a_whole_upload_as_it_is(
    client: FlaskClient, zips: Zips
) -> None:
    """As a script does that asks for the offset after the last answer was lost."""
    content = zips.both.read_bytes()
    url = begin(client, len(content))
    assert send(client, url, 0, content) == 204
    for _ in range(2):
        assert send(client, url, len(content), b"") == 204
        assert send(client, url, len(content), b"x") == 413
        assert client.head(url, headers=TUS).headers["Upload-Offset"] == str(len(content))
    answer = client.post("/models/upload/", json={"upload": url.rpartition("/")[2]})
    assert answer.text.splitlines()[-1].startswith('{"status": 200'), answer.text


def test_metadata_comes_back_as_it_was_sent(client: FlaskClient) -> None:
    """The protocol lets values be any bytes."""
    said = f"{NAME},is_private,thumbnail {base64.b64encode(bytes(range(256))).decode()}"
    headers = TUS | {"Upload-Length": "9", "Upload-Metadata": said}
    url = client.post("/uploads/", headers=headers).headers["Location"]
    assert client.head(url, headers=TUS).headers["Upload-Metadata"] == said


def test_creation_takes_the_first_bytes_along(client: FlaskClient, zips: Zips) -> None:
    content = zips.base.read_bytes()
    headers = CHUNK | {"Upload-Length": str(len(content)), "Upload-Metadata": NAME}
    answer = client.post("/uploads/", headers=headers, data=content[:2_000])
    assert (answer.status_code, answer.headers["Upload-Offset"]) == (201, "2000")
    assert send(client, answer.headers["Location"], 2_000, content[2_000:]) == 204


@pytest.mark.parametrize(
    ("body", "more", "status"),
    [
        (b"MZ" + bytes(998), {}, 422),
        (b"PK" + bytes(999), {}, 413),
        (b"PK" + bytes(9), {"Upload-Checksum": "sha1 " + "A" * 27 + "="}, 460),
        (b"PK" + bytes(9), {"Upload-Checksum": "sha1 AAAA"}, 400),
    ],
)
def test_a_creation_whose_first_bytes_are_refused_leaves_nothing(
    client: FlaskClient, models_dir: Path, body: bytes, more: dict[str, str], status: int
) -> None:
    """Its client learns no address at which to go on."""
    headers = CHUNK | {"Upload-Length": "1000", "Upload-Metadata": NAME} | more
    assert client.post("/uploads/", headers=headers, data=body).status_code == status
    assert not list(models_dir.glob(".model-handler/uploads/*"))


@pytest.mark.parametrize("where", ["metadata", "body"])
def test_an_adapters_weights_come_alone_with_its_config(
    client: FlaskClient, models_dir: Path, where: str
) -> None:
    """In the metadata; the request that makes a model of it may correct it."""
    config, weights = PEFT["adapter_config.json"].decode(), PEFT["adapter_model.safetensors"]
    said = {"filename": "mine.safetensors"}
    about = {"Upload-Length": str(len(weights))}
    refused = client.post("/uploads/", headers=TUS | about | metadata(said))
    assert (refused.status_code, "comes without a config" in refused.text) == (422, True)
    assert not list(models_dir.glob(".model-handler/uploads/*"))
    said["adapter_config"] = config if where == "metadata" else '{"peft_type": "IA3"}'
    url = client.post("/uploads/", headers=TUS | about | metadata(said)).headers["Location"]
    assert send(client, url, 0, weights) == 204
    asked = {"upload": url.rpartition("/")[2]}
    if where == "body":
        assert client.post("/models/upload/", json=asked).status_code == 422
        asked["adapter_config"] = config
    answer = client.post("/models/upload/", json=asked)
    assert answer.text.splitlines()[-1].startswith('{"status": 200'), answer.text
    assert sorted(path.name for path in (models_dir / "mine").glob("[!.]*")) == [
        "adapter_config.json",
        "mine.safetensors",
    ]


def metadata(said: dict[str, str]) -> dict[str, str]:
    pairs = [f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in said.items()]
    return {"Upload-Metadata": ",".join(pairs)}


def test_methods_are_overridden(client: FlaskClient) -> None:
    """https://tus.io/protocols/resumable-upload#x-http-method-override"""
    url = begin(client, 1000)
    post = {"X-HTTP-Method-Override": "PATCH", "Upload-Offset": "0"}
    assert client.post(url, headers=CHUNK | post, data=b"PK\3\4").status_code == 204
    head = client.post(url, headers=TUS | {"X-HTTP-Method-Override": "HEAD"})
    assert head.headers["Upload-Offset"] == "4"
    assert client.post(url, headers=TUS).status_code == 405
    delete = {"X-HTTP-Method-Override": "delete"}
    assert client.post(url, headers=TUS | delete).status_code == 204
    assert client.head(url, headers=TUS).status_code == 404


def test_pages_of_allowed_origins_can_speak_it(models_dir: Path) -> None:
    origin = {"Origin": "https://page.example"}
    app = create_app({"MODELS_DIR": models_dir, "ALLOWED_ORIGINS": origin["Origin"]})
    client = app.test_client()
    asked = {"Access-Control-Request-Method": "PATCH"}
    for path in ("/uploads/", "/uploads/" + "0" * 32):
        allowed = client.options(path, headers=origin | asked).headers
        assert allowed["Access-Control-Allow-Origin"] == origin["Origin"]
        assert "PATCH" in allowed["Access-Control-Allow-Methods"]
        for header in (
            *TUS,
            "Upload-Length",
            "Upload-Offset",
            "Upload-Metadata",
            "Upload-Checksum",
        ):
            assert header in allowed["Access-Control-Allow-Headers"]
    headers = TUS | origin | {"Upload-Length": "9", "Upload-Metadata": NAME}
    made = client.post("/uploads/", headers=headers)
    shown = made.headers["Access-Control-Expose-Headers"].split(", ")
    sent = [name for name, _ in made.headers if name.startswith(("Tus-", "Upload-"))]
    assert {*sent, "Location"} <= set(shown)


def test_uploads_are_listed_with_the_tasks(client: FlaskClient) -> None:
    begin(client, 900)
    url = begin(client, 1000)
    assert send(client, url, 0, b"PK\3\4") == 204
    told: dict[str, Any] = client.get("/tasks/").json  # type: ignore[assignment]
    assert told["tasks"] == []
    newest, oldest = told["uploads"]
    assert (oldest["bytes"], oldest["total_bytes"]) == (0, 900)
    started, expires = (datetime.fromisoformat(newest.pop(key)) for key in ("started", "expires"))
    assert newest == {
        "upload": url.rpartition("/")[2],
        "name": "mine.zip",
        "bytes": 4,
        "total_bytes": 1000,
    }
    assert abs(expires - started - timedelta(days=7)) < timedelta(minutes=5)
    assert client.delete(url, headers=TUS).status_code == 204
    assert len(client.get("/tasks/").json["uploads"]) == 1  # type: ignore[index]


def test_a_deploys_fields_in_the_metadata_are_checked_at_once(
    client: FlaskClient, models_dir: Path
) -> None:
    def created(**fields: str) -> int:
        pairs = [
            f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in fields.items()
        ]
        about = {"Upload-Length": "99", "Upload-Metadata": ",".join([NAME, *pairs])}
        return client.post("/uploads/", headers=TUS | about).status_code

    assert created(model_name_on_ollama="a@b") == 400
    assert created(model_name_on_ollama="a", quantize="Q9") == 400
    assert created(parameters='{"temprature": 1}') == 400
    assert created(model_name_on_ollama="a", replaec="false") == 400
    assert created(replaec="of another client") == 201
    assert len(list(models_dir.glob(".model-handler/uploads/*"))) == 1
    uppys = {"type": "of Uppy", "name": "its", "relativePath": "null", "filetype": "zip"}
    assert created(model_name_on_ollama="a", quantize="Q8_0", **uppys) == 201


def test_what_an_upload_is_to_bring_counts_once(
    client: FlaskClient, zips: Zips, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against free space: its own bytes have their room while they are sent."""
    content = zips.base.read_bytes()
    monkeypatch.setattr(Storage, "free_bytes", lambda _: len(content) + 1000)
    url = begin(client, len(content))
    assert send(client, url, 0, content) == 204


def test_an_empty_upload_is_of_no_use(client: FlaskClient, models_dir: Path) -> None:
    """Its client sends no PATCH: that it is whole is known from the start."""
    url = begin(client, 0)
    assert client.head(url, headers=TUS).headers["Upload-Offset"] == "0"
    answer = client.post("/models/upload/", json={"upload": url.rpartition("/")[2]})
    assert (answer.status_code, "is empty" in answer.text) == (422, True), answer.text
    assert not list(models_dir.glob(".model-handler/uploads/*"))

"""A model comes back as the zip that it could be uploaded as again."""

import io
import json
import os
import zipfile
from pathlib import Path

from flask import Flask

from tests.callers import Caller, FlaskCaller
from tests.conftest import Zips
from tests.gguf_files import write_base, write_zip


def upload(caller: Caller, zip_file: Path) -> None:
    assert caller.send_form("/models/upload/", [("Model", zip_file)]).last["status"] == 200


def test_download_then_upload_again(caller: Caller, zips: Zips, tmp_path: Path) -> None:
    upload(caller, zips.both)
    answer = caller.get("/models/tiny_lora/download")
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["content-disposition"] == "attachment; filename=tiny_lora.zip"
    assert int(answer.headers["content-length"]) == len(answer.body)
    with zipfile.ZipFile(io.BytesIO(answer.body)) as zipped:
        assert zipped.testzip() is None
        assert zipped.namelist() == ["base.gguf", "lora.gguf"]
    again = tmp_path / "again.zip"
    again.write_bytes(answer.body)
    upload(caller, again)
    one, other = (
        json.loads(caller.get(f"/models/{name}/").body)["files"] for name in ("tiny_lora", "again")
    )
    assert one == other


def test_files_in_folders_and_names_beyond_ascii(app: Flask, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base.gguf")
    zipped = write_zip(tmp_path / "模型.zip", {"模/base.gguf": base, "notes.txt": b""})
    caller = FlaskCaller(app.test_client())
    upload(caller, zipped)
    answer = caller.get("/models/模型/download")
    assert "filename*=UTF-8''%E6%A8%A1%E5%9E%8B.zip" in answer.headers["content-disposition"]
    with zipfile.ZipFile(io.BytesIO(answer.body)) as found:
        assert found.namelist() == ["notes.txt", "模/base.gguf"]
        assert found.read("模/base.gguf") == base.read_bytes()


def test_a_model_that_is_deleted_meanwhile_arrives_whole(
    app: Flask, zips: Zips, models_dir: Path
) -> None:
    client = app.test_client()
    upload(FlaskCaller(client), zips.both)
    response = client.get("/models/tiny_lora/download", buffered=False)
    pieces = response.iter_encoded()
    body = next(pieces)
    deleted = FlaskCaller(app.test_client()).send_json("DELETE", "/models/", {"model": "tiny_lora"})
    assert deleted.last["status"] == 200
    body += b"".join(pieces)
    response.close()
    with zipfile.ZipFile(io.BytesIO(body)) as zipped:
        assert zipped.testzip() is None


def test_a_client_that_leaves_leaves_no_file_open(app: Flask, zips: Zips, models_dir: Path) -> None:
    client = app.test_client()
    upload(FlaskCaller(client), zips.both)
    response = client.get("/models/tiny_lora/download", buffered=False)
    next(response.iter_encoded())
    assert opened_in(models_dir)
    response.close()
    assert not opened_in(models_dir)


def opened_in(folder: Path) -> list[str]:
    paths = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            paths.append(os.readlink(link))
        except FileNotFoundError:
            continue
    return [path for path in paths if path.startswith(str(folder / "tiny_lora"))]


def test_no_such_model(caller: Caller) -> None:
    answer = caller.get("/models/nothing/download")
    assert answer.status == 404
    assert answer.last["action"] == "Failed get model."

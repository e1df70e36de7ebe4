"""What people have in hand becomes a model, called by the file's name."""

import io
import json
import tarfile
from pathlib import Path

import pytest
from flask import Flask

from tests.callers import FlaskCaller
from tests.gguf_files import write_base, write_zip


def tarred(base: Path, mode: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as tar:  # type: ignore[call-overload]
        tar.add(base, "folder/base.gguf")
    return file.getvalue()


@pytest.mark.parametrize("filename", ["m.zip", "m.tar", "m.tar.gz", "m.tgz", "m.gguf"])
def test_each_kind_by_put_and_form(
    app: Flask, models_dir: Path, tmp_path: Path, filename: str
) -> None:
    base = write_base(tmp_path / "base.gguf")
    sent = tmp_path / filename
    if filename == "m.zip":
        write_zip(sent, {"base.gguf": base})
    elif filename == "m.gguf":
        base.rename(sent)
    else:
        sent.write_bytes(tarred(base, "w:gz" if filename.endswith("gz") else "w"))
    caller = FlaskCaller(app.test_client())
    answers = [
        caller.send_file("/models/upload/", sent),
        caller.send_form("/models/upload/", [("Model", sent)]),
    ]
    for answer in answers:
        assert answer.last["status"] == 200
        assert answer.last["details"] == {"model": filename}
    report = json.loads(caller.get("/models/m/").body)
    name = filename if filename == "m.gguf" else "base.gguf"
    assert [(file["name"], file["kind"]) for file in report["files"]] == [(name, "base")]
    assert [path.name for path in models_dir.iterdir() if path.name[0] != "."] == ["m"]

"""A disk without room for what a model is to become: 507, and nothing left."""

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from app import create_app
from app.storage.directory import Storage
from tests.conftest import litter
from tests.gguf_files import write_base, write_lora, write_zip
from tests.standin import Standin
from tests.test_converter import COPY, MEMBERS, script
from tests.test_from_folder import members, send
from tests.test_job import trainer_s_folder

FULL = "There is no space left for this in the models directory."


def merge(folder: Path) -> dict[str, Any]:
    return {
        "base.gguf": write_base(folder / "base.gguf"),
        "lora.gguf": write_lora(folder / "l.gguf"),
    }


def conversion(folder: Path) -> dict[str, Any]:
    return members(trainer_s_folder(folder / "tiny", width=64))


def by_command(folder: Path) -> dict[str, Any]:
    write_base(folder / "made.gguf")
    return dict(MEMBERS)


@contextmanager
def small_files(limit: int | None) -> Iterator[None]:
    """No file of this process, or of those that it starts, grows beyond `limit` bytes."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (old[0] if limit is None else limit, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def created(client: FlaskClient) -> dict[str, Any]:
    answer = client.post("/models/create/", json={"model": "m", "model_name_on_ollama": "new"})
    last: dict[str, Any] = json.loads(answer.text.splitlines()[-1])
    return last


@pytest.mark.parametrize(
    ("kind", "when"),
    [(merge, "before"), (merge, "meanwhile"), (conversion, "meanwhile"), (by_command, "before")],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_no_room_for_what_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any, when: str
) -> None:
    models = tmp_path / "models"
    zipped = write_zip(tmp_path / "m.zip", kind(tmp_path))
    with Standin(tmp_path / "ollama", version="0.34.1") as standin:
        command = script(tmp_path, COPY)
        settings = {"MODELS_DIR": models, "OLLAMA_HOST": standin.url, "CONVERTER": command}
        client = create_app(settings).test_client()
        assert send(client, "/models/upload/m.zip", zipped)[-1]["status"] == 200
        before = set(models.rglob("*"))
        with monkeypatch.context() as patch, small_files(50_000 if when == "meanwhile" else None):
            if when == "before":
                patch.setattr(Storage, "free_bytes", lambda storage: 1000)
            last = created(client)
        assert (last["status"], last["message"]["action"]) == (507, "Failed create model")
        error = last["message"]["details"]["error"]
        assert ("needs" in error) if when == "before" else (error == FULL)
        assert not litter(models)
        left = {path for path in models.rglob("*") if path.is_file()} - before
        assert [path.name for path in left if "tasks" not in path.parts] == ["creates.json"]
        assert not [one for one in standin.requests if one.path.startswith("/api/blobs")]
        assert created(client)["status"] == 200

"""Files of the same content take their room once, and no model notices."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
from flask import Flask

from app.storage.directory import Storage
from app.storage.manifest import StoredFile
from app.storage.model import Model
from tests.callers import FlaskCaller
from tests.conftest import litter
from tests.gguf_files import write_base, write_zip

WEIGHTS = bytes(range(256)) * 8192


@pytest.fixture
def caller(app: Flask) -> FlaskCaller:
    return FlaskCaller(app.test_client())


def upload(caller: FlaskCaller, folder: Path, name: str, weights: bytes = WEIGHTS) -> None:
    base = write_base(folder / "base.gguf")
    files = {"base.gguf": base, "weights.bin": weights}
    zipped = write_zip(folder / f"{name}.zip", files)
    assert caller.send_file("/models/upload/", zipped).last["status"] == 200


def digest(caller: FlaskCaller, name: str) -> str:
    files = json.loads(caller.get(f"/models/{name}/").body)["files"]
    [sha256] = [file["sha256"] for file in files if file["name"] == "weights.bin"]
    return str(sha256)


def test_the_same_file_in_two_models_is_one(
    caller: FlaskCaller, models_dir: Path, tmp_path: Path
) -> None:
    upload(caller, tmp_path, "one")
    upload(caller, tmp_path, "two")
    one, two = models_dir / "one", models_dir / "two"
    assert os.path.samefile(one / "weights.bin", two / "weights.bin")
    assert not os.path.samefile(one / "base.gguf", two / "base.gguf")  # too small to matter
    assert digest(caller, "two") == hashlib.sha256(WEIGHTS).hexdigest()
    assert sorted(path.name for path in two.iterdir()) == [
        ".model-handler",
        "base.gguf",
        "weights.bin",
    ]
    assert caller.send_json("DELETE", "/models/", {"model": "one"}).last["status"] == 200
    assert (two / "weights.bin").read_bytes() == WEIGHTS
    upload(caller, tmp_path, "one", WEIGHTS[::-1])
    assert (two / "weights.bin").read_bytes() == WEIGHTS
    assert not litter(models_dir)


def test_a_model_that_is_deleted_meanwhile_is_not_shared_with(
    caller: FlaskCaller, models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(caller, tmp_path, "one")
    published = Storage.published_files

    def deleted_then(storage: Storage) -> dict[str, tuple[Path, StoredFile]]:
        found = published(storage)
        if (models_dir / "one").exists():
            shutil.rmtree(models_dir / "one")
        return found

    monkeypatch.setattr(Storage, "published_files", deleted_then)
    upload(caller, tmp_path, "two")
    assert (models_dir / "two" / "weights.bin").read_bytes() == WEIGHTS


def test_a_model_uploaded_again_shares_with_what_it_replaces(
    caller: FlaskCaller, models_dir: Path, tmp_path: Path
) -> None:
    upload(caller, tmp_path, "one")
    before = (models_dir / "one" / "weights.bin").stat().st_ino
    upload(caller, tmp_path, "one")
    after = (models_dir / "one" / "weights.bin").stat()
    assert (after.st_ino, after.st_nlink) == (before, 1)


def test_a_file_changed_by_hand_is_not_shared(
    caller: FlaskCaller, models_dir: Path, tmp_path: Path
) -> None:
    upload(caller, tmp_path, "one")
    changed = models_dir / "one" / "weights.bin"
    changed.write_bytes(WEIGHTS[::-1])
    upload(caller, tmp_path, "two")
    assert (models_dir / "two" / "weights.bin").read_bytes() == WEIGHTS
    assert digest(caller, "two") == hashlib.sha256(WEIGHTS).hexdigest()


def test_a_folder_put_by_hand_is_not_shared(
    caller: FlaskCaller, models_dir: Path, tmp_path: Path
) -> None:
    (models_dir / "mine").mkdir()
    (models_dir / "mine" / "weights.bin").write_bytes(WEIGHTS)
    write_base(models_dir / "mine" / "base.gguf")
    mine = Model("mine", models_dir / "mine")
    mine.hashed(mine.files(), lambda *_: None)
    upload(caller, tmp_path, "two")
    assert (models_dir / "two" / "weights.bin").stat().st_nlink == 1


def test_a_file_replaced_at_that_moment_is_not_shared(
    caller: FlaskCaller, models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(caller, tmp_path, "one")
    link = os.link

    def replace_then_link(source: Path, target: Path, **options: bool) -> None:
        (tmp_path / "other").write_bytes(WEIGHTS[::-1])
        os.replace(tmp_path / "other", source)
        link(source, target, **options)

    monkeypatch.setattr("app.storage.staging.os.link", replace_then_link)
    upload(caller, tmp_path, "two")
    assert (models_dir / "two" / "weights.bin").read_bytes() == WEIGHTS
    assert not litter(models_dir)


def test_a_filesystem_without_links(
    caller: FlaskCaller, models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("app.storage.staging.os.link", refuse)
    upload(caller, tmp_path, "one")
    upload(caller, tmp_path, "two")
    assert (models_dir / "two" / "weights.bin").stat().st_nlink == 1

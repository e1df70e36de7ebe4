"""`model-handler gc` and what it stands on: what isn't needed goes, and nothing else."""

import os
import re
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from click.testing import CliRunner
from flask import Flask

from app import create_app
from app.commands import main
from app.service.conversion import METHOD
from app.storage.directory import Storage
from app.storage.garbage import LEFT, REMOVED, Garbage, collect
from tests.callers import FlaskCaller
from tests.conftest import Zips, litter
from tests.serving import Served

SIZE = 2**20


def gc(models_dir: Path, *options: str, **environ: str) -> str:
    environ = {"MODEL_HANDLER_MODELS_DIR": str(models_dir), **environ}
    done = CliRunner().invoke(main, ["gc", *options], env=environ, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def leave_staging(storage: Storage) -> Path:
    return leave(storage.state_folder / "staging" / "killed" / "entry-0")


def leave_removed(storage: Storage) -> Path:
    return leave(storage.state_folder / "removed" / "one" / "base.gguf")


def leave_upload(storage: Storage) -> Path:
    folder = (
        storage.state_folder / "uploads" / storage.uploads.create(100, {"filename": "m.zip"}).id
    )
    os.utime(folder / "journal", (1, 1))
    return leave(folder / "entry-0")


def leave_blob(storage: Storage) -> Path:
    path = leave(storage.state_folder / "blobs" / f"sha256-{'0' * 64}")
    os.utime(path, (1, 1))
    return path


def leave_earlier(storage: Storage) -> Path:
    return leave(storage.folder / "model" / ".merged" / "merged.gguf")


def leave_half_kept(storage: Storage) -> Path:
    """As a move from another filesystem does that is killed."""
    return leave(storage.folder / "model" / ".model-handler" / "kept" / ".new-abc")


def leave(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(SIZE))
    return path


def keep(storage: Storage, *inputs: Path, method: int = METHOD) -> Path:
    """A result of those inputs, kept with the model `model`."""
    result = leave(storage.folder / "result")
    return storage.model("model").results.add(result, "key.gguf", {"sha256": "0"}, inputs, method)


@pytest.fixture
def storage(models_dir: Path) -> Storage:
    storage = Storage(models_dir)
    storage.prepare()
    for name in ("model", "other"):
        leave(models_dir / name / "base.gguf")
    return storage


@pytest.mark.parametrize(
    ("left", "said"),
    [
        (leave_staging, LEFT),
        (leave_removed, REMOVED),
        (leave_upload, "Partial upload of m.zip, last changed on"),
        (leave_blob, "Blob that no model was made of, sha256-000000000000, last changed on 1970"),
        (leave_earlier, "of an earlier version"),
        (leave_half_kept, "not whole"),
    ],
)
def test_what_was_left_goes_and_the_models_stay(
    storage: Storage, left: Callable[[Storage], Path], said: str
) -> None:
    path = left(storage)
    dry = gc(storage.folder, "--dry-run")
    assert said in dry
    assert re.search(r"Would free 1\.[01] MB\.", dry)
    assert path.exists()
    assert re.search(r"Freed 1\.[01] MB\.", gc(storage.folder))
    assert not path.exists()
    assert gc(storage.folder) == "Freed 0 bytes.\n"
    assert storage.names() == ["model", "other"]


def change(path: Path) -> None:
    path.write_bytes(b"another")


def touch(path: Path) -> None:
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize(
    ("happens", "said"),
    [
        (change, "base.gguf has changed"),
        (touch, "base.gguf has changed"),
        (os.unlink, "base.gguf has gone"),
        (lambda path: shutil.rmtree(path.parent), "base.gguf has gone"),
    ],
)
@pytest.mark.parametrize("linked", [False, True])
def test_a_kept_result_goes_once_what_it_was_made_of_does(
    storage: Storage, happens: Callable[[Path], None], said: str, linked: bool, tmp_path: Path
) -> None:
    if linked:  # a model that lies elsewhere
        shutil.move(storage.folder / "model", tmp_path / "elsewhere")
        (storage.folder / "model").symlink_to(tmp_path / "elsewhere")
    base = storage.folder / "other" / "base.gguf"
    kept = keep(storage, storage.folder / "model" / "base.gguf", base)
    assert gc(storage.folder) == "Freed 0 bytes.\n"
    assert storage.model("model").results.find(kept.name) == (kept, {"sha256": "0"})
    happens(base)
    output = gc(storage.folder)
    assert f"Kept result of model 'model': {said}" in output
    assert "Freed 1.0 MB." in output
    assert list(kept.parent.iterdir()) == []


def test_a_kept_result_of_an_earlier_method_goes(storage: Storage) -> None:
    kept = keep(storage, method=METHOD - 1)
    assert [garbage.size for garbage in collect(storage, METHOD)] == [SIZE]
    assert not kept.exists()


def test_what_tasks_hold_stays(storage: Storage) -> None:
    kept = keep(storage, method=METHOD - 1)
    upload = storage.uploads.create(100, {})
    with storage.hold("model", "a-task"), storage.staging("another") as staging:
        file = leave(staging.folder / "entry-0")
        [held] = collect(storage, METHOD)
        assert held == Garbage(
            "Kept result of model 'model': Task a-task is working on model 'model'.", 0
        )
        assert "stays" in gc(storage.folder)
        assert file.exists()
    assert kept.exists()
    assert storage.uploads.get(upload.id)


def test_a_model_that_is_read_while_it_is_removed_stays_until_then(storage: Storage) -> None:
    with storage.opened("other") as files:
        storage.remove("other")
        assert gc(storage.folder) == "Freed 0 bytes.\n"
        with files[0].open() as file:
            assert file.read(1) == b"\0"


@pytest.mark.parametrize("ollama_version", ["0.34.1"])
def test_gc_beside_a_running_service(
    served: Served, models_dir: Path, zips: Zips, new_name: str
) -> None:
    """A merge that a deploy has kept: found again while nothing changed, and made anew after gc."""
    with zips.both.open("rb") as body:
        url = f"{served.url}/models/deploy/tiny_lora.zip"
        requests.put(url, params={"model_name_on_ollama": new_name}, data=body, timeout=60)
    [kept] = (models_dir / "tiny_lora").rglob("kept/*.gguf")
    assert gc(models_dir) == "Freed 0 bytes.\n"
    os.utime(models_dir / "tiny_lora" / "base.gguf", ns=(1, 1))
    assert "base.gguf has changed" in gc(models_dir)
    assert not kept.exists()
    fields = {"model": "tiny_lora", "model_name_on_ollama": new_name}
    made = requests.post(f"{served.url}/models/create/", json=fields, timeout=60)
    assert '"Success create model"' in made.text
    assert kept.exists()
    assert not litter(models_dir)


@pytest.mark.parametrize("ollama_version", ["0.34.1"])
def test_gc_again_and_again_takes_nothing_from_tasks(
    models_dir: Path, ollama: str, zips: Zips, new_name: str
) -> None:
    """Uploads, partial ones too, merges and deletions all succeed while it runs beside them."""
    app = create_app({"MODELS_DIR": models_dir, "OLLAMA_HOST": ollama})
    other = Storage(models_dir)
    ended, rounds = threading.Event(), 0

    def collect_all() -> None:
        nonlocal rounds
        while not ended.is_set():
            gone = {garbage.what for garbage in collect(other, METHOD) if garbage.is_gone}
            assert gone <= {REMOVED, LEFT}  # what a task was about to free itself
            rounds += 1

    with ThreadPoolExecutor(1) as pool:
        collecting = pool.submit(collect_all)
        caller = FlaskCaller(app.test_client())
        for _ in range(2):
            fields = [("model_name_on_ollama", new_name), ("Model", zips.both)]
            assert caller.send_form("/models/deploy/", fields).last["status"] == 200
            upload = Storage(models_dir).uploads.create(5, {"filename": "m.zip"})
            assert other.uploads.get(upload.id).offset == 0
            assert caller.send_json("DELETE", "/models/", {"model": "tiny_lora"}).status == 200
        ended.set()
        collecting.result(60)
    assert rounds
    assert not litter(models_dir)


def test_without_a_models_directory_it_says_so(tmp_path: Path) -> None:
    environ = {"MODEL_HANDLER_MODELS_DIR": str(tmp_path / "nowhere")}
    done = CliRunner().invoke(main, ["gc"], env=environ)
    assert done.exit_code == 2
    assert "Usage" not in done.output
    assert "nowhere isn't there." in done.output
    assert not (tmp_path / "nowhere").exists()


UNLISTED = {
    "a\u2028b": "rename it. A model's name has",
    "a\u202eb": "rename it. A model's name has",
    "a\nb": "rename it. A model's name has",
    "a\\b": "rename it. A model's name has",
    "\udcff": "rename it. A model's name has",
    "x" * 201: "rename it. A model's name has",
    "e\u0301": "is a model already. Rename one.",
}


@pytest.mark.parametrize("name", UNLISTED, ids=ascii)
def test_a_folder_that_can_not_be_listed_is_named_once(
    app: Flask, models_dir: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It was left out without a word."""
    for folder in ("my model!", "\xe9", ".hidden", name):
        (models_dir / folder).mkdir(parents=True)
    (models_dir / "a\u2028file").touch()
    for _ in range(2):
        answer = FlaskCaller(app.test_client()).get("/models/")
        assert answer.text.count("Get model.") == 2
    [said] = [record.message for record in caplog.records if "isn't listed" in record.message]
    assert repr(name) in said
    assert UNLISTED[name] in said
    assert said in gc(models_dir, "--dry-run")
    assert said.isprintable()

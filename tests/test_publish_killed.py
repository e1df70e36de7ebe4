"""A resumable upload is made a model by a process that is killed at any step of that."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED

from app.storage import models, staging
from app.storage.directory import Storage
from app.storage.failures import NoSuchModel, NoSuchUpload
from tests.conftest import litter
from tests.gguf_files import write_zip

OLD = {"base.gguf": b"old" * 5000, "notes.txt": b"old"}
NEW = {"base.gguf": b"new" * 5000, "sub/lora.gguf": b"new" * 400}
STEPS = ("rename", "replace", "link", "unlink", "rmdir", "mkdir")
"""What changes a folder, of the module os; and a swap, see app.storage.disk.exchange."""


def publish(storage: Storage, upload_id: str) -> None:
    with storage.uploads.whole(upload_id, "a-task") as staged:
        staged.hold("m")
        with staged.archive() as archive:
            staged.extract(archive, {}, lambda *_: None)
        staged.publish("m")


def prepare(folder: Path) -> str:
    """A models directory with the old model, and a new one that is uploaded; the upload's id."""
    for name, members in (("old", OLD), ("new", NEW)):
        zipped = write_zip(folder / f"{name}.zip", members, ZIP_DEFLATED).read_bytes()
        storage = Storage(folder / "models")
        upload = storage.uploads.create(len(zipped), {"filename": "m.zip"})
        storage.uploads.append(upload.id, 0, [zipped])
        if name == "old":
            publish(storage, upload.id)
        storage.uploads.close()
    return upload.id


def kill_at(step: int) -> None:
    """Have this process end as by SIGKILL before it changes a folder for the `step`th time."""
    left = step

    def counted(change: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*arguments: Any, **more: Any) -> Any:
            nonlocal left
            if left == 0:
                os.kill(os.getpid(), 9)
            left -= 1
            return change(*arguments, **more)

        return changed

    for name in STEPS:
        setattr(os, name, counted(getattr(os, name)))
    models.exchange = counted(models.exchange)  # type: ignore[attr-defined]


def digests(members: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in members.items()}


def stored(storage: Storage) -> dict[str, str] | None:
    """Digests of the model's files as they are, which is what its manifest says; None without."""
    try:
        files = storage.model("m").files()
    except NoSuchModel:
        return None
    found = {file.name: file.path.read_bytes() for file in files if file.path}
    assert {file.name: file.sha256 for file in files} == digests(found)
    return digests(found)


def kill_at_each_step(folder: Path) -> int:
    """How many steps there are; raises AssertionError where a kill at one of them does harm."""
    os.fsync = os.fdatasync = lambda descriptor: None
    upload_id = prepare(folder)
    old, new = digests(OLD), digests(NEW)
    for step in range(200):
        models = folder / str(step)
        shutil.copytree(folder / "models", models, symlinks=True)
        child = os.fork()
        if child == 0:
            kill_at(step)
            publish(Storage(models), upload_id)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert status in (0, 9), (step, status)
        storage = Storage(models)
        storage.prepare()
        assert stored(storage) in (old, new), step
        try:
            publish(storage, upload_id)
        except NoSuchUpload:
            assert stored(storage) == new, step
        assert stored(storage) == new, step
        state = storage.state_folder
        assert [*litter(models), *state.glob("uploads/*"), *state.glob("removed/*")] == [], step
        shutil.rmtree(models)
        if status == 0:
            return step
    raise AssertionError("It doesn't end.")


def without(*missing: str) -> None:
    """Have the filesystem be one without links, or swaps, or both."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    if "links" in missing:
        staging.os.link = refuse  # type: ignore[attr-defined]
    if "swaps" in missing:
        models.exchange = lambda one, other: False  # type: ignore[attr-defined]


def kill_on_each_filesystem(folder: Path) -> None:
    """Kill at each step where a filesystem lacks something, and where it doesn't."""
    for missing in ("", "swaps", "links", "links swaps"):
        (folder / missing).mkdir(exist_ok=True)
        child = os.fork()
        if child == 0:
            without(*missing.split())
            assert kill_at_each_step(folder / missing) > 15
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert status == 0, missing


def test_killed_at_each_step_of_being_published(tmp_path: Path) -> None:
    """In a process of one thread, which forks those that are killed."""
    code = (
        "import sys; from pathlib import Path; from tests import test_publish_killed as killed;"
        "killed.kill_on_each_filesystem(Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]

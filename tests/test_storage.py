"""The models directory: names, locks, staging, and publication in one step."""

import fcntl
import hashlib
import os
import threading
from pathlib import Path

import pytest

from app.storage import model as stored_model
from app.storage import models as storage_module
from app.storage.directory import Storage
from app.storage.disk import locked
from app.storage.failures import Busy, NameNotAllowed, NoSpace, NoSuchModel
from app.storage.names import name_of_upload
from tests.conftest import litter
from tests.gguf_files import write_zip


@pytest.fixture
def storage(models_dir: Path) -> Storage:
    storage = Storage(models_dir)
    storage.prepare()
    return storage


def say_nothing(action: str, details: dict[str, object], done: float | None = None) -> None:
    pass


def content(storage: Storage, name: str) -> dict[str, bytes]:
    found = {}
    for file in storage.model(name).files():
        with file.open() as opened:
            found[file.name] = opened.read()
    return found


def hashed(storage: Storage, name: str) -> list[str | None]:
    model = storage.model(name)
    return [file.sha256 for file in storage.hashed(model, model.files(), say_nothing)]


def publish(storage: Storage, name: str, members: dict[str, bytes], task: str = "a-task") -> None:
    with storage.staging(task) as staging:
        staging.hold(name)
        write_zip(staging.folder / "sent.zip", members)  # type: ignore[arg-type]
        with staging.receive() as arrival:
            arrival.write((staging.folder / "sent.zip").read_bytes())
        with staging.archive() as archive:
            staging.extract(archive, {}, say_nothing)
        staging.publish(name)


@pytest.mark.parametrize("name", ["a", "my model", "llama3.2-1b", "模型", "x" * 200])
def test_names_that_are_taken(name: str) -> None:
    endings = (".zip", ".ZIP", ".tar", ".tar.gz", ".Tgz", ".tar.zst", ".gguf", ".safetensors")
    assert {name_of_upload(name + ending) for ending in endings} == {name}


@pytest.mark.parametrize(
    "filename",
    ["", "zip", ".zip", "..zip", ".a.zip", "a/b.zip", "../a.zip", "a\\b.zip", "a\n.zip"]
    + ["a\0.zip", "\udc80.zip", "a\u2028.zip", "a.rar", ".tar.gz", "x" * 201 + ".zip"]
    + ["a\u202eb.zip", "a\u2066.gguf", "a\x1b[31m.zip", "a\ue000.zip"],
)
def test_names_that_are_refused(filename: str) -> None:
    with pytest.raises(NameNotAllowed):
        name_of_upload(filename)


def test_digests_are_computed_while_writing(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(storage, "m", {"base.gguf": b"weights", "sub/config.json": b"{}"})
    monkeypatch.setattr(stored_model, "hash_file", None)
    model = storage.model("m")
    assert [(file.name, file.sha256) for file in model.files()] == [
        ("base.gguf", hashlib.sha256(b"weights").hexdigest()),
        ("sub/config.json", hashlib.sha256(b"{}").hexdigest()),
    ]


def test_a_folder_put_by_hand_is_hashed_once(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = storage.folder / "by hand" / "base.gguf"
    path.parent.mkdir()
    path.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    assert hashed(storage, "by hand") == [digest]
    with monkeypatch.context() as patched:
        patched.setattr(stored_model, "hash_file", None)
        assert hashed(storage, "by hand") == [digest]
    path.write_bytes(b"others!")
    os.utime(path, (1, 1))
    assert hashed(storage, "by hand") == [hashlib.sha256(b"others!").hexdigest()]


@pytest.mark.parametrize("filesystem_swaps", [True, False])
def test_replacing_leaves_the_new_model_alone(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, filesystem_swaps: bool
) -> None:
    if not filesystem_swaps:
        monkeypatch.setattr(storage_module, "exchange", lambda one, other: False)
    publish(storage, "m", {"old.gguf": b"old", "both.gguf": b"old"})
    publish(storage, "m", {"new.gguf": b"new", "both.gguf": b"new"})
    assert content(storage, "m") == {
        "both.gguf": b"new",
        "new.gguf": b"new",
    }
    assert storage.names() == ["m"]
    assert not litter(storage.folder)


def test_readers_see_the_old_or_the_new_model_whole(storage: Storage) -> None:
    versions = [
        {f"{name}.gguf": bytes([name]) * 10 for name in range(start, 9)} for start in (1, 5)
    ]
    publish(storage, "m", versions[0])
    stop = threading.Event()
    seen = []

    def replace() -> None:
        for number in range(40):
            publish(storage, "m", versions[number % 2], f"task-{number}")
        stop.set()

    thread = threading.Thread(target=replace)
    thread.start()
    while not stop.is_set():
        folder = os.open(storage.folder / "m", os.O_RDONLY)
        try:
            names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
            # A folder that has been replaced by now may have been under removal already.
            if os.path.samestat(os.fstat(folder), os.stat(storage.folder / "m")):
                seen.append(names)
        finally:
            os.close(folder)
    thread.join()
    assert seen
    assert [names for names in seen if names not in map(sorted, versions)] == []


def test_a_file_in_the_way_is_left_alone(storage: Storage) -> None:
    (storage.folder / "m").write_text("mine")
    with pytest.raises(NameNotAllowed, match="is a file"):
        publish(storage, "m", {"a.gguf": b"a"})
    assert (storage.folder / "m").read_text() == "mine"
    assert not litter(storage.folder)


def test_a_linked_folder_is_a_model_and_its_target_survives_deletion(
    storage: Storage, tmp_path: Path
) -> None:
    target = tmp_path / "elsewhere"
    target.mkdir()
    (target / "base.gguf").write_bytes(b"weights")
    (storage.folder / "linked").symlink_to(target)
    assert content(storage, "linked") == {"base.gguf": b"weights"}
    storage.remove("linked")
    assert storage.names() == []
    assert (target / "base.gguf").read_bytes() == b"weights"


def test_a_held_model_names_its_holder(storage: Storage) -> None:
    with (
        storage.hold("m", "first"),
        storage.hold("other", "second"),
        pytest.raises(Busy, match="Task first is working on model 'm'"),
        storage.hold("m", "third"),
    ):
        pass
    with storage.hold("m", "fourth"):
        pass
    assert not litter(storage.folder)


def test_what_a_process_about_to_start_has_a_copy_of_is_let_go_all_the_same(
    storage: Storage,
) -> None:
    """Between fork and exec, a child has copies of all descriptors, those of locks too."""
    until, say = os.pipe()
    with storage.hold("m", "first"), locked(storage.folder, fcntl.LOCK_EX):
        child = os.fork()
        if not child:
            os.close(say)
            os.read(until, 1)
            os._exit(0)
    try:
        with storage.hold("m", "second"), locked(storage.folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
            pass
    finally:
        os.close(say)
        os.close(until)
        os.waitpid(child, 0)


def test_staging_is_removed_whatever_happens(storage: Storage) -> None:
    with pytest.raises(RuntimeError), storage.staging("a-task") as staging:
        staging.hold("m")
        with staging.receive() as arrival:
            arrival.write(b"PK\3\4half")
            raise RuntimeError
    assert not litter(storage.folder)


def test_sweeping_spares_the_living(storage: Storage) -> None:
    dead = storage.folder / ".model-handler" / "staging" / "dead"
    (dead / "model").mkdir(parents=True)
    locks = storage.folder / ".model-handler" / "locks"
    (locks / "of an earlier version").touch()
    (locks / "0123456789abcdef.dead").touch()
    with storage.staging("alive") as staging:
        staging.hold("m")
        Storage(storage.folder).prepare()
        [lock] = locks.iterdir()
        assert lock.suffix == ".alive"
        assert litter(storage.folder) == ["staging/alive", f"locks/{lock.name}"]
    assert not litter(storage.folder)


def test_a_model_taken_away_by_a_killed_replacement_comes_back(storage: Storage) -> None:
    replaced = storage.folder / ".model-handler" / "staging" / "dead" / "replaced" / "m"
    replaced.mkdir(parents=True)
    (replaced / "base.gguf").write_bytes(b"old")
    storage.prepare()
    assert (storage.model("m").folder / "base.gguf").read_bytes() == b"old"
    assert not litter(storage.folder)


def test_what_there_is_no_space_for(storage: Storage) -> None:
    with pytest.raises(NoSpace, match="This upload needs"):
        storage.require_space(2**60, "This upload")


def test_no_such_model(storage: Storage) -> None:
    with pytest.raises(NoSuchModel):
        storage.model("nope")

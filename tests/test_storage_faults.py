"""Full disks, odd folders, forged names, shared files: no model harms another, none is lost."""

import errno
import hashlib
import io
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote
from zipfile import ZipFile

import pytest
from flask import Flask

from app import create_app
from app.archive.reader import Archive, Entry
from app.storage import disk
from app.storage import manifest as manifests
from app.storage.directory import Storage
from app.storage.failures import Busy, NoSuchModel
from app.storage.names import check_name
from tests.callers import FlaskCaller
from tests.conftest import Zips, litter
from tests.gguf_files import write_base, write_lora, write_zip
from tests.standin import Standin
from tests.test_storage import content, publish, say_nothing

WEIGHTS = bytes(range(256)) * 8192


@pytest.fixture
def storage(models_dir: Path) -> Storage:
    storage = Storage(models_dir)
    storage.prepare()
    return storage


@pytest.fixture
def caller(app: Flask) -> FlaskCaller:
    return FlaskCaller(app.test_client())


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that takes no new byte and no new inode."""
    real_open, real_write = os.open, os.write

    def refuse(*_: object, **__: object) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def open_only(path: Any, flags: int, *arguments: Any, **named: Any) -> int:
        if flags & os.O_CREAT and not os.path.exists(path):
            refuse()
        return real_open(path, flags, *arguments, **named)

    def write(descriptor: int, data: bytes) -> int:
        return refuse() if os.fstat(descriptor).st_nlink else real_write(descriptor, data)

    monkeypatch.setattr(os, "open", open_only)
    monkeypatch.setattr(os, "write", write)
    monkeypatch.setattr(os, "mkdir", refuse)
    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr("io.open", refuse)
    monkeypatch.setattr("pathlib.io.open", refuse)


@pytest.mark.parametrize("name", ["uploaded", "placed manually"])
def test_deleting_takes_no_byte_and_no_inode(
    storage: Storage, name: str, request: pytest.FixtureRequest
) -> None:
    if name == "uploaded":
        publish(storage, name, {"base.gguf": WEIGHTS})
    else:
        (storage.folder / name).mkdir()
        (storage.folder / name / "base.gguf").write_bytes(WEIGHTS)
    request.getfixturevalue("full_disk")
    with storage.hold(name, "a-task"):
        storage.remove(name)
    assert storage.names() == []
    assert not list((storage.state_folder / "removed").iterdir())


def test_a_directory_that_was_wiped_or_mounted_over(
    caller: FlaskCaller, models_dir: Path, zips: Zips
) -> None:
    shutil.rmtree(models_dir)
    assert caller.get("/readyz").status == 200
    shutil.rmtree(models_dir)
    assert caller.get("/models/").lines == []
    assert caller.send_form("/models/upload/", [("Model", zips.both)]).last["status"] == 200
    shutil.rmtree(models_dir / ".model-handler")
    assert caller.send_json("DELETE", "/models/", {"model": "tiny_lora"}).last["status"] == 200
    assert not litter(models_dir)


ODD: dict[str, Callable[[Path], object]] = {
    "a loop": lambda path: path.symlink_to(path),
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
    "files: []": lambda path: odd_manifest(path, b'{"files": []}'),
    "not JSON": lambda path: odd_manifest(path, b"{"),
    "no object": lambda path: odd_manifest(path, b"[]"),
    "deep": lambda path: odd_manifest(path, b"[" * 100_000),
    "too many digits": lambda path: odd_manifest(path, b'{"a": ' + b"9" * 5000 + b"}"),
    "NaN": lambda path: odd_manifest(path, b'{"a": NaN}'),
    "half a character": lambda path: odd_manifest(path, b'{"a": "\\ud800"}'),
    "a kind that is a number": lambda path: odd_manifest(path, b'{"kind": 5}'),
    "a file outside": lambda path: odd_manifest(path, outside()),
    "a folder": lambda path: (path / ".model-handler" / "manifest.json").mkdir(parents=True),
    "huge": lambda path: odd_manifest(path, b" " * (manifests.MANIFEST_BYTES + 1)),
    "a loop in it": lambda path: (path.mkdir(), (path / "loop").symlink_to("loop")),
    "a name of any bytes": lambda path: (path.mkdir(), (path / "x\udcff.gguf").write_bytes(b"x")),
}


def odd_manifest(path: Path, text: bytes) -> None:
    path.mkdir()
    (path / ".model-handler.json").write_bytes(text)


def outside() -> bytes:
    files = {"../m/base.gguf": {"size": 1, "mtime_ns": 1, "sha256": "0" * 64}}
    return json.dumps({"created_at": "now", "files": files}).encode()


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_model_is_listed_with_its_problem_and_harms_none(
    caller: FlaskCaller, models_dir: Path, zips: Zips, kind: str
) -> None:
    ODD[kind](models_dir / "odd")
    for _ in range(2):
        answer = caller.send_form("/models/upload/", [("Model", zips.both)])
        assert answer.last["status"] == 200
    lines = caller.get("/models/?verbose=1").lines
    assert [line["message"]["details"]["model"] for line in lines] == ["odd", "tiny_lora"]
    odd, good = (line["message"]["details"] for line in lines)
    assert "problem" in odd
    assert str(models_dir) not in odd["problem"]
    assert "problem" not in good
    assert len(caller.get("/models/").lines) == 2
    assert caller.get("/models/odd/").status == 422
    assert caller.send_json("DELETE", "/models/", {"model": "odd"}).last["status"] == 200


def test_a_file_whose_name_is_not_text_is_left_out(
    caller: FlaskCaller, models_dir: Path, zips: Zips
) -> None:
    with ZipFile(zips.both) as zipped:
        zipped.extractall(models_dir / "hand-made")
    (models_dir / "hand-made" / "notes\udcff.txt").write_bytes(b"mine")
    described = json.loads(caller.get("/models/hand-made/").body)
    assert [file["name"] for file in described["files"]] == ["base.gguf", "lora.gguf"]
    with ZipFile(io.BytesIO(caller.get("/models/hand-made/download").body)) as downloaded:
        assert downloaded.namelist() == ["base.gguf", "lora.gguf"]
    [line] = caller.get("/models/?verbose=1").lines
    assert line["message"]["details"]["problem"] == (
        "notes?.txt can't be read: its name isn't UTF-8."
    )


@pytest.mark.parametrize("name", ["a\u2028b", "a\u202eb", "a\nb", "a\x1b[31mb", "a\udcffb"])
def test_a_folder_by_a_name_that_no_model_may_have(
    caller: FlaskCaller, models_dir: Path, zips: Zips, name: str
) -> None:
    (models_dir / name).mkdir()
    assert caller.send_form("/models/upload/", [("Model", zips.both)]).last["status"] == 200
    [line] = caller.get("/models/?verbose=1").lines
    assert line["message"]["details"]["model"] == "tiny_lora"
    assert caller.get(f"/models/{quote(os.fsencode(name))}/").status in (400, 404)


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\u202e", "\u2066", "\x85", "\ufeff"])
def test_no_mark_in_a_file_s_name_ends_or_turns_a_line(
    caller: FlaskCaller, models_dir: Path, zips: Zips, mark: str
) -> None:
    with ZipFile(zips.base) as zipped:
        zipped.extractall(models_dir / "hand-made")
    named = f"a{mark}b.gguf"
    (models_dir / "hand-made" / "base.gguf").rename(models_dir / "hand-made" / named)
    body = {"model": "hand-made", "model_name_on_ollama": "new"}
    answer = caller.send_json("POST", "/models/create/?verbose=1", body)
    assert answer.last["status"] == 200
    text = answer.body.decode()
    assert mark not in text
    files = [line["message"]["details"].get("file") for line in map(json.loads, text.splitlines())]
    assert named in files


def test_models_that_vanish_from_a_list_are_left_out(
    caller: FlaskCaller, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abcd":
        (models_dir / name).mkdir()
    found = Storage.models

    def found_then_gone(storage: Storage) -> Any:
        models = found(storage)
        for name in "bd":
            (models_dir / name).rmdir()
        return models

    monkeypatch.setattr(Storage, "models", found_then_gone)
    messages = [line["message"] for line in caller.get("/models/?verbose=1").lines]
    assert [(line["details"]["model"], line["progress_ratio"]) for line in messages] == [
        *(("a", 1 / 3), ("c", 1.0)),
    ]


def test_a_shared_file_is_never_written_to(storage: Storage) -> None:
    """The attack: a file in an archive, named as the service's own and one with a victim's."""
    publish(storage, "victim", {"base.gguf": WEIGHTS})
    victim = storage.folder / "victim" / "base.gguf"
    publish(storage, "other", {"base.gguf": WEIGHTS})
    own = storage.folder / "other" / ".model-handler"
    for name in ("manifest.json", f"manifest.json.{os.getpid()}"):
        (own / name).unlink(missing_ok=True)
        os.link(victim, own / name)
    storage.model("other").note(last_create={"adapter": None})
    assert victim.read_bytes() == WEIGHTS
    assert storage.model("other").manifest().facts["last_create"] == {"adapter": None}


@pytest.mark.parametrize(
    "name",
    [".model-handler.json", ".model-handler/kept/a.gguf", ".merged/a.gguf", "a/.MODEL-HANDLER.1"]
    + [".model\u200b-handler/manifest.json", ".\uff4dodel-handler/manifest.json"],
)
def test_own_names_are_never_extracted(storage: Storage, name: str) -> None:
    class Forged(Archive):
        def __init__(self) -> None:
            self.entries = (Entry(name, 1),)
            self.total_size = 1

        def chunks(self, entry: Entry) -> Iterator[bytes]:
            yield b"x"

    with storage.staging("a-task") as staging, pytest.raises(ValueError, match="service's own"):
        staging.extract(Forged(), {}, say_nothing)


def test_what_was_merged_is_only_taken_as_it_was_kept(storage: Storage, tmp_path: Path) -> None:
    publish(storage, "m", {"base.gguf": WEIGHTS})
    model = storage.model("m")
    (tmp_path / "merged").write_bytes(b"merged")
    path = model.results.add(tmp_path / "merged", "a.gguf", {"tensors": 1})
    assert model.results.find("a.gguf") == (path, {"tensors": 1})
    assert model.facts()["kept_size"] > 0
    path.write_bytes(b"forged!")
    assert model.results.find("a.gguf") is None
    path.unlink()
    path.symlink_to(model.folder / "base.gguf")
    assert model.results.find("a.gguf") is None
    model.results.clear()
    assert content(storage, "m") == {"base.gguf": WEIGHTS}


@pytest.mark.parametrize("full", [False, True], ids=["room", "no room"])
def test_what_was_merged_comes_over_from_another_filesystem(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    publish(storage, "m", {"base.gguf": WEIGHTS})
    model, merged = storage.model("m"), tmp_path / "merged"
    merged.write_bytes(WEIGHTS)

    def refuse(code: int) -> Callable[..., None]:
        def fail(*_: object) -> None:
            raise OSError(code, os.strerror(code))

        return fail

    monkeypatch.setattr("app.storage.disk.os.rename", refuse(errno.EXDEV))
    if full:
        monkeypatch.setattr("app.storage.disk.shutil.copyfileobj", refuse(errno.ENOSPC))
        with pytest.raises(OSError, match="No space"):
            model.results.add(merged, "a.gguf", {"tensors": 1})
        assert [each for each in model.folder.rglob("*") if ".new-" in each.name] == []
        assert merged.read_bytes() == WEIGHTS
    else:
        path = model.results.add(merged, "a.gguf", {"tensors": 1})
        assert model.results.find("a.gguf") == (path, {"tensors": 1})
        assert path.read_bytes() == WEIGHTS
        assert not merged.exists()


def test_who_reads_a_base_keeps_it_from_being_changed(storage: Storage) -> None:
    two_tasks = "Tasks one, two are working on model 'base'"
    with (
        storage.hold("base", "one", shared=True),
        storage.hold("base", "two", shared=True),
        pytest.raises(Busy, match=two_tasks),
    ):
        storage.hold("base", "three").__enter__()
    with storage.hold("base", "three"), pytest.raises(Busy, match="Task three is working"):
        storage.hold("base", "four", shared=True).__enter__()
    assert not litter(storage.folder)


def test_a_base_of_another_model_stays_while_it_is_merged(tmp_path: Path, models_dir: Path) -> None:
    """The chimera: a base replaced while an adapter was merged into it gave layers of both."""
    base, lora = write_base(tmp_path / "base.gguf"), write_lora(tmp_path / "lora.gguf")
    base_zip = write_zip(tmp_path / "the_base.zip", {"base.gguf": base})
    lora_zip = write_zip(tmp_path / "tuned.zip", {"lora.gguf": lora})
    with Standin(tmp_path / "ollama", version="0.34.1") as standin:
        app = create_app({"MODELS_DIR": models_dir, "OLLAMA_HOST": standin.url})
        caller, other = FlaskCaller(app.test_client()), FlaskCaller(app.test_client())
        assert caller.send_form("/models/upload/", [("Model", base_zip)]).last["status"] == 200
        form = [("Model", lora_zip), ("model_name_on_ollama", "new"), ("from", "the_base")]
        with ThreadPoolExecutor(1) as pool, standin.hold("/api/create") as gate:
            deployed = pool.submit(caller.send_form, "/models/deploy/", form)
            gate.wait_reached(30)
            answers = [
                other.send_form("/models/upload/", [("Model", base_zip)]),
                other.send_json("DELETE", "/models/", {"model": "the_base"}),
            ]
            gate.open()
            last = deployed.result().last
        assert last["status"] == 200
        for answer in answers:
            assert answer.status == 409
            task = last["task_uuid"]
            assert f"Task {task} is working on model" in answer.last["details"]["error"]
        assert other.send_json("DELETE", "/models/", {"model": "the_base"}).status == 200


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("new", "NEW:latest", True),
        ("new", "registry.ollama.ai/library/new", True),
        ("new", "new:q4", False),
        ("new", "mine/new", False),
    ],
)
def test_one_name_on_ollama_is_held_once(
    storage: Storage, one: str, other: str, same: bool
) -> None:
    url = "http://127.0.0.1:11434"
    with ExitStack() as held:
        held.enter_context(storage.hold_name_on_ollama(url, one, "first"))
        held.enter_context(storage.hold_name_on_ollama("http://other", one, "second"))
        if same:
            with pytest.raises(Busy, match="Task first is making"):
                held.enter_context(storage.hold_name_on_ollama(url, other, "third"))
        else:
            held.enter_context(storage.hold_name_on_ollama(url, other, "third"))


def test_two_forms_of_one_name_are_one(storage: Storage) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    (storage.folder / decomposed).mkdir()
    (storage.folder / decomposed / "a").write_bytes(b"a")
    assert check_name(decomposed) == composed
    assert storage.names() == [composed]
    with storage.hold(composed, "first"), pytest.raises(Busy):
        storage.hold(decomposed, "second").__enter__()
    publish(storage, decomposed, {"b": b"b"})
    assert content(storage, composed) == {"b": b"b"}
    storage.remove(composed)
    assert storage.names() == []


def test_a_filesystem_that_ignores_case(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(storage, "Model", {"a": b"a"})
    (storage.folder / "model").symlink_to("Model")  # how such a filesystem would find it
    monkeypatch.setattr("app.storage.models._is_folder", lambda entry: not entry.is_symlink())
    assert storage.model("model").name == "Model"
    with storage.hold("MODEL", "first"), pytest.raises(Busy):
        storage.hold("model", "second").__enter__()


@pytest.mark.parametrize("without_swap", [False, True])
def test_everything_is_on_the_disk_before_it_is_seen(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, without_swap: bool
) -> None:
    """Every file and folder of a model is synced before it is published, and the names after."""
    synced: list[tuple[Path, bool]] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        status = os.fstat(descriptor)
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        synced.append((path, (storage.folder / "m").exists()))
        assert status.st_ino == os.fstat(descriptor).st_ino
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    if without_swap:
        monkeypatch.setattr("app.storage.models.exchange", lambda one, other: False)
    publish(storage, "m", {"base.gguf": WEIGHTS, "sub/a.json": b"{}"})
    model = storage.state_folder / "staging" / "a-task" / "model"
    before = {path for path, was_seen in synced if not was_seen}
    written = {model / name for name in ("base.gguf", "sub/a.json")}
    folders = {model, model / "sub", model / ".model-handler"}
    assert written | folders <= before
    assert any(path.name.startswith(".new-") for path in before)  # the manifest
    assert (storage.folder, True) in synced
    synced.clear()
    storage.remove("m")
    assert (storage.folder, False) in synced


def test_a_manifest_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (steps.append("sync"), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda *paths: (steps.append("name"), replace(*paths)))
    disk.write_whole(tmp_path / "a", b"content")
    assert steps == ["sync", "name", "sync"]


def test_a_kept_result_is_on_the_disk_before_it_has_its_name(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(storage, "m", {"base.gguf": WEIGHTS})
    merged = storage.folder / "merged.gguf"
    merged.write_bytes(WEIGHTS)
    inode, steps = merged.stat().st_ino, []
    fsync, rename = os.fsync, os.rename

    def noted(descriptor: int) -> None:
        if os.fstat(descriptor).st_ino == inode:
            steps.append("sync")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(os, "rename", lambda *paths: (steps.append("name"), rename(*paths)))
    storage.model("m").results.add(merged, "a.gguf", {"tensors": 1})
    assert steps[:2] == ["sync", "name"]


def test_what_comes_from_another_filesystem_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def elsewhere(*_: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "rename", elsewhere)
    monkeypatch.setattr(os, "fsync", lambda fd: (steps.append("sync"), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda *paths: (steps.append("name"), replace(*paths)))
    (tmp_path / "a").write_bytes(b"content")
    disk.move(tmp_path / "a", tmp_path / "b")
    assert steps == ["sync", "name"]
    assert (tmp_path / "b").read_bytes() == b"content"


def test_a_download_of_many_files_opens_one_at_a_time(
    caller: FlaskCaller, app: Flask, models_dir: Path
) -> None:
    (models_dir / "many").mkdir()
    for number in range(1201):
        (models_dir / "many" / f"{number}.txt").write_bytes(b"x")
    response = app.test_client().get("/models/many/download", buffered=False)
    pieces = response.iter_encoded()
    next(pieces)
    assert len(os.listdir("/proc/self/fd")) < 100
    response.close()
    assert caller.get("/models/many/download").status == 200


def test_a_model_replaced_while_it_is_read_goes_when_the_last_has_read(storage: Storage) -> None:
    publish(storage, "m", {"old": b"old"})
    removed = storage.state_folder / "removed"
    with storage.opened("m") as files, storage.opened("m") as again:
        publish(storage, "m", {"new": b"new"})
        storage.sweep()
        for file in (*files, *again):
            with file.open() as opened:
                assert opened.read() == b"old"
        assert len(list(removed.iterdir())) == 1
    assert not list(removed.iterdir())
    assert content(storage, "m") == {"new": b"new"}


def test_reading_while_models_come_and_go(storage: Storage) -> None:
    stop = threading.Event()

    def change() -> None:
        for number in range(30):
            publish(storage, "m", {"a": bytes([number]) * 10}, f"task-{number}")
            with storage.hold("m", "remover"):
                storage.remove("m")
        stop.set()

    changer = threading.Thread(target=change)
    changer.start()
    seen = 0
    while not stop.is_set():
        try:
            with storage.opened("m") as files:
                [file] = files
                with file.open() as opened:
                    assert len(set(opened.read())) == 1
                seen += 1
        except NoSuchModel:
            continue
    changer.join()
    assert not list((storage.state_folder / "removed").iterdir())


def test_what_a_killed_task_left_is_swept(storage: Storage) -> None:
    dead = storage.state_folder / "staging" / "dead"
    dead.mkdir()
    (dead / "merged.gguf").write_bytes(WEIGHTS)
    storage.sweep()
    assert disk.disk_bytes(storage.state_folder) == 0


def test_the_manifest_of_an_earlier_version(storage: Storage) -> None:
    folder = storage.folder / "m"
    folder.mkdir()
    (folder / "base.gguf").write_bytes(WEIGHTS)
    status = (folder / "base.gguf").stat()
    sha256 = hashlib.sha256(WEIGHTS).hexdigest()
    entry = {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": sha256}
    earlier = folder / ".model-handler.json"
    earlier.write_text(json.dumps({"created_at": "2026", "files": {"base.gguf": entry}}))
    model = storage.model("m")
    assert [file.sha256 for file in model.files()] == [sha256]
    model.note(last_create={})
    assert not earlier.exists()
    assert model.manifest().facts == {"created_at": "2026", "last_create": {}}
    assert [file.sha256 for file in model.files()] == [sha256]

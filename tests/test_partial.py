"""Partial uploads: what has arrived survives whatever happens, and is written once."""

import errno
import hashlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from zipfile import ZIP_DEFLATED

import pytest
from gunicorn.http.errors import NoMoreData

from app.archive import syncing
from app.archive.journal import Journal
from app.archive.limits import ArchiveError
from app.connection import TooSlow
from app.storage.directory import Storage
from app.storage.failures import (
    ChecksumMismatch,
    ContentMissing,
    NoSpace,
    NoSuchUpload,
    UploadLocked,
    UploadTooLong,
    UploadUnfinished,
    WrongOffset,
)
from app.storage.partial_arrivals import Checksum
from app.storage.partial_folders import INFO, PartialUpload
from app.storage.staging import WantedFile
from tests.conftest import expire_uploads, litter
from tests.gguf_files import write_zip

NOISE = os.urandom(2_500_000)
MEMBERS = {"base.gguf": NOISE, "sub/notes.txt": b"notes"}


@pytest.fixture
def storage(models_dir: Path) -> Iterator[Storage]:
    storage = Storage(models_dir)
    storage.prepare()
    yield storage
    storage.uploads.close()


@pytest.fixture
def zipped(tmp_path: Path) -> bytes:
    return write_zip(tmp_path / "m.zip", MEMBERS).read_bytes()


def say_nothing(action: str, details: dict[str, object], done: float | None = None) -> None:
    pass


def begin(storage: Storage, content: bytes) -> PartialUpload:
    return storage.uploads.create(len(content), {"filename": "m.zip"})


def publish(storage: Storage, upload: PartialUpload, name: str = "m") -> None:
    with storage.uploads.whole(upload.id, "a-task") as staging:
        staging.hold(name)
        with staging.archive() as archive:
            staging.extract(archive, {}, say_nothing)
        staging.publish(name)


def digests(storage: Storage, name: str) -> dict[str, str | None]:
    return {file.name: file.sha256 for file in storage.model(name).files()}


def leftovers(storage: Storage) -> list[Path]:
    uploads, removed = storage.state_folder / "uploads", storage.state_folder / "removed"
    found = [*uploads.iterdir()] if uploads.is_dir() else []
    return [*found, *removed.iterdir(), *map(Path, litter(storage.folder))]


@pytest.mark.parametrize("another_process", [False, True])
def test_an_upload_in_pieces_becomes_the_model(
    storage: Storage, zipped: bytes, another_process: bool
) -> None:
    upload = begin(storage, zipped)
    while not upload.is_whole:
        piece = zipped[upload.offset : upload.offset + 700_001]
        upload = storage.uploads.append(upload.id, upload.offset, [piece])
        if another_process:
            storage.uploads.close()
            storage = Storage(storage.folder)
            storage.prepare()
            found = storage.uploads.get(upload.id)
            assert abs(found.expires - upload.expires) < 60
            assert replace(found, expires=upload.expires) == upload
    publish(storage, upload)
    assert digests(storage, "m") == {
        name: hashlib.sha256(content).hexdigest() for name, content in MEMBERS.items()
    }
    with pytest.raises(NoSuchUpload):
        storage.uploads.get(upload.id)
    assert not leftovers(storage)


@pytest.mark.parametrize("error", [ConnectionError, TooSlow, NoMoreData])
def test_what_came_before_the_connection_broke_is_kept(
    storage: Storage, zipped: bytes, error: type[Exception]
) -> None:
    """Whatever the body's reader calls it."""

    def broken() -> Iterator[bytes]:
        yield zipped[:1_000_000]
        raise error

    upload = begin(storage, zipped)
    with pytest.raises(error):
        storage.uploads.append(upload.id, 0, broken())
    assert storage.uploads.get(upload.id).offset == 1_000_000
    upload = storage.uploads.append(upload.id, 1_000_000, [zipped[1_000_000:]])
    assert upload.is_whole
    publish(storage, upload)


@pytest.mark.parametrize("lost", ["the data", "the journal"])
def test_what_the_disk_has_failed_to_keep_is_sent_again(
    storage: Storage, zipped: bytes, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """Although it was acknowledged, the offset is that before it."""
    upload = storage.uploads.append(begin(storage, zipped).id, 0, [zipped[:900_000]])
    storage.uploads.close()

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as failing, suppress(OSError):
        failing.setattr(*(syncing, "sync") if lost == "the data" else (Journal, "sync"), fail)
        storage.uploads.append(upload.id, 900_000, [zipped[900_000:1_200_000]])
        storage.uploads.close()
    assert storage.uploads.get(upload.id).offset == 900_000
    with pytest.raises(WrongOffset):
        storage.uploads.append(upload.id, 1_200_000, [zipped[1_200_000:]])
    assert storage.uploads.append(upload.id, 900_000, [zipped[900_000:]]).is_whole
    publish(storage, upload)
    assert digests(storage, "m")["base.gguf"] == hashlib.sha256(NOISE).hexdigest()


def test_one_writer_at_a_time(storage: Storage, zipped: bytes) -> None:
    upload = begin(storage, zipped)
    other = Storage(storage.folder)

    def meanwhile() -> Iterator[bytes]:
        yield zipped[:10]
        with pytest.raises(UploadLocked):
            other.uploads.append(upload.id, 10, [zipped[10:]])
        with pytest.raises(UploadLocked):
            other.uploads.remove(upload.id)
        yield zipped[10:]

    assert storage.uploads.append(upload.id, 0, meanwhile()).is_whole


@pytest.mark.parametrize(
    ("at", "blocks", "checksum", "error"),
    [
        (1, [b"x"], None, WrongOffset),
        (0, [bytes(99_000_000)], None, UploadTooLong),
        (0, [b"PK", b"x"], Checksum("sha256", hashlib.sha256(b"PKy").digest()), ChecksumMismatch),
    ],
)
def test_appends_that_are_refused(
    storage: Storage,
    zipped: bytes,
    at: int,
    blocks: list[bytes],
    checksum: Checksum | None,
    error: type[Exception],
) -> None:
    upload = begin(storage, zipped)
    with pytest.raises(error):
        storage.uploads.append(upload.id, at, blocks, checksum=checksum)
    assert storage.uploads.get(upload.id).offset == 0
    right = Checksum("sha1", hashlib.sha1(zipped).digest())
    assert storage.uploads.append(upload.id, 0, [zipped], checksum=right).is_whole


def test_an_upload_that_is_of_no_use_is_removed(storage: Storage) -> None:
    upload = begin(storage, b"x" * 100_000)
    with pytest.raises(ArchiveError):
        storage.uploads.append(upload.id, 0, [b"x" * 100_000])
    assert not leftovers(storage)


def test_a_failure_after_the_upload_leaves_it_whole(storage: Storage, zipped: bytes) -> None:
    upload = storage.uploads.append(begin(storage, zipped).id, 0, [zipped])
    with pytest.raises(RuntimeError), storage.uploads.whole(upload.id, "a-task") as staging:
        with staging.archive() as archive:
            staging.extract(archive, {}, say_nothing)
        raise RuntimeError
    assert storage.uploads.get(upload.id).is_whole
    publish(storage, upload)
    assert list(digests(storage, "m")) == sorted(MEMBERS)


def test_an_extraction_that_was_killed_is_done_again(storage: Storage, zipped: bytes) -> None:
    upload = storage.uploads.append(begin(storage, zipped).id, 0, [zipped])
    folder = storage.state_folder / "uploads" / upload.id
    [unpacked] = [path for path in folder.glob("entry-*") if path.stat().st_size == len(NOISE)]
    (folder / "model").mkdir()
    os.rename(unpacked, folder / "model" / "base.gguf")
    publish(storage, upload)
    assert digests(storage, "m")["base.gguf"] == hashlib.sha256(NOISE).hexdigest()


def test_an_upload_that_is_not_whole_is_not_used(storage: Storage, zipped: bytes) -> None:
    upload = storage.uploads.append(begin(storage, zipped).id, 0, [zipped[:-1]])
    with pytest.raises(UploadUnfinished), storage.uploads.whole(upload.id, "a-task"):
        pass
    assert storage.uploads.get(upload.id).offset == len(zipped) - 1


def test_nothing_is_left_of_a_removed_or_expired_upload(storage: Storage, zipped: bytes) -> None:
    removed, expired = begin(storage, zipped), begin(storage, zipped)
    storage.uploads.remove(removed.id)
    storage.uploads.append(expired.id, 0, [zipped[:1000]])
    expire_uploads(storage.folder)
    with pytest.raises(NoSuchUpload):
        storage.uploads.get(expired.id)
    assert storage.uploads.all() == []
    storage.prepare()
    assert not leftovers(storage)


@pytest.mark.parametrize("upload_id", ["", "..", "x", "../../m", "0" * 32, "A" * 32])
def test_ids_that_are_none(storage: Storage, upload_id: str) -> None:
    for use in (storage.uploads.get, storage.uploads.remove):
        with pytest.raises(NoSuchUpload):
            use(upload_id)


def test_what_is_still_to_come_counts_as_used(
    storage: Storage, zipped: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Storage, "free_bytes", lambda _: len(zipped) + 1000)
    upload = begin(storage, zipped)
    with pytest.raises(NoSpace):
        begin(storage, zipped)
    with pytest.raises(NoSpace):
        storage.require_space(2000, "Another upload")
    assert storage.uploads.append(upload.id, 0, [zipped]).is_whole
    storage.require_space(1000, "Another upload")


def test_damaged_info_is_no_upload(storage: Storage, zipped: bytes) -> None:
    upload = begin(storage, zipped)
    (storage.state_folder / "uploads" / upload.id / INFO).write_bytes(b"{}")
    with pytest.raises(NoSuchUpload):
        storage.uploads.get(upload.id)
    assert storage.uploads.all() == []
    storage.uploads.sweep()


def wanted(name: str, content: bytes) -> WantedFile:
    return WantedFile(name, len(content), hashlib.sha256(content).hexdigest())


def test_only_what_is_missing_is_sent(storage: Storage, zipped: bytes, tmp_path: Path) -> None:
    publish(storage, storage.uploads.append(begin(storage, zipped).id, 0, [zipped]))
    base, lora = wanted("base.gguf", NOISE), wanted("sub/lora.gguf", b"adapter")
    assert storage.missing([base, lora]) == [lora]
    rest = write_zip(tmp_path / "n.zip", {"n/sub/lora.gguf": b"adapter"}).read_bytes()
    with storage.staging("a-task") as staging:
        staging.link_known([base])
        with staging.receive("n.zip") as arrival:
            arrival.write(rest)
        with staging.archive() as archive:
            staging.extract(archive, {}, say_nothing)
        staging.publish("n")
    assert digests(storage, "n") == {"base.gguf": base.sha256, "sub/lora.gguf": lora.sha256}
    one, other = (storage.folder / name / "base.gguf" for name in ("m", "n"))
    assert one.samefile(other)
    assert not leftovers(storage)


@pytest.mark.parametrize(
    "change",
    [lambda path: path.write_bytes(NOISE[::-1]), lambda path: path.unlink()],
    ids=["changed", "gone"],
)
def test_content_that_changed_is_missing(storage: Storage, zipped: bytes, change: object) -> None:
    publish(storage, storage.uploads.append(begin(storage, zipped).id, 0, [zipped]))
    change(storage.folder / "m" / "base.gguf")  # type: ignore[operator]
    base = wanted("base.gguf", NOISE)
    assert storage.missing([base]) == [base]
    with storage.staging("a-task") as staging, pytest.raises(ContentMissing, match=r"base\.gguf"):
        staging.link_known([base])


@pytest.mark.parametrize("name", ["../m/x", "/x", ".model-handler/manifest.json", "a\u2028b"])
def test_known_content_goes_nowhere_else(storage: Storage, zipped: bytes, name: str) -> None:
    publish(storage, storage.uploads.append(begin(storage, zipped).id, 0, [zipped]))
    with storage.staging("a-task") as staging, pytest.raises(ArchiveError):
        staging.link_known([wanted(name, NOISE)])


APPEND = """
import sys
from pathlib import Path
from app.storage.directory import Storage
uploads = Storage(Path(sys.argv[1])).uploads
upload = uploads.get(sys.argv[2])
with open(sys.argv[3], "rb") as file:
    file.seek(upload.offset)
    print("ready", flush=True)
    while not upload.is_whole:
        upload = uploads.append(upload.id, upload.offset, [file.read(300_000)])
"""


def test_killed_while_it_arrives(storage: Storage, tmp_path: Path) -> None:
    """Each process is killed at a random moment; the next one goes on, and nothing is lost."""
    members = {"a.bin": NOISE * 4, "b.bin": NOISE[::-1], "c.txt": b"text " * 500_000}
    zipped = write_zip(tmp_path / "m.zip", members, ZIP_DEFLATED)
    upload = begin(storage, zipped.read_bytes())
    command = [sys.executable, "-c", APPEND, str(storage.folder), upload.id, str(zipped)]
    moments = random.Random(1)
    for _ in range(4):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(moments.uniform(0, 0.1))
            process.kill()
        before, upload = upload, storage.uploads.get(upload.id)
        assert upload.offset >= before.offset
    subprocess.run(command, check=True)
    publish(storage, upload)
    assert digests(storage, "m") == {
        name: hashlib.sha256(content).hexdigest() for name, content in members.items()
    }
    assert not leftovers(storage)

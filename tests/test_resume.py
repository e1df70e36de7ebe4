"""Uploads that survive their process: cut anywhere, gone on with, and the same in the end."""

import io
import os
import random
import signal
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from app.archive import arrival as arriving
from app.archive import writing
from app.archive.arrival import Arrival
from app.archive.journal import Journal, State, read_offset
from app.archive.limits import Limits
from tests.gguf_files import write_base
from tests.test_arrival import Unseekable
from tests.test_tar import tarred, zstandard

NOISE = random.Random(1).randbytes(150_000)
MEMBERS = {
    "m/a.bin": NOISE,
    "m/empty": b"",
    "m/__MACOSX/._a.bin": NOISE[:9000],
    "m/zeros.bin": bytes(60_000),
    "m/sub/b.bin": NOISE[:70_001],
    "m/c.txt": b"c",
}
KEPT = {
    name.removeprefix("m/"): sha256(content).hexdigest()
    for name, content in MEMBERS.items()
    if "MACOSX" not in name
}


def zipped(method: int, *, piped: bool = False) -> bytes:
    file = Unseekable() if piped else io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in MEMBERS.items():
            archive.writestr(name, content)
    return file.getvalue()


def zip_with_descriptors(members: dict[str, bytes]) -> bytes:
    """Stored entries that state their sizes, and say them again behind their content."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


UPLOADS: dict[str, Callable[[], bytes]] = {
    "zip, stored": lambda: zipped(zipfile.ZIP_STORED),
    "zip, deflated": lambda: zipped(zipfile.ZIP_DEFLATED),
    "zip, deflated through a pipe": lambda: zipped(zipfile.ZIP_DEFLATED, piped=True),
    "zip, stored through a pipe": lambda: zipped(zipfile.ZIP_STORED, piped=True),
    "tar": lambda: tarred(MEMBERS),
    "tar.gz": lambda: tarred(MEMBERS, "gz"),
    "tar.zst": lambda: zstandard(tarred(MEMBERS)),
}


def resume(folder: Path, filename: str = "m.zip") -> Arrival:
    return Arrival.resume(folder, Limits(), lambda size: None, filename=filename)


def digests(arrival: Arrival) -> dict[str, str]:
    with arrival.archive() as archive:
        return {entry.name: archive.digest(entry) for entry in archive.entries}


def arrive_in_pieces(
    folder: Path, content: bytes, dice: random.Random
) -> tuple[dict[str, str], int]:
    """Send `content` with kills at random bytes; the digests, and the bytes sent in all."""
    arrival = Arrival(folder, Limits(), lambda size: None, resumable=True)
    sent = acknowledged = 0
    while True:
        start = arrival.offset
        assert start >= acknowledged
        stop = min(len(content), start + dice.randrange(1, 120_000))
        block = dice.choice([700, 9_000, 60_000])
        for at in range(start, stop, block):
            arrival.write(content[at : min(stop, at + block)])
        sent += stop - start
        if stop == len(content):
            break
        if dice.random() < 0.5:
            acknowledged = arrival.checkpoint()
            assert acknowledged == stop
        if dice.random() < 0.8:
            arrival.close()
            lose_what_is_not_saved(folder, dice)
            arrival = resume(folder)
    arrival.finish()
    if dice.random() < 0.5:
        arrival.close()
        arrival = resume(folder)
        arrival.finish()
    arrival.close()
    return digests(arrival), sent


@pytest.mark.parametrize(
    "content",
    [tarred({"m/a": b"a", "m/b": b"b" * 600}), zip_with_descriptors({"a": b"a" * 9, "b": b"b"})],
    ids=["tar", "zip"],
)
def test_cut_within_what_stands_between_entries(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name_of_sync in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name_of_sync, lambda descriptor: None)
    arrival = Arrival(tmp_path, Limits(), lambda size: None, resumable=True)
    last = min(len(content), 1600)
    for at in range(0, last, 11):
        arrival.write(content[at : min(last, at + 11)])
        arrival.checkpoint()
        arrival.close()
        arrival = resume(tmp_path)
        assert arrival.offset == min(last, at + 11)
    arrival.write(content[last:])
    arrival.finish()
    arrival.close()
    assert len(digests(arrival)) == 2


def lose_what_is_not_saved(folder: Path, dice: random.Random) -> None:
    """What a power cut may leave: other bytes, and more of them, after those that were synced."""
    for path in (folder / "upload", *folder.glob("entry-*"), folder / "journal"):
        if dice.random() < 0.5:
            with path.open("ab") as file:
                file.write(dice.randbytes(500).replace(b"\n", b""))
    (folder / "entry-99").write_bytes(b"begun and not saved")


@pytest.mark.parametrize("name", UPLOADS)
def test_cut_at_any_byte_it_is_the_same_in_the_end(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arriving, "CHECKPOINT_BYTES", 20_000)
    for name_of_sync in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name_of_sync, lambda descriptor: None)
    content = UPLOADS[name]()
    for seed in range(30):
        folder = tmp_path / str(seed)
        folder.mkdir()
        found, sent = arrive_in_pieces(folder, content, random.Random(seed))
        assert found == KEPT, seed
        assert sent < 3 * len(content)
        assert not [path for path in folder.iterdir() if path.name == "entry-99"]


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """How many bytes of each file, by its inode, are on the disk."""
    found: dict[int, int] = {}

    def noting(sync: Callable[[int], None]) -> Callable[[int], None]:
        def noted(descriptor: int) -> None:
            status = os.fstat(descriptor)
            found[status.st_ino] = status.st_size
            sync(descriptor)

        return noted

    monkeypatch.setattr(os, "fsync", noting(os.fsync))
    monkeypatch.setattr(os, "fdatasync", noting(os.fdatasync))
    return found


def check_synced(folder: Path, synced: dict[int, int]) -> None:
    for path in (*folder.glob("entry-*"), folder / "upload"):
        status = path.stat()
        assert synced.get(status.st_ino) == status.st_size, path.name
    assert {folder.stat().st_ino, (folder / "journal").stat().st_ino} <= set(synced)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_checkpoint_is_on_the_disk_soon(
    tmp_path: Path, share: float, synced: dict[int, int]
) -> None:
    content = zipped(zipfile.ZIP_STORED)
    arrival = Arrival(tmp_path, Limits(), lambda size: None, resumable=True)
    arrival.write(content[: int(share * len(content))])
    arrival.checkpoint()
    arrival.wait_for_disk()
    check_synced(tmp_path, synced)
    arrival.close()


def test_what_a_killed_process_has_finished_is_on_the_disk_too(
    tmp_path: Path, synced: dict[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its successor waits for that."""
    arrival = Arrival(tmp_path, Limits(), lambda size: None, resumable=True)
    arrival.write(zipped(zipfile.ZIP_STORED))
    with monkeypatch.context() as killed:
        killed.setattr(Journal, "mark_synced", lambda *_: None)
        arrival.finish()
        arrival.close()
    synced.clear()
    arrival = resume(tmp_path)
    arrival.finish()
    check_synced(tmp_path, synced)
    arrival.close()


def test_a_single_file_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arriving, "CHECKPOINT_BYTES", 20_000)
    content = write_base(tmp_path / "base.gguf").read_bytes()
    (tmp_path / "folder").mkdir()
    arrival = Arrival(
        *(tmp_path / "folder", Limits(), lambda size: None), filename="b.gguf", resumable=True
    )
    for at in range(0, len(content), 10_000):
        arrival.write(content[at : at + 10_000])
        if at % 30_000 == 0:
            arrival.checkpoint()
            arrival.close()
            arrival = resume(tmp_path / "folder", "b.gguf")
            assert arrival.offset == min(len(content), at + 10_000)
    arrival.finish()
    arrival.close()
    assert digests(arrival) == {"b.gguf": sha256(content).hexdigest()}


def test_a_stored_byte_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often the upload is resumed; of a deflated one, the compressed bytes are kept
    until their entry is whole, and then give their room back."""
    content, written = zipped(zipfile.ZIP_STORED), 0
    write_all = writing.write_all

    def count(file: object, block: bytes) -> None:
        nonlocal written
        written += len(block)
        write_all(file, block)

    for module in ("writing", "intake"):
        monkeypatch.setattr(f"app.archive.{module}.write_all", count)
    arrival = Arrival(tmp_path, Limits(), lambda size: None, resumable=True)
    for at in range(0, len(content), 10_000):
        arrival.write(content[at : at + 10_000])
        arrival.checkpoint()
        arrival.close()
        arrival = resume(tmp_path)
    arrival.finish()
    arrival.close()
    assert digests(arrival) == KEPT
    assert written == len(content)


def test_room_is_given_back(tmp_path: Path) -> None:
    content = zipped(zipfile.ZIP_DEFLATED)
    arrival = Arrival(tmp_path, Limits(), lambda size: None, resumable=True)
    arrival.write(content)
    arrival.finish()
    arrival.close()
    assert digests(arrival) == KEPT
    assert (tmp_path / "upload").stat().st_blocks * 512 < 40_000 < len(content)


def test_two_processes_see_who_was_last(tmp_path: Path) -> None:
    content = zipped(zipfile.ZIP_STORED)
    first = Arrival(tmp_path, Limits(), lambda size: None, resumable=True)
    first.write(content[:50_000])
    first.checkpoint()
    first.wait_for_disk()
    assert first.is_current
    second = resume(tmp_path)
    second.write(content[50_000:90_000])
    second.checkpoint()
    assert second.is_current
    assert not first.is_current
    first.close()
    second.close()


@pytest.mark.parametrize("where", [60_000, 200_000])
def test_a_killed_process(tmp_path: Path, where: int) -> None:
    content = zipped(zipfile.ZIP_DEFLATED)
    (tmp_path / "m.zip").write_bytes(content)
    (tmp_path / "folder").mkdir()
    code = (
        "import os, sys; from pathlib import Path; from app.archive import arrival as a;"
        "a.CHECKPOINT_BYTES = 10_000; folder = Path(sys.argv[1]);"
        "arrival = a.Arrival(folder / 'folder', a.Limits(), lambda n: None, resumable=True);"
        "file = (folder / 'm.zip').open('rb');"
        "[arrival.write(file.read(5000)) for _ in range(int(sys.argv[2]) // 5000)];"
        "os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", code, tmp_path, str(where)], check=False)
    assert killed.returncode == -signal.SIGKILL
    arrival = resume(tmp_path / "folder")
    assert 0 < arrival.offset <= where
    arrival.write(content[arrival.offset :])
    arrival.finish()
    arrival.close()
    assert digests(arrival) == KEPT


def test_an_archive_that_was_refused_is_refused_again(tmp_path: Path) -> None:
    good, bad = tarred({"m/a": b"a" * 2000}), tarred({"m/../b": b"b"})
    arrival = Arrival(tmp_path, Limits(), lambda size: None, resumable=True)
    arrival.write(good[:2560])
    arrival.checkpoint()
    for _ in range(2):
        with pytest.raises(ValueError, match="points out of its folder"):
            arrival.write(bad)
    arrival.close()
    arrival = resume(tmp_path)
    assert arrival.offset == 2560
    arrival.close()


def test_a_line_of_the_journal_that_found_no_room_spoils_no_other(tmp_path: Path) -> None:
    begun = Journal(tmp_path, begin=True)
    begun.add(State(offset=1))

    class Full:
        def write(self, text: bytes) -> int:
            return file.write(text[:9])

    file, begun._file = begun._file, Full()  # type: ignore[assignment]
    with pytest.raises(OSError, match="No space"):
        begun.add(State(offset=2))
    begun._file = file
    begun.add(State(offset=3))
    begun.close()
    assert read_offset(tmp_path) == 3


def test_nothing_to_go_on_with(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        resume(tmp_path)
    tarfile.open(tmp_path / "upload", "w").close()
    (tmp_path / "journal").write_bytes(b'{"offs')
    arrival = resume(tmp_path)
    assert arrival.offset == 0
    arrival.close()

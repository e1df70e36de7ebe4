"""Zips that are unpacked while they arrive, in pieces of any size."""

import io
import os
import struct
import zipfile
import zlib
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.archive import zip_entries
from app.archive.arrival import Arrival
from app.archive.headers import header_is_known
from app.archive.limits import ArchiveError, Limits
from app.archive.reader import Archive
from app.formats.files import ModelFile

NOISE = os.urandom(3_000_000)
MEMBERS = {"m/base.bin": NOISE, "m/empty": b"", "m/zeros.bin": bytes(2_500_000), "m/a.txt": b"a"}


class Unseekable(io.BytesIO):
    """What a zip is piped into: its writer can't go back and so adds data descriptors."""

    def seekable(self) -> bool:
        return False

    def seek(self, *_: object) -> int:
        raise io.UnsupportedOperation

    def tell(self) -> int:
        raise io.UnsupportedOperation


def zipped(method: int, *, piped: bool = False) -> bytes:
    file = Unseekable() if piped else io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in MEMBERS.items():
            with archive.open(name, "w", force_zip64=piped) as entry:
                entry.write(content)
    return file.getvalue()


def arrive(folder: Path, content: bytes, block: int, limits: Limits | None = None) -> Archive:
    limits = limits or Limits()
    with Arrival(folder, limits, lambda size: None) as arrival:
        for at in range(0, len(content), block):
            arrival.write(content[at : at + block])
    return arrival.archive()


@pytest.mark.parametrize("block", [1, 1021, 65_536, 10**8])
@pytest.mark.parametrize(
    ("method", "piped"),
    [
        (zipfile.ZIP_STORED, False),
        (zipfile.ZIP_DEFLATED, False),
        (zipfile.ZIP_DEFLATED, True),
    ],
    ids=["stored", "deflated", "deflated through a pipe"],
)
def test_every_entry_is_unpacked_on_its_way(
    tmp_path: Path, method: int, piped: bool, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if block == 1:
        small = {name: content[:900] for name, content in MEMBERS.items()}
        monkeypatch.setattr("tests.test_arrival.MEMBERS", small)
    content = zipped(method, piped=piped)
    with arrive(tmp_path, content, block) as archive:
        for entry in archive.entries:
            expected = MEMBERS["m/" + entry.name]
            assert archive.unpacked(entry) or not expected
            with archive.open(entry) as file:
                assert file.read() == expected
            assert archive.digest(entry) == sha256(expected).hexdigest()
    assert (tmp_path / "upload").stat().st_size == len(content)
    if block > 1:
        assert (tmp_path / "upload").stat().st_blocks * 512 < 200_000


def test_stored_through_a_pipe_is_kept_and_extracted_afterwards(tmp_path: Path) -> None:
    with arrive(tmp_path, zipped(zipfile.ZIP_STORED, piped=True), 65_536) as archive:
        for entry in archive.entries:
            assert archive.unpacked(entry) is None
            assert archive.digest(entry) == sha256(MEMBERS["m/" + entry.name]).hexdigest()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("at", [500, 1_500_000])
def test_a_changed_byte_is_found(tmp_path: Path, method: int, at: int) -> None:
    content = bytearray(zipped(method))
    content[at] ^= 0x55
    with pytest.raises(ArchiveError, match=r"'m/base.bin' is damaged"):
        arrive(tmp_path, bytes(content), 65_536)


WHOLE = zipped(zipfile.ZIP_DEFLATED)


@settings(deadline=None)
@given(cut=st.integers(1, 900))
def test_a_zip_that_is_cut_off_is_no_zip(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    with pytest.raises(ArchiveError):
        arrive(tmp_path_factory.mktemp("cut"), WHOLE[:-cut], 4096)


def test_an_entry_without_a_size_is_no_way_round_the_ratio(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zip_entries, "UNSTATED_BYTES", 1_000_000)
    limits = Limits(ratio=10, ratio_from=1_000_000)
    with pytest.raises(ArchiveError, match=r"'m/zeros.bin' claims"):
        arrive(tmp_path, zipped(zipfile.ZIP_DEFLATED, piped=True), 4096, limits)
    written = max(path.stat().st_size for path in tmp_path.glob("entry-[1-9]"))
    assert written <= 2 * 2**20


def test_more_entries_than_are_taken_are_not_unpacked(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="the limit is 2"):
        arrive(tmp_path, zipped(zipfile.ZIP_STORED), 65_536, Limits(entries=2))
    assert [path.name for path in tmp_path.glob("entry-*")] == ["entry-0"]


class Gone(Exception):
    """Nothing that anybody foresaw."""


@pytest.mark.parametrize("error", [Gone, MemoryError, SystemExit, KeyboardInterrupt])
def test_whatever_the_writing_thread_raises_ends_the_upload(
    tmp_path: Path, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: object, piece: bytes) -> None:
        raise error

    monkeypatch.setattr("app.archive.writing.HashedFile.write", fail)
    with (
        pytest.raises(error),
        Arrival(tmp_path, Limits(), lambda size: None) as arrival,
    ):
        content = zipped(zipfile.ZIP_STORED)
        for at in range(0, len(content), 65_536):
            arrival.write(content[at : at + 65_536])


def entry(name: str, content: bytes, *, flags: int = 0, method: int = 0) -> bytes:
    """A stored entry by hand."""
    sizes = (zlib.crc32(content), len(content), len(content))
    head = struct.pack("<4s5H3L2H", b"PK\3\4", 20, flags, method, 0, 0, *sizes, len(name), 0)
    return head + name.encode() + content


BROKEN = struct.pack("<4sIQQ", b"GGUF", 9, 1, 0) + bytes(9_000_000)
TOO_LONG = struct.pack("<Q", 2**40) + bytes(9_000_000)
LFS = b"version https://git-lfs.github.com/spec/v1\n" + bytes(9_000_000)
SMALL = entry("m/a.txt", b"x" * 300)
EARLY = {
    "traversal": (SMALL + entry("../x", NOISE), "points out of its folder"),
    "encryption": (SMALL + entry("m/x", NOISE, flags=1), "is encrypted"),
    "another method": (SMALL + entry("m/x", NOISE, method=12), "is compressed with bzip2"),
    "a name twice": (SMALL + entry("m/a.txt", NOISE), "is in the archive twice"),
    "the service's own name": (SMALL + entry(".merged/x", NOISE), "one of the service's own"),
    "a GGUF of the future": (SMALL + entry("m/b.gguf", BROKEN), "m/b.gguf is GGUF version 9"),
    "a pointer": (SMALL + entry("m/b.gguf", LFS), "isn't a GGUF file but a Git LFS pointer"),
    "no safetensors": (SMALL + entry("m/b.safetensors", TOO_LONG), "isn't a safetensors file"),
    "a bomb": (
        SMALL
        + struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 8, 0, 0, 0, 9000, 2**31, 3, 0)
        + b"m/x"
        + NOISE,
        "claims 2147483648 bytes",
    ),
}


@pytest.mark.parametrize("name", EARLY)
def test_refused_at_the_first_bytes_that_tell(tmp_path: Path, name: str) -> None:
    content, message = EARLY[name]
    arrival = Arrival(tmp_path, Limits(), lambda size: None, on_file=header_is_known)
    sent = 0
    with pytest.raises(ArchiveError, match=message):
        for at in range(0, len(content), 16_384):
            sent += 16_384
            arrival.write(content[at : at + 16_384])
    arrival.close()
    assert sent < 100_000


def test_a_file_is_looked_at_until_its_header_is_there(tmp_path: Path) -> None:
    """At four times as many bytes each time, and once more when it is whole."""
    looks = []

    def look(file: ModelFile) -> bool:
        with file.open() as stream:
            looks.append((file.name, file.size, len(stream.read())))
        return looks[-1][2] > 1_000_000

    arrival = Arrival(tmp_path, Limits(), lambda size: None, on_file=look)
    for content in (SMALL, entry("b.bin", NOISE)):
        for at in range(0, len(content), 8_192):
            arrival.write(content[at : at + 8_192])
    arrival.close()
    assert [look[:2] for look in looks] == [("m/a.txt", 300)] + [("b.bin", 3_000_000)] * 3
    expected = [300, 2**16, 2**18, 2**20]
    come = [come for _, _, come in looks]
    assert all(0 <= here - least < 9_000 for here, least in zip(come, expected, strict=True))


def test_what_a_look_raises_ends_the_upload(tmp_path: Path) -> None:
    def look(file: ModelFile) -> bool:
        raise Gone

    arrival = Arrival(tmp_path, Limits(), lambda size: None, on_file=look)
    for _ in range(2):
        with pytest.raises(Gone):
            arrival.write(zipped(zipfile.ZIP_DEFLATED))
    arrival.close()

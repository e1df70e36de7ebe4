"""The zip reader: what it refuses and why, and that the rest comes out as unzip has it."""

import hashlib
import io
import os
import stat
import struct
import subprocess
import tempfile
import threading
import tracemalloc
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

import inflate64
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from app.archive import zip_headers, zip_records
from app.archive.arrival import Arrival
from app.archive.limits import ArchiveError, Limits
from app.archive.reader import Archive, Entry, ZipArchive
from tests.conftest import require_program
from tests.zip_defects import (
    DEFECTS,
    END,
    OTHER_KINDS,
    TEXT,
    central,
    field,
    good,
    made,
    unicode_path,
    zip64_end,
)  # fmt: skip


def contents(path: Path, limits: Limits | None = None) -> dict[str, bytes]:
    with ZipArchive(path, limits) as archive:
        return {entry.name: b"".join(archive.chunks(entry)) for entry in archive.entries}


def read(archive: Archive, entry: Entry) -> bytes:
    with archive.open(entry) as file:
        return file.read()


def arrived(folder: Path, content: bytes) -> dict[str, bytes]:
    with Arrival(folder, Limits(), lambda size: None) as arrival:
        for at in range(0, len(content), 4096):
            arrival.write(content[at : at + 4096])
    with arrival.archive() as archive:
        return {entry.name: read(archive, entry) for entry in archive.entries}


EARLIER = {
    "sizes disagree": "'a.txt' is larger than the archive says. Zip it again.",
    "checksums disagree": (
        "'a.txt' is damaged: its checksum doesn't agree. Zip and upload it again."
    ),
    "methods disagree": "'a.txt' has two sizes in the archive. Zip it again.",
} | dict.fromkeys(
    ("data before", "data before, offsets unchanged", "no local header"),
    "The uploaded file is not a zip archive, nor a tar, a GGUF or a safetensors file.",
)


@pytest.mark.parametrize("name", DEFECTS)
def test_defects(tmp_path: Path, name: str) -> None:
    build, message = DEFECTS[name]
    path = tmp_path / "defect.zip"
    path.write_bytes(build())
    with pytest.raises(ArchiveError) as refusal:
        contents(path)
    assert str(refusal.value) == message


@pytest.mark.parametrize("name", DEFECTS)
def test_defects_are_refused_as_they_arrive(tmp_path: Path, name: str) -> None:
    """In the same words, but where an earlier byte tells another thing that is wrong."""
    build, message = DEFECTS[name]
    with pytest.raises(ArchiveError) as refusal:
        arrived(tmp_path, build())
    assert str(refusal.value) == EARLIER.get(name, message)


@pytest.mark.parametrize("name", OTHER_KINDS)
def test_another_kind_of_file_is_refused_by_its_first_block(tmp_path: Path, name: str) -> None:
    content, message = OTHER_KINDS[name]
    arrival = Arrival(tmp_path, Limits(), lambda size: None)
    with pytest.raises(ArchiveError) as refusal:
        arrival.write(content.ljust(512))
    arrival.close()
    assert str(refusal.value) == message


class Pipe(io.RawIOBase):
    """A file that can't seek, so that zipfile writes data descriptors."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        written: int = self._target.write(data)
        return written


BIG = os.urandom(1000) * 3000
FILES = {"a.txt": b"hello", "sub/b.bin": BIG, "sub/empty": b""}


def by_zipfile(path: Path, *, stream: bool = False, zip64: bool = False, method: int) -> None:
    with path.open("wb") as file:
        target: Any = Pipe(file) if stream else file
        with ZipFile(target, "w", method) as archive:
            for name, content in FILES.items():
                with archive.open(ZipInfo(name), "w", force_zip64=zip64) as entry:
                    entry.write(content)
            archive.comment = b"a comment"


def by_zip(path: Path, *options: str) -> None:
    """With Debian's zip, from a folder; `-` streams to its standard output."""
    folder = path.with_suffix("")
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    require_program("zip")
    if "-" in options:
        with path.open("wb") as file:
            subprocess.run(["zip", "-qr", "-", "."], cwd=folder, stdout=file, check=True)
    else:
        subprocess.run(["zip", "-qr", *options, str(path), "."], cwd=folder, check=True)


ACCEPTED: dict[str, Callable[[Path], None]] = {
    "stored": lambda path: by_zipfile(path, method=ZIP_STORED),
    "deflated": lambda path: by_zipfile(path, method=ZIP_DEFLATED),
    "stored with data descriptors": lambda path: by_zipfile(path, stream=True, method=ZIP_STORED),
    "deflated with data descriptors": lambda path: by_zipfile(
        path, stream=True, method=ZIP_DEFLATED
    ),
    "zip64 sizes": lambda path: by_zipfile(path, zip64=True, method=ZIP_DEFLATED),
    "zip64 sizes with data descriptors": lambda path: by_zipfile(
        path, zip64=True, stream=True, method=ZIP_DEFLATED
    ),
    "Debian's zip": lambda path: by_zip(path),
    "Debian's zip, stored": lambda path: by_zip(path, "-0"),
    "Debian's zip to a pipe": lambda path: by_zip(path, "-"),
    "Debian's zip with zip64": lambda path: by_zip(path, "-fz"),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted_comes_out_as_unzip_has_it(tmp_path: Path, name: str) -> None:
    path = tmp_path / "good.zip"
    ACCEPTED[name](path)
    ours = contents(path)
    assert ours == FILES
    require_program("unzip")
    subprocess.run(["unzip", "-q", str(path), "-d", str(tmp_path / "out")], check=True)
    theirs = {
        file.relative_to(tmp_path / "out").as_posix(): file.read_bytes()
        for file in (tmp_path / "out").rglob("*")
        if file.is_file()
    }
    assert ours == theirs


def named(raw: bytes, *, flags: int = 0, system: int = 3, extra: bytes = b"") -> bytes:
    """A zip with one file whose name are those bytes."""
    placeholder = "x" * len(raw)
    entry = ZipInfo(placeholder)
    entry.create_system, entry.extra = system, extra
    buffer = io.BytesIO()
    with ZipFile(buffer, "w") as archive:
        archive.writestr(entry, b"content")
    data = bytearray(buffer.getvalue().replace(placeholder.encode(), raw))
    for mark, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        struct.pack_into("<H", data, data.index(mark) + offset, flags)
    return bytes(data)


NAMES = {
    "UTF-8, flagged": (named("模型".encode(), flags=2048, system=0), "模型"),
    "UTF-8 from Unix, not flagged": (named("模型".encode()), "模型"),
    "CP437 from DOS": (named(b"\x81.txt", system=0), "ü.txt"),
    "CP437 from Unix": (named(b"\x81.txt"), "ü.txt"),
    "Info-ZIP's Unicode path": (
        named(b"?.txt", system=0, extra=unicode_path(b"?.txt", "模.txt")),
        "模.txt",
    ),
    "Info-ZIP's Unicode path of a name in a code page": (
        named(b"\x82.txt", system=0, extra=unicode_path(b"\x82.txt", "é.txt")),
        "é.txt",
    ),
    "UTF-8 from Windows, not flagged": (named("模型".encode(), system=0), "模型"),
    "Shift JIS, with a letter that ends like a backslash": (
        named("表.txt".encode("shift_jis"), system=0),
        "ò\uff3c.txt",
    ),
    "GBK": (named("模型.txt".encode("gbk"), system=0), "─ú╨═.txt"),
    "no code page at all": (named(b"\xff\xfe\x80.txt", system=0), "\xa0■Ç.txt"),
    "backslashes": (named(b"m\\sub\\a.txt", system=0), "sub/a.txt"),
    "a Unicode path of another name": (
        named(b"a.txt", system=0, extra=unicode_path(b"b.txt", "模.txt")),
        "a.txt",
    ),
}


@pytest.mark.parametrize("name", NAMES)
def test_names(tmp_path: Path, name: str) -> None:
    data, expected = NAMES[name]
    (tmp_path / "named.zip").write_bytes(data)
    assert list(contents(tmp_path / "named.zip")) == [expected]


LAYOUTS = {
    "flat": (["a", "b"], ["a", "b"]),
    "one top folder": (["m/a", "m/sub/b"], ["a", "sub/b"]),
    "one top folder with junk beside it": (
        ["m/a", "__MACOSX/m/._a", ".DS_Store", "m/Thumbs.db"],
        ["a"],
    ),
    "two top folders": (["m/a", "n/b"], ["m/a", "n/b"]),
    "a file beside the folder": (["m/a", "b"], ["m/a", "b"]),
    "backslashes": (["m\\a", "m\\sub\\b"], ["a", "sub/b"]),
    "backslashes, without a folder": (["a", "sub\\b"], ["a", "sub/b"]),
    "only one level is stripped": (["m/n/a"], ["n/a"]),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(tmp_path: Path, name: str) -> None:
    names, expected = LAYOUTS[name]
    (tmp_path / "m.zip").write_bytes(good(*names))
    assert list(contents(tmp_path / "m.zip")) == expected


def test_all_sizes_in_the_zip64_extra_as_go_writes_them(tmp_path: Path) -> None:
    sizes = struct.pack("<QQQ", len(TEXT), len(TEXT), 0)
    content = made(local_extra=field(1, sizes[:16]), extra=field(1, sizes), size=2**32 - 1)
    (tmp_path / "m.zip").write_bytes(content)
    assert contents(tmp_path / "m.zip") == arrived(tmp_path, content) == {"a.txt": TEXT}


@pytest.mark.parametrize("piped", [False, True])
def test_deflate64(tmp_path: Path, piped: bool) -> None:
    """As Windows Explorer packs what is larger than 2 GB; 7-Zip, too, to a pipe."""
    content = os.urandom(300_000) + bytes(3_000_000) + b"end" * 100_000
    deflater = inflate64.Deflater()
    packed = deflater.deflate(content) + deflater.flush()
    zipped = by_hand([("m/a.bin", 9, content, packed)], piped=piped)
    (tmp_path / "m.zip").write_bytes(zipped)
    assert contents(tmp_path / "m.zip") == arrived(tmp_path, zipped) == {"a.bin": content}
    damaged = bytearray(zipped)
    damaged[100_000] ^= 1
    (tmp_path / "damaged").mkdir()
    with pytest.raises(ArchiveError, match=r"a\.bin' is damaged"):
        arrived(tmp_path / "damaged", bytes(damaged))


FINDER = [
    ("Model/", 0, b""),
    ("Model/base.bin", 8, os.urandom(200_000)),
    ("__MACOSX/Model/._base.bin", 8, b"x" * 80),
    ("Model/a.txt", 8, b"hello"),
]


def by_finder(entries: Sequence[tuple[str, int, bytes]] = FINDER, method: int = 8) -> bytes:
    """As macOS's Finder packs: to a pipe, and beyond 4 GB (here 64 kB) with sizes cut off."""
    packed = []
    for name, kind, content in entries:
        deflated = zlib.compressobj(wbits=-15)
        body = deflated.compress(content) + deflated.flush() if kind and method else content
        packed.append((name, min(kind, method), content, body))
    return by_hand(packed, piped=True, wrap=2**16)


def wrap_at_64_kib(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (zip_headers, zip_records):
        monkeypatch.setattr(module, "WRAP", 2**16)


def test_finder_beyond_4_gb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrap_at_64_kib(monkeypatch)
    assert arrived(tmp_path, by_finder()) == {"base.bin": FINDER[1][2], "a.txt": b"hello"}


FINDER_DEFECTS = {
    "stored": lambda: by_finder(method=0),
    "a wrong size": lambda: central(24, "L", 77, data=by_finder()),
    "a wrong offset": lambda: central(42, "L", 77, data=by_finder()),
}


@pytest.mark.parametrize("name", FINDER_DEFECTS)
def test_finder_where_it_can_t_be_told(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrap_at_64_kib(monkeypatch)
    with pytest.raises(ArchiveError, match=r"as macOS's Finder does.*`zip -r model.zip model`"):
        arrived(tmp_path, FINDER_DEFECTS[name]())


def by_hand(
    entries: Sequence[tuple[str, int, bytes, bytes]], *, piped: bool, wrap: int = 2**32
) -> bytes:
    """A zip of (name, method, content, compressed content), written to a pipe or not."""
    out, directory = b"", b""
    for name, method, content, packed in entries:
        flags = 8 if piped and content else 0
        sizes = (zlib.crc32(content), len(packed) % wrap, len(content) % wrap)
        head = (20, flags, method, 0, 0x21)
        stated = (0, 0, 0) if flags else sizes
        mode = (stat.S_IFDIR if name.endswith("/") else stat.S_IFREG) << 16
        directory += struct.pack(
            "<4sH5H3L5H2L", b"PK\1\2", 0x315, *head, *sizes, len(name), 0, 0, 0, 0, mode,
            len(out) % wrap,
        ) + name.encode()  # fmt: skip
        out += struct.pack("<4s5H3L2H", b"PK\3\4", *head, *stated, len(name), 0) + name.encode()
        out += packed + (struct.pack("<4s3L", b"PK\7\x08", *sizes) if flags else b"")
    count = len(entries)
    end = (0, 0, count, count, len(directory), len(out) % wrap, 0)
    return out + directory + struct.pack("<4s4H2LH", END, *end)


def test_a_zip64_end_record_that_agrees(tmp_path: Path) -> None:
    (tmp_path / "m.zip").write_bytes(zip64_end(good()))
    assert list(contents(tmp_path / "m.zip")) == ["a.txt"]


def test_an_entry_over_4_gib(tmp_path: Path) -> None:
    """A sparse file: its size is all that is large."""
    path, size = tmp_path / "large.zip", 2**32 + 5
    with path.open("wb") as file, ZipFile(file, "w") as archive:
        archive.writestr("small", b"before")
    data = path.read_bytes()
    header_end = 30 + len("small") + 6
    local = data[:header_end]
    name, extra = b"large", struct.pack("<HHQQ", 1, 16, size, size)
    limit = 2**32 - 1
    large_local = struct.pack(
        "<4s5HL2L2H", b"PK\3\4", 45, 0, 0, 0, 0, 0, limit, limit, len(name), len(extra)
    )
    start = data.index(b"PK\1\2")
    directory = data[start : data.rindex(END)] + struct.pack(
        "<4s4B4HL2L5H2L", b"PK\1\2", 45, 3, 45, 0, 0, 0, 0, 0, 0, limit, limit,
        *(len(name), len(extra), 0, 0, 0, 0, len(local)),
    ) + name + extra  # fmt: skip
    with path.open("wb") as file:
        file.write(local + large_local + name + extra)
        file.seek(size, os.SEEK_CUR)
        at = file.tell()
        file.write(directory)
        end64 = file.tell()
        file.write(
            struct.pack("<4sQHHLLQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, 2, 2, len(directory), at)
        )
        file.write(struct.pack("<4sLQL", b"PK\6\7", 0, end64, 1))
        file.write(struct.pack("<4s4H2LH", END, 0, 0, 2, 2, len(directory), limit, 0))
    with ZipArchive(path) as archive:
        assert [(entry.name, entry.size) for entry in archive.entries] == [
            ("small", 6),
            ("large", size),
        ]
        assert archive.total_size == size + 6
        assert next(archive.chunks(archive.entries[1])) == bytes(2**20)


def test_an_end_record_that_claims_a_million_entries_costs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "many.zip"
    data = zip64_end(good(), entries=10**6)
    at = data.rindex(END)
    path.write_bytes(data[: at + 8] + b"\xff" * 4 + data[at + 12 :])
    tracemalloc.start()
    try:
        with pytest.raises(ArchiveError, match="has 1000000 entries; the limit is 10000"):
            contents(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_more_entries_than_the_setting_allows(tmp_path: Path) -> None:
    (tmp_path / "m.zip").write_bytes(good("a", "b", "c"))
    with pytest.raises(ArchiveError, match="has 3 entries; the limit is 2"):
        contents(tmp_path / "m.zip", Limits(entries=2))


def test_entries_can_be_read_at_once_and_left_early(tmp_path: Path) -> None:
    by_zipfile(tmp_path / "m.zip", method=ZIP_DEFLATED)
    results = []
    with ZipArchive(tmp_path / "m.zip") as archive:
        entry = archive.entries[1]
        with archive.open(entry) as stream:
            assert stream.read(1000) == BIG[:1000]

        def read() -> None:
            digest = hashlib.sha256()
            for chunk in archive.chunks(entry):
                digest.update(chunk)
            results.append(digest.digest())

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == [hashlib.sha256(BIG).digest()] * 4


PARTS = st.sampled_from(["..", ".", "", "a", "B", "b", "C:", "\\", "~", " ", "\0", "é"]) | st.text()
ENTRY_NAMES = st.lists(PARTS, min_size=1, max_size=5).map(
    lambda parts: "/".join(parts).encode(errors="replace").decode()
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(ENTRY_NAMES, min_size=1, max_size=4, unique=True))
@example(["../../x"])
@example(["a/../../../x"])
@example(["/x"])
def test_nothing_is_ever_outside(names: list[str]) -> None:
    buffer = io.BytesIO()
    with ZipFile(buffer, "w") as archive:
        for name in names:
            entry = ZipInfo("x")
            entry.filename = name
            try:
                archive.writestr(entry, b"")
            except (UnicodeError, struct.error):
                return
    with tempfile.TemporaryDirectory() as name:
        folder, target = Path(name), Path(name, "target")
        (folder / "m.zip").write_bytes(buffer.getvalue())
        target.mkdir()
        with suppress(ArchiveError), ZipArchive(folder / "m.zip") as opened:
            for entry in opened.entries:
                path = target / entry.name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"".join(opened.chunks(entry)))
                assert path.resolve().is_relative_to(target.resolve())
        assert sorted(path.name for path in folder.iterdir()) == ["m.zip", "target"]

"""Tars that are unpacked as they arrive: what comes out, and what is refused."""

import gzip
import io
import os
import stat
import subprocess
import tarfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from app.archive import tar
from app.archive.arrival import Arrival
from app.archive.decoder import BLOCK
from app.archive.limits import ArchiveError, Limits
from app.archive.tar import zstd
from app.formats import magic
from tests.conftest import require_program
from tests.gguf_files import write_base

FILES = {"a.txt": b"hello", "sub/b.bin": os.urandom(1000) * 900, "sub/empty": b""}


def tarred(members: Mapping[str, bytes], compression: str = "", **options: object) -> bytes:
    """A tar with a file of each name, as Python writes it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{compression}", **options) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            archive.addfile(info(name, len(content)), io.BytesIO(content))
    return buffer.getvalue()


def zstandard(content: bytes) -> bytes:
    compressed: bytes = zstd.compress(content)
    return compressed


def info(name: str, size: int = 0, **fields: object) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size = size
    for key, value in fields.items():
        setattr(entry, key, value)
    return entry


def made(*entries: tuple[tarfile.TarInfo, bytes], pax: Mapping[str, str] | None = None) -> bytes:
    """A tar of those headers and contents; `pax` are global records."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", pax_headers=pax) as archive:
        for entry, content in entries:
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def arrived(
    folder: Path, content: bytes, block: int = 65_536, limits: Limits | None = None, name: str = ""
) -> dict[str, bytes]:
    """The files that the upload becomes, by name."""
    with Arrival(folder, limits or Limits(), lambda size: None, filename=name) as arrival:
        for at in range(0, len(content), block):
            arrival.write(content[at : at + block])
    found = {}
    with arrival.archive() as archive:
        for entry in archive.entries:
            with archive.open(entry) as file:
                found[entry.name] = file.read()
    return found


def by_tar(*options: str) -> Callable[[Path], bytes]:
    """With GNU tar, from a folder, to its standard output."""

    def make(folder: Path) -> bytes:
        for name, content in FILES.items():
            (folder / "m" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "m" / name).write_bytes(content)
        require_program("tar")
        command = ["tar", "-C", str(folder), "-c", *options]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout

    return make


IN_FOLDER = {f"m/{name}": content for name, content in FILES.items()}
ACCEPTED: dict[str, Callable[[Path], bytes]] = {
    "GNU tar": by_tar("m"),
    "GNU tar of the folder itself": by_tar("-C", "m", "."),
    "GNU tar, pax": by_tar("--format=pax", "m"),
    "GNU tar, ustar": by_tar("--format=ustar", "m"),
    "GNU tar, v7": by_tar("--format=v7", "m"),
    "GNU tar, gzip": by_tar("-z", "m"),
    "GNU tar, Zstandard": lambda folder: zstandard(by_tar("m")(folder)),
    "Python's, GNU": lambda folder: tarred(IN_FOLDER, format=tarfile.GNU_FORMAT),
    "Python's, pax, gzip": lambda folder: tarred(IN_FOLDER, "gz"),
    "gzip of several members": lambda folder: (
        gzip.compress(tarred(IN_FOLDER)[:5000]) + gzip.compress(tarred(IN_FOLDER)[5000:])
    ),
    "gzip with padding": lambda folder: gzip.compress(tarred(IN_FOLDER)) + bytes(1000),
    "Zstandard of several frames": lambda folder: (
        zstandard(tarred(IN_FOLDER)[:5000]) + zstandard(tarred(IN_FOLDER)[5000:])
    ),
    "junk beside it": lambda folder: tarred(
        {**IN_FOLDER, "m/._a.txt": b"x", ".DS_Store": b"y", "m/sub/desktop.ini": b""}
    ),
    "a global comment, as git archive writes it": lambda folder: made(
        *((info(name, len(content)), content) for name, content in IN_FOLDER.items()),
        pax={"comment": "0123"},
    ),
}


@pytest.mark.parametrize("block", [511, 10**8])
@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(tmp_path: Path, name: str, block: int) -> None:
    content = ACCEPTED[name](tmp_path)
    assert arrived(tmp_path, content, block) == FILES
    assert (
        not (tmp_path / "upload").stat().st_size
        or b"hello" not in (tmp_path / "upload").read_bytes()
    )


def test_names(tmp_path: Path) -> None:
    long = "x" * 120 + "/" + "y" * 200
    latin = info("caf\udce9.txt", 1)
    for number, form in enumerate((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)):
        (tmp_path / str(number)).mkdir()
        content = tarred({long: b"1", "模型": b"2"}, format=form)
        assert list(arrived(tmp_path / str(number), content)) == [long, "模型"]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        archive.addfile(latin, io.BytesIO(b"1"))
    (tmp_path / "latin").mkdir()
    assert list(arrived(tmp_path / "latin", buffer.getvalue())) == ["cafΘ.txt"]


def header(name: str, size: int, kind: bytes, content: bytes = b"") -> bytes:
    """One header block with what follows it, filled up."""
    entry = info(name, size, type=kind)
    return entry.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % 512)


def pax(*records: tuple[str, str], kind: bytes = tarfile.XHDTYPE) -> bytes:
    content = b""
    for key, value in records:
        rest = f" {key}={value}\n".encode()
        length = len(rest) + 1
        while len(str(length)) + len(rest) != length:
            length = len(str(length)) + len(rest)
        content += str(length).encode() + rest
    return header("x", len(content), kind, content)


END = bytes(1024)
FILE = header("a", 1, tarfile.REGTYPE, b"a")
PACK = "Pack only files and folders, for example with `tar -ch --hard-dereference`."
TWO_WAYS = "is described in two ways by the archive. Pack it again."
DEFECTS: dict[str, tuple[bytes, str]] = {
    "absolute path": (
        tarred({"/etc/a": b""}),
        "The name '/etc/a' in the archive is an absolute path.",
    ),
    "dots": (
        tarred({"a/../../b": b""}),
        "The name 'a/../../b' in the archive points out of its folder.",
    ),
    "dots behind a dot": (
        tarred({"./../b": b""}),
        "The name '../b' in the archive points out of its folder.",
    ),
    "dots in a pax path": (
        pax(("path", "../b")) + FILE + END,
        "The name '../b' in the archive points out of its folder.",
    ),
    "the service's own": (
        tarred({"m/.Merged/x": b""}),
        "The name 'm/.Merged/x' in the archive is one of the service's own; zip the model's files"
        " without it.",
    ),
    "a line end in a pax path": (
        pax(("path", "a\nb")) + FILE + END,
        "The name 'a\\nb' in the archive has a control character.",
    ),
    "a name twice": (FILE + FILE + END, "'a' is in the archive twice. Zip it again."),
    "symbolic link": (
        made((info("a", type=tarfile.SYMTYPE, linkname="/etc/passwd"), b"")),
        f"'a' is a symbolic link. {PACK}",
    ),
    "hard link": (
        made((info("a", type=tarfile.LNKTYPE, linkname="b"), b"")),
        f"'a' is a hard link. {PACK}",
    ),
    "device": (
        made((info("a", type=tarfile.CHRTYPE), b"")),
        f"'a' is a device or another special file. {PACK}",
    ),
    "pipe": (
        made((info("a", type=tarfile.FIFOTYPE), b"")),
        f"'a' is a device or another special file. {PACK}",
    ),
    "sparse file": (
        header("a", 0, tarfile.GNUTYPE_SPARSE) + END,
        f"'a' is a sparse file. {PACK}",
    ),
    "sparse file by pax": (
        pax(("GNU.sparse.realsize", "9")) + FILE + END,
        "The archive has a sparse file. Pack it without --sparse.",
    ),
    "an unknown kind": (
        header("a", 0, b"Q") + END,
        f"'a' is a device or another special file. {PACK}",
    ),
    "setuid": (
        made((info("a", mode=stat.S_ISUID | 0o755), b"")),
        "'a' has a setuid or setgid bit. Pack it without.",
    ),
    "a folder with content": (
        header("a", 1, tarfile.DIRTYPE, b"x") + END,
        "'a/' is a folder with content. Pack it again.",
    ),
    "another size by pax": (
        pax(("size", "600")) + header("a", 1, tarfile.REGTYPE, bytes(600)) + END,
        f"'a' {TWO_WAYS}",
    ),
    "no number as size": (pax(("size", "-1")) + FILE + END, f"'a' {TWO_WAYS}"),
    "another name by GNU's header": (
        header("x", 2, tarfile.GNUTYPE_LONGNAME, b"b\0") + pax(("path", "c")) + FILE + END,
        f"'b' {TWO_WAYS}",
    ),
    "two names by pax": (pax(("path", "b"), ("path", "c")) + FILE + END, f"'path' {TWO_WAYS}"),
    "two pax headers": (pax(("path", "b")) + pax(("path", "c")) + FILE + END, f"'path' {TWO_WAYS}"),
    "a name for all": (
        pax(("path", "b"), kind=tarfile.XGLTYPE) + FILE + END,
        f"'path' {TWO_WAYS}",
    ),
    "a damaged pax header": (
        header("x", 9, tarfile.XHDTYPE, b"99 path=b") + FILE + END,
        "The archive has a damaged pax header. Pack it again.",
    ),
    "a pax header without end": (
        header("x", 2**30, tarfile.XHDTYPE) + FILE + END,
        "The archive has a header that is too long. Pack it again.",
    ),
    "wrong checksum": (
        FILE + FILE.replace(b"0000644", b"0000755", 1),
        "The archive is damaged. Pack and upload it again.",
    ),
    "other data after its end": (
        FILE + END + b"x" * 512,
        "The archive has other data after its end. Pack the files again.",
    ),
    "one block of zeros between": (
        FILE + bytes(512) + header("b", 0, tarfile.REGTYPE) + END,
        "The archive has other data after its end. Pack the files again.",
    ),
    "cut off in its content": (
        header("a", 5000, tarfile.REGTYPE, b"x" * 600),
        "The archive is cut off: its end is missing. Upload it again.",
    ),
    "cut off between entries": (
        FILE,
        "The archive is cut off: its end is missing. Upload it again.",
    ),
    "gzip, cut off": (
        tarred({"a": os.urandom(9000)}, "gz")[:-20],
        "The archive is cut off: its end is missing. Upload it again.",
    ),
    "gzip, damaged": (
        gzip.compress(FILE + END)[:-8] + bytes(8),
        "The archive is damaged. Pack and upload it again.",
    ),
    "Zstandard, cut off": (
        zstandard(tarred({"a": os.urandom(9000)}))[:-20],
        "The archive is cut off: its end is missing. Upload it again.",
    ),
    "gzip of no tar": (
        gzip.compress(b"hello" * 500),
        "What is compressed in the uploaded file is not a tar. Unpack it first.",
    ),
    "nothing in it": (END * 10, "The archive holds no files."),
    "only folders": (made((info("a", type=tarfile.DIRTYPE), b"")), "The archive holds no files."),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_defects(tmp_path: Path, name: str) -> None:
    content, message = DEFECTS[name]
    with pytest.raises(ArchiveError) as refusal:
        arrived(tmp_path, content, 700)
    assert str(refusal.value) == message


@pytest.mark.parametrize("compress", [gzip.compress, zstandard], ids=["gzip", "Zstandard"])
def test_a_bomb_costs_little(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    limits = Limits(ratio_from=2**20)
    content = compress(tarred({"a": bytes(40 * 2**20)}))
    with pytest.raises(ArchiveError, match="The archive claims"):
        arrived(tmp_path, content, limits=limits)
    most = max(limits.ratio_from, limits.ratio * len(content)) + BLOCK
    assert (tmp_path / "entry-0").stat().st_size <= most < 10 * 2**20


def test_more_entries_than_are_taken(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="has 3 entries; the limit is 2"):
        arrived(tmp_path, tarred({"a": b"", "b": b"", "c": b""}), limits=Limits(entries=2))


def test_a_single_file_is_an_archive_of_one(tmp_path: Path) -> None:
    content = write_base(tmp_path / "base.gguf").read_bytes()
    assert arrived(tmp_path, content, name="My base.GGUF") == {"My base.GGUF": content}


def test_what_follows_short_gzip_members_is_not_copied_for_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """4 MB of 200,000 members took 6 s."""
    fed: list[int] = []

    class Watched:
        def __init__(self) -> None:
            self._decoder = zlib.decompressobj(31)

        def decompress(self, block: bytes, most: int) -> bytes:
            fed.append(len(block))
            return self._decoder.decompress(block, most)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._decoder, name)

    monkeypatch.setattr(tar._Decompressed, "_new", lambda self: Watched())
    members = gzip.compress(b"x") * 5000
    assert b"".join(tar._Decompressed(magic.GZIP).feed(members)) == b"x" * 5000
    assert max(fed) <= 2**15 < len(members)

"""Zip files from strangers: checked whole before anything is extracted, counted while it is."""

import hashlib
import io
import os
import re
import stat
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from app.archive.content import BLOCK, DEFLATED, STORED, Content, Limits, Unpacked, check_ratio
from app.archive.zip_records import ArchiveError, Record, RecordReader

__all__ = ["Archive", "ArchiveError", "Entry", "Limits"]

_METHODS = {1: "shrink", 6: "implode", 9: "Deflate64", 12: "bzip2", 14: "LZMA"} | {
    **{20: "Zstandard", 93: "Zstandard", 95: "xz", 98: "PPMd", 99: "AES encryption"}
}
_JUNK_FOLDERS = ("__MACOSX",)
_JUNK_FILES = (".DS_Store", "Thumbs.db", "desktop.ini", ".model-handler.json")
_DRIVE = re.compile(r"[A-Za-z]:")


@dataclass(frozen=True)
class Entry:
    """A file in the archive; `name` is its path below the model's folder, safe to join."""

    name: str
    size: int
    record: Record


class Archive:
    """A zip file on disk, open for reading.

    Opening it raises ArchiveError unless everything that can be known without decompressing is
    right. `entries` are its files, without what operating systems add and without the one folder
    that they may all be in. `total_size` is the sum of their sizes in bytes. `unpacked` are the
    contents that aren't in the file any more, by where in it their data would begin.
    """

    def __init__(
        self,
        path: Path,
        limits: Limits | None = None,
        unpacked: Mapping[int, Unpacked] | None = None,
    ) -> None:
        self._unpacked = unpacked or {}
        self._descriptor = os.open(path, os.O_RDONLY)
        try:
            limits = limits or Limits()
            records = RecordReader(self._descriptor).records(limits.entries)
            _check_names(records, limits)
            for record in records:
                _check_content(record, limits)
                if unpacked_here := self._unpacked.get(record.data):
                    unpacked_here.content.check(record)
            self.entries = _entries(records)
        except BaseException:
            os.close(self._descriptor)
            raise
        self.total_size = sum(entry.size for entry in self.entries)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def unpacked(self, entry: Entry) -> Unpacked | None:
        """The entry's content, where it was unpacked when it arrived."""
        return self._unpacked.get(entry.record.data)

    def chunks(self, entry: Entry) -> Iterator[bytes]:
        """The entry's content in pieces of at most BLOCK bytes. Entries can be read at once.

        Raises ArchiveError as soon as there is more than its size, and at the end where there is
        less, or the checksum differs. Not for an entry that is unpacked.
        """
        content = Content(entry.name, entry.record.method, entry.size)
        for block in self._compressed(entry.record):
            yield from content.feed(block)
        content.check(entry.record)

    def digest(self, entry: Entry) -> str:
        """The sha256 (hex) of the entry's content; raises as `chunks`."""
        if unpacked := self.unpacked(entry):
            return unpacked.sha256
        digest = hashlib.sha256()
        for piece in self.chunks(entry):
            digest.update(piece)
        return digest.hexdigest()

    def open(self, entry: Entry) -> io.BufferedReader:
        """The entry's content as a stream that is read forward; all of it need not be read."""
        if unpacked := self.unpacked(entry):
            return unpacked.path.open("rb")
        return io.BufferedReader(_Stream(self.chunks(entry)), 2**16)

    def _compressed(self, record: Record) -> Iterator[bytes]:
        at, end = record.data, record.data + record.compressed_size
        while at < end:
            block = os.pread(self._descriptor, min(BLOCK, end - at), at)
            if not block:
                raise ArchiveError(f"{record.name!r} is cut off. Upload the archive again.")
            at += len(block)
            yield block


class _Stream(io.RawIOBase):
    """Pieces of bytes as a stream."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        rest = self._rest or next(self._pieces, b"")
        count = min(len(buffer), len(rest))
        buffer[:count] = rest[:count]
        self._rest = rest[count:]
        return count


def _check_content(record: Record, limits: Limits) -> None:
    kind = stat.S_IFMT(record.mode)
    is_folder = record.name.endswith("/")
    if kind == stat.S_IFIFO:
        kind = stat.S_IFREG  # what `zip` calls its standard input
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        what = {stat.S_IFLNK: "a symbolic link"}.get(kind, "a device or another special file")
        raise ArchiveError(f"{record.name!r} is {what}. Zip only files and folders.")
    if record.mode & (stat.S_ISUID | stat.S_ISGID):
        raise ArchiveError(f"{record.name!r} has a setuid or setgid bit. Zip it without.")
    if kind and (kind == stat.S_IFDIR) != is_folder:
        raise ArchiveError(f"{record.name!r} is a file and a folder at once. Zip it again.")
    if is_folder and record.size:
        raise ArchiveError(f"{record.name!r} is a folder with content. Zip it again.")
    if record.method not in (STORED, DEFLATED):
        method = _METHODS.get(record.method, f"method {record.method}")
        raise ArchiveError(
            f"{record.name!r} is compressed with {method}, which isn't taken."
            " Zip with deflate or without compression, for example with `zip -0`."
        )
    if record.method == STORED and record.compressed_size != record.size:
        raise ArchiveError(f"{record.name!r} has two sizes in the archive. Zip it again.")
    check_ratio(record.name, record.size, record.compressed_size, limits)


@dataclass
class _Name:
    """A name in a folder of the archive: as it is spelled, and what is below it (None: a file)."""

    spelling: str
    below: dict[str, "_Name"] | None
    stated: bool = False


def _check_names(records: Sequence[Record], limits: Limits) -> None:
    """Every name by itself, and against the others as any filesystem would compare them."""
    root: dict[str, _Name] = {}
    for record in records:
        *parents, last = _parts(record.name, limits)
        folder = root
        for part in parents:
            below = _enter(folder, part, record, is_file=False).below
            assert below is not None
            folder = below
        name = _enter(folder, last, record, is_file=not record.name.endswith("/"))
        if name.stated:
            raise ArchiveError(f"{record.name!r} is in the archive twice. Zip it again.")
        name.stated = True


def _enter(folder: dict[str, _Name], part: str, record: Record, *, is_file: bool) -> _Name:
    key = unicodedata.normalize("NFC", unicodedata.normalize("NFC", part).casefold())
    name = folder.setdefault(key, _Name(part, None if is_file else {}))
    if name.spelling != part:
        raise ArchiveError(
            f"{record.name!r} differs from another name of the archive only in case or in how its"
            " letters are coded. Rename one of them."
        )
    if (name.below is None) != is_file:
        raise ArchiveError(f"{record.name!r} is a file and a folder at once. Rename one of them.")
    return name


def _parts(name: str, limits: Limits) -> list[str]:
    """The components of an entry's name. Raises ArchiveError for one that could go astray."""
    if "\\" in name:
        problem = "has a backslash; zip with a tool that writes /"
    elif any(unicodedata.category(char) == "Cc" for char in name):
        problem = "has a control character"
    elif name.startswith("/") or _DRIVE.match(name):
        problem = "is an absolute path"
    else:
        parts = name.removesuffix("/").split("/")
        if ".." in parts:
            problem = "points out of its folder"
        elif "" in parts or "." in parts:
            problem = "has an empty part"
        elif len(parts) > limits.depth:
            problem = f"is more than {limits.depth} folders deep"
        elif (
            len(name.encode()) > limits.name_bytes
            or max(len(part.encode()) for part in parts) > limits.component_bytes
        ):
            problem = f"is longer than {limits.component_bytes} bytes"
            name = name[:40] + "..."
        else:
            return parts
    raise ArchiveError(f"The name {name!r} in the archive {problem}.")


def _entries(records: Sequence[Record]) -> tuple[Entry, ...]:
    files = [
        record
        for record in records
        if not record.name.endswith("/") and not _is_junk(record.name.split("/"))
    ]
    if not files:
        raise ArchiveError("The archive holds no files.")
    tops = {record.name.partition("/")[0] for record in files}
    nested = all("/" in record.name for record in files)
    strip = len(tops.pop()) + 1 if nested and len(tops) == 1 else 0
    return tuple(Entry(record.name[strip:], record.size, record) for record in files)


def _is_junk(parts: Sequence[str]) -> bool:
    return (
        any(part in _JUNK_FOLDERS for part in parts)
        or parts[-1] in _JUNK_FILES
        or parts[-1].startswith("._")
    )

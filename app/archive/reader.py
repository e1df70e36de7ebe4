"""Archives that have arrived: checked before anything in them is used, counted while it is."""

import hashlib
import io
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from app.archive.decoder import BLOCK, STORED, Decoder, Unpacked, check_method
from app.archive.limits import ArchiveError, Limits, check_ratio
from app.archive.names import Names, is_junk, without_common_folder
from app.archive.zip_records import Followed, Record, RecordReader


@dataclass(frozen=True)
class Entry:
    """A file in the archive; `name` is its path below the model's folder, safe to join, `size` in
    bytes. `unpacked` is its content, where that was unpacked when it arrived."""

    name: str
    size: int
    unpacked: Unpacked | None = None
    record: Record | None = None


class Archive:
    """The files of an archive.

    `entries` are its files, without what operating systems add and without the one folder that they
    may all be in. `total_size` is the sum of their sizes in bytes.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        """Raises ArchiveError where there are no files."""
        files = [entry for entry in entries if not is_junk(entry.name)]
        if not files:
            raise ArchiveError("The archive holds no files.")
        names = without_common_folder([entry.name for entry in files])
        self.entries = tuple(
            replace(entry, name=name) for entry, name in zip(files, names, strict=True)
        )
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
        """Close what is open."""

    def unpacked(self, entry: Entry) -> Unpacked | None:
        """The entry's content, where it was unpacked when it arrived."""
        return entry.unpacked

    def chunks(self, entry: Entry) -> Iterator[bytes]:
        """The entry's content in pieces of at most BLOCK bytes. Entries can be read at once.

        Raises ArchiveError as soon as there is more than its size, and at the end where there is
        less, or the checksum differs. Not for an entry that is unpacked.
        """
        if entry.size:
            raise ValueError("The entry is unpacked.")
        return iter(())

    def digest(self, entry: Entry) -> str:
        """The sha256 (hex) of the entry's content; raises as `chunks`."""
        if entry.unpacked:
            return entry.unpacked.sha256
        digest = hashlib.sha256()
        for piece in self.chunks(entry):
            digest.update(piece)
        return digest.hexdigest()

    def open(self, entry: Entry) -> io.BufferedReader:
        """The entry's content as a stream that is read forward; all of it need not be read."""
        if entry.unpacked:
            return entry.unpacked.path.open("rb")
        return io.BufferedReader(_Stream(self.chunks(entry)), 2**16)


class ZipArchive(Archive):
    """A zip file on disk, open for reading.

    Opening it raises ArchiveError unless everything that can be known without decompressing is
    right. `unpacked` are the contents that aren't in the file any more, by where in it their data
    would begin; `followed` the entries whose real sizes are known.
    """

    def __init__(
        self,
        path: Path,
        limits: Limits | None = None,
        unpacked: Mapping[int, Unpacked] | None = None,
        followed: Sequence[Followed] = (),
    ) -> None:
        unpacked = unpacked or {}
        self._descriptor = os.open(path, os.O_RDONLY)
        try:
            limits = limits or Limits()
            names = Names(limits)
            entries = []
            size = compressed_size = 0
            for record in RecordReader(self._descriptor, followed).records(limits):
                here = unpacked.get(record.data)
                record = replace(record, name=names.add(record.name))
                _check_record(record, limits)
                if here:
                    _check_unpacked(record, here)
                size += record.size
                compressed_size += record.compressed_size
                if not record.name.endswith("/"):
                    entries.append(Entry(record.name, record.size, here, record))
            check_ratio("The archive", size, compressed_size, limits)
            super().__init__(entries)
        except BaseException:
            os.close(self._descriptor)
            raise

    def close(self) -> None:
        os.close(self._descriptor)

    def chunks(self, entry: Entry) -> Iterator[bytes]:
        assert entry.record is not None
        content = Decoder(entry.name, entry.record.method, entry.size)
        for block in self._compressed(entry.record):
            yield from content.feed(block)
        content.check(entry.record)

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


def _check_record(record: Record, limits: Limits) -> None:
    kind = stat.S_IFMT(record.mode)
    is_folder = record.name.endswith("/")
    if kind == stat.S_IFIFO:
        kind = stat.S_IFREG  # what `zip` calls its standard input
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        what = {stat.S_IFLNK: "a symbolic link"}.get(kind, "a device or another special file")
        raise ArchiveError(f"{record.name!r} is {what}. Zip only files and folders.")
    if not is_folder and record.mode & (stat.S_ISUID | stat.S_ISGID):
        raise ArchiveError(f"{record.name!r} has a setuid or setgid bit. Zip it without.")
    if kind and (kind == stat.S_IFDIR) != is_folder:
        raise ArchiveError(f"{record.name!r} is a file and a folder at once. Zip it again.")
    if is_folder and record.size:
        raise ArchiveError(f"{record.name!r} is a folder with content. Zip it again.")
    check_method(record.name, record.method)
    if record.method == STORED and record.compressed_size != record.size:
        raise ArchiveError(f"{record.name!r} has two sizes in the archive. Zip it again.")
    check_ratio(repr(record.name), record.size, record.compressed_size, limits)


def _check_unpacked(record: Record, unpacked: Unpacked) -> None:
    """Raise ArchiveError unless what was unpacked is what the central directory says."""
    if unpacked.size != record.size:
        more = "larger" if unpacked.size > record.size else "smaller"
        raise ArchiveError(f"{record.name!r} is {more} than the archive says. Zip it again.")
    if (unpacked.crc, unpacked.compressed_size) != (record.crc, record.compressed_size):
        raise ArchiveError(
            f"{record.name!r} is damaged: its checksum doesn't agree. Zip and upload it again."
        )

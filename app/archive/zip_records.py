"""The records of a zip file, decoded and checked against each other.

The format is that of PKWARE's APPNOTE.TXT 6.3.10; section numbers below are its. Where readers are
known to differ, only what all of them read alike is accepted.
"""

import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from app.archive.limits import ArchiveError, Limits, check_count
from app.archive.zip_headers import (
    DESCRIPTOR_BYTES,
    DESCRIPTOR_MARK,
    ENCRYPTED,
    HAS_DESCRIPTOR,
    LIMIT32,
    LOCAL,
    LOCAL_MARK,
    MASKED,
    STRONG,
    UNICODE_PATH_EXTRA,
    UTF8,
    WRAP,
    ZIP64_EXTRA,
    check_flags,
    decoded_name,
    descriptor_size,
    extra_fields,
    local_header,
    local_header_size,
    no_descriptor,
    widened,
)

END = struct.Struct("<4s4H2LH")  # 4.3.16
LOCATOR64 = struct.Struct("<4sLQL")  # 4.3.15
END64 = struct.Struct("<4sQ2H2L4Q")  # 4.3.14
CENTRAL = struct.Struct("<4s4B4HL2L5H2L")  # 4.3.12
END_MARK, LOCATOR64_MARK, END64_MARK = b"PK\5\6", b"PK\6\7", b"PK\6\6"
CENTRAL_MARK = b"PK\1\2"

LIMIT16 = 0xFFFF

COMMENT_BYTES = 65_535


@dataclass(frozen=True)
class Record:
    """An entry as the central directory and its local header agree on it.

    `start` and `end` are where everything of the entry begins and ends in the file, `data` where
    its compressed bytes begin.
    """

    raw_name: bytes
    name: str
    flags: int
    mode: int
    method: int
    crc: int
    compressed_size: int
    size: int
    start: int
    data: int
    end: int


@dataclass(frozen=True)
class Followed:
    """An entry as it was followed when it arrived, its sizes in bytes as they really were."""

    start: int
    end: int
    compressed_size: int
    size: int


@dataclass(frozen=True)
class _End:
    entries: int
    size: int
    offset: int


class RecordReader:
    """Reads the records of the zip file that `descriptor` is open on. Never moves its position.

    `followed` are the entries that were followed when the file arrived, in its order. They tell
    what the sizes are where the archive gives them modulo WRAP.
    """

    def __init__(self, descriptor: int, followed: Sequence[Followed] = ()) -> None:
        self._descriptor = descriptor
        self._followed = followed
        self._size = os.fstat(descriptor).st_size
        self._wrapped = False

    def records(self, limits: Limits) -> list[Record]:
        """Every entry, in the order of the file. Raises ArchiveError.

        What is said twice must agree, and from its first byte to its last the file must be made of
        the entries, the central directory and the end records, each in its one place. Too many
        entries are refused before any is read.
        """
        end = self._end()
        check_count(end.entries, limits)
        records = sorted(self._central(end), key=lambda record: record.start)
        at = 0
        for record in records:
            if record.start < at:
                raise ArchiveError(f"{record.name!r} overlaps another entry of the archive.")
            if record.start > at:
                where = "between its entries" if at else "before its first entry"
                raise ArchiveError(f"The archive has other data {where}. Zip the files again.")
            at = record.end
        if at != end.offset:
            raise ArchiveError("The archive has other data after its last entry. Zip it again.")
        return records

    def _read(self, size: int, offset: int) -> bytes:
        block = os.pread(self._descriptor, size, offset) if offset >= 0 else b""
        if len(block) != size:
            raise ArchiveError("The archive is cut off, or points out of itself. Upload it again.")
        return block

    def _end(self) -> _End:
        if self._size == 0:
            raise ArchiveError("The uploaded file is empty.")
        tail_size = min(self._size, END.size + COMMENT_BYTES)
        tail = self._read(tail_size, self._size - tail_size)
        at = self._find_end(tail)
        _, disk, first_disk, here, total, size, offset, _ = END.unpack_from(tail, at)
        position = self._size - tail_size + at
        directory_end = position
        if position >= LOCATOR64.size:
            mark = self._read(4, position - LOCATOR64.size)
            if mark == LOCATOR64_MARK:
                wide, directory_end = self._end64(position - LOCATOR64.size)
                narrow = (here, total, size, offset)
                here, total, size, offset = wide
                for short, long, limit in zip(
                    narrow, wide, (LIMIT16, LIMIT16, LIMIT32, LIMIT32), strict=True
                ):
                    if short not in (long, limit):
                        raise ArchiveError("The archive's two end records disagree. Zip it again.")
            elif LIMIT16 in (here, total) or LIMIT32 in (size, offset):
                raise ArchiveError("The archive's zip64 end record is missing. Zip it again.")
            elif self._size > WRAP and (position - size - offset) % WRAP == 0:
                self._wrapped, offset = offset != position - size, position - size
        if (disk, first_disk) not in ((0, 0), (LIMIT16, LIMIT16)) or here != total:
            raise ArchiveError("The archive is one part of several. Zip the files as one archive.")
        if offset + size != directory_end:
            raise ArchiveError(
                "The archive's central directory isn't where its end record says: there is other"
                " data before or after it. Zip the files again."
            )
        return _End(total, size, offset)

    def _find_end(self, tail: bytes) -> int:
        at = tail.rfind(END_MARK)
        while at >= 0:
            if at + END.size <= len(tail):
                comment = END.unpack_from(tail, at)[-1]
                if at + END.size + comment == len(tail):
                    if tail.find(END_MARK, at + 1) >= 0:
                        raise ArchiveError("The archive has a second end record in its comment.")
                    return at
            at = tail.rfind(END_MARK, 0, at)
        if END_MARK in tail:
            raise ArchiveError("The archive has other data after its end. Zip the files again.")
        if self._read(min(self._size, 4), 0) in (LOCAL_MARK, DESCRIPTOR_MARK):
            raise ArchiveError("The archive is cut off: its end is missing. Upload it again.")
        raise ArchiveError("The uploaded file is not a zip archive.")

    def _end64(self, locator_at: int) -> tuple[tuple[int, int, int, int], int]:
        _, disk, at, disks = LOCATOR64.unpack(self._read(LOCATOR64.size, locator_at))
        if disk or disks > 1:
            raise ArchiveError("The archive is one part of several. Zip the files as one archive.")
        if at + END64.size > locator_at:
            raise ArchiveError("The archive's zip64 locator points to a wrong place.")
        record = END64.unpack(self._read(END64.size, at))
        mark, size, _, _, disk, first_disk, *wide = record
        if mark != END64_MARK or at + 12 + size != locator_at or disk or first_disk:
            raise ArchiveError("The archive's zip64 locator points to a wrong place.")
        if size != END64.size - 12:
            raise ArchiveError("The archive has other data in its zip64 end record. Zip it again.")
        return (wide[0], wide[1], wide[2], wide[3]), at

    def _central(self, end: _End) -> Iterator[Record]:
        at, stop = end.offset, end.offset + end.size
        for number in range(end.entries):
            if at + CENTRAL.size > stop:
                raise ArchiveError("The archive's central directory lacks entries. Zip it again.")
            fields = CENTRAL.unpack(self._read(CENTRAL.size, at))
            mark, _, _, _, _, flags, method, _, _, crc, compressed, size, *rest = fields
            name_size, extra_size, comment_size, disk, _, attributes, start = rest
            if mark != CENTRAL_MARK:
                raise ArchiveError("The archive's central directory is damaged. Zip it again.")
            raw = self._read(name_size, at + CENTRAL.size)
            extra = self._read(extra_size, at + CENTRAL.size + name_size)
            name = decoded_name(raw, flags, extra)
            extras = extra_fields(extra, name)
            wide = extras.get(ZIP64_EXTRA)
            size, compressed, start = widened(wide, name, size, compressed, start)
            if disk not in (0, LIMIT16):
                raise ArchiveError(f"{name!r} is in another part of the archive.")
            if self._wrapped:
                size, compressed, start = self._unwrapped(number, size, compressed, start)
            record = Record(
                *(raw, name, flags, attributes >> 16, method, crc, compressed, size),
                *(start, 0, 0),
            )
            check_flags(name, flags)
            data, entry_end = self._local(record, extras.get(UNICODE_PATH_EXTRA), end.offset)
            yield replace(record, data=data, end=entry_end)
            at += CENTRAL.size + name_size + extra_size + comment_size
        if at != stop:
            raise ArchiveError("The archive's central directory has more than its entries.")

    def _unwrapped(self, number: int, *said: int) -> tuple[int, int, int]:
        """Size, compressed size and start of an entry that are only said modulo WRAP."""
        if number < len(self._followed):
            entry = self._followed[number]
            true = (entry.size, entry.compressed_size, entry.start)
            if all((one - other) % WRAP == 0 for one, other in zip(true, said, strict=True)):
                return true
        raise ArchiveError(
            "The archive is larger than 4 GB and says its sizes too small, as macOS's Finder does;"
            " they can't all be told from its bytes. In Terminal, make it with"
            " `zip -r model.zip model` or `tar -cf model.tar model`."
        )

    def _local(self, record: Record, unicode_path: bytes | None, directory: int) -> tuple[int, int]:
        """Where an entry's data begins and the entry ends, its local header agreeing."""
        name, right = record.name, (record.crc, record.compressed_size, record.size)
        beginning = self._read(LOCAL.size, record.start)
        if not beginning.startswith(LOCAL_MARK):
            raise _disagreement(name)
        head_size = local_header_size(beginning)
        header = local_header(self._read(head_size, record.start), name)
        compared = ENCRYPTED | STRONG | UTF8 | MASKED | HAS_DESCRIPTOR
        if (
            (header.raw_name, header.unicode_path) != (record.raw_name, unicode_path)
            or (header.flags ^ record.flags) & compared
            or header.method != record.method
        ):
            raise _disagreement(name)
        data = record.start + head_size
        stated = (header.crc, header.compressed_size, header.size)
        end = data + record.compressed_size
        if record.flags & HAS_DESCRIPTOR:
            if any(here not in (0, there) for here, there in zip(stated, right, strict=True)):
                raise _disagreement(name)
            found = os.pread(self._descriptor, DESCRIPTOR_BYTES, end)[: max(0, directory - end)]
            descriptor = descriptor_size(found, *right, wrapped=self._wrapped)
            if descriptor is None:
                raise no_descriptor(name)
            end += descriptor
        elif stated != right:
            raise _disagreement(name)
        if end > directory:
            raise ArchiveError(f"{name!r} reaches beyond the archive's entries. Upload it again.")
        return data, end


def _disagreement(name: str) -> ArchiveError:
    return ArchiveError(f"{name!r} is described in two ways by the archive. Zip the files again.")

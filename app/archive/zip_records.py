"""The records of a zip file, decoded and held against each other.

The format is that of PKWARE's APPNOTE.TXT 6.3.10; section numbers below are its. Where readers are
known to differ, only what all of them read alike is accepted.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

END = struct.Struct("<4s4H2LH")  # 4.3.16
LOCATOR64 = struct.Struct("<4sLQL")  # 4.3.15
END64 = struct.Struct("<4sQ2H2L4Q")  # 4.3.14
CENTRAL = struct.Struct("<4s4B4HL2L5H2L")  # 4.3.12
LOCAL = struct.Struct("<4s5HL2L2H")  # 4.3.7
END_MARK, LOCATOR64_MARK, END64_MARK = b"PK\5\6", b"PK\6\7", b"PK\6\6"
CENTRAL_MARK, LOCAL_MARK, DESCRIPTOR_MARK = b"PK\1\2", b"PK\3\4", b"PK\7\x08"

ENCRYPTED, HAS_DESCRIPTOR, STRONG, UTF8, MASKED = 1, 8, 64, 2048, 8192
ZIP64_EXTRA, UNICODE_PATH_EXTRA = 0x0001, 0x7075
MADE_ON_UNIX = (3, 19)
LIMIT16, LIMIT32 = 0xFFFF, 0xFFFFFFFF
COMMENT_BYTES = 65_535
DESCRIPTOR_BYTES = 24

_OTHER_FORMATS = (
    (b"\x1f\x8b", "a gzip file"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip file"),
    (b"Rar!", "a RAR file"),
    (b"\xfd7zXZ", "an xz file"),
    (b"BZh", "a bzip2 file"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file"),
    (b"GGUF", "a GGUF file itself"),
    (b"version https://git-lfs", "a Git LFS pointer"),
    (b"<", "an HTML or XML page"),
)


class ArchiveError(ValueError):
    """The archive can't be used; the message says which entry and why."""


@dataclass(frozen=True)
class Record:
    """An entry as the central directory and its local header agree on it.

    `start` and `end` are where everything of the entry begins and ends in the file, `data` where
    its compressed bytes begin.
    """

    raw_name: bytes
    name: str
    mode: int
    method: int
    crc: int
    compressed_size: int
    size: int
    start: int
    data: int
    end: int


@dataclass(frozen=True)
class _End:
    entries: int
    size: int
    offset: int


class RecordReader:
    """Reads the records of the zip file that `descriptor` is open on. Never moves its position."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._size = os.fstat(descriptor).st_size

    def records(self, most: int) -> list[Record]:
        """Every entry, in the order of the file. Raises ArchiveError.

        What is said twice must agree, and from its first byte to its last the file must be made of
        the entries, the central directory and the end records, each in its one place. More than
        `most` entries are refused before any is read.
        """
        end = self._end()
        if end.entries > most:
            raise ArchiveError(
                f"The archive has {end.entries} entries; at most {most} are taken."
                " Zip only the model's files."
            )
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
        start = self._read(min(self._size, 264), 0)
        if start.startswith((LOCAL_MARK, DESCRIPTOR_MARK)):
            raise ArchiveError("The archive is cut off: its end is missing. Upload it again.")
        for beginning, what in _OTHER_FORMATS:
            if start.startswith(beginning):
                raise ArchiveError(f"The uploaded file is {what}. Send the files in a zip.")
        if start[257:262] == b"ustar":
            raise ArchiveError("The uploaded file is a tar archive. Send the files in a zip.")
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
        return (wide[0], wide[1], wide[2], wide[3]), at

    def _central(self, end: _End) -> Iterator[Record]:
        at, stop = end.offset, end.offset + end.size
        for _ in range(end.entries):
            if at + CENTRAL.size > stop:
                raise ArchiveError("The archive's central directory lacks entries. Zip it again.")
            fields = CENTRAL.unpack(self._read(CENTRAL.size, at))
            mark, _, host, _, _, flags, method, _, _, crc, compressed, size, *rest = fields
            name_size, extra_size, comment_size, disk, _, attributes, start = rest
            if mark != CENTRAL_MARK:
                raise ArchiveError("The archive's central directory is damaged. Zip it again.")
            raw = self._read(name_size, at + CENTRAL.size)
            extra = self._read(extra_size, at + CENTRAL.size + name_size)
            name = _decoded(raw, flags, host, extra)
            wide = _extras(extra, name).get(ZIP64_EXTRA, b"")
            size, wide = _widened(size, wide, name)
            compressed, wide = _widened(compressed, wide, name)
            start, _ = _widened(start, wide, name)
            if disk not in (0, LIMIT16):
                raise ArchiveError(f"{name!r} is in another part of the archive.")
            if flags & (ENCRYPTED | STRONG | MASKED):
                raise ArchiveError(f"{name!r} is encrypted. Zip it without a password.")
            data, entry_end = self._local(
                (raw, flags, method, crc, compressed, size), name, start, end.offset
            )
            yield Record(
                *(raw, name, attributes >> 16, method, crc, compressed, size),
                *(start, data, entry_end),
            )
            at += CENTRAL.size + name_size + extra_size + comment_size
        if at != stop:
            raise ArchiveError("The archive's central directory has more than its entries.")

    def _local(
        self,
        central: tuple[bytes, int, int, int, int, int],
        name: str,
        start: int,
        directory: int,
    ) -> tuple[int, int]:
        """Where an entry's data begins and the entry ends, its local header agreeing."""
        raw, flags, method, crc, compressed, size = central
        head_size = local_header_size(self._read(LOCAL.size, start))
        if head_size is None:
            raise _disagreement(name)
        header = local_header(self._read(head_size, start), name)
        compared = ENCRYPTED | STRONG | UTF8 | MASKED | HAS_DESCRIPTOR
        if header.raw_name != raw or (header.flags ^ flags) & compared or header.method != method:
            raise _disagreement(name)
        data = start + head_size
        stated, right = (header.crc, header.compressed_size, header.size), (crc, compressed, size)
        end = data + compressed
        if flags & HAS_DESCRIPTOR:
            if any(here not in (0, there) for here, there in zip(stated, right, strict=True)):
                raise _disagreement(name)
            found = os.pread(self._descriptor, DESCRIPTOR_BYTES, end)
            descriptor = descriptor_size(found[: max(0, directory - end)], *right)
            if descriptor is None:
                raise ArchiveError(
                    f"{name!r} has no data descriptor that agrees with it. Zip it again."
                )
            end += descriptor
        elif stated != right:
            raise _disagreement(name)
        if end > directory:
            raise ArchiveError(f"{name!r} reaches beyond the archive's entries. Upload it again.")
        return data, end


@dataclass(frozen=True)
class LocalHeader:
    """What stands before an entry's data (4.3.7); with a data descriptor, sizes may be 0."""

    raw_name: bytes
    flags: int
    method: int
    crc: int
    compressed_size: int
    size: int


def local_header_size(beginning: bytes) -> int | None:
    """The bytes of the local header that begins with these LOCAL.size bytes; None if none does."""
    mark, *_, name_size, extra_size = LOCAL.unpack(beginning)
    return LOCAL.size + name_size + extra_size if mark == LOCAL_MARK else None


def local_header(head: bytes, name: str) -> LocalHeader:
    """The local header in `head`, which is all of it; errors (ArchiveError) speak of `name`."""
    _, _, flags, method, _, _, crc, compressed, size, name_size, _ = LOCAL.unpack_from(head)
    extra = head[LOCAL.size + name_size :]
    wide = _extras(extra, name).get(ZIP64_EXTRA, b"")
    if LIMIT32 in (size, compressed):
        size, wide = _widened(size, wide, name)
        compressed, _ = _widened(compressed, wide, name)
    raw_name = head[LOCAL.size : LOCAL.size + name_size]
    return LocalHeader(raw_name, flags, method, crc, compressed, size)


def descriptor_size(found: bytes, crc: int, compressed_size: int, size: int) -> int | None:
    """The bytes of the data descriptor (4.3.9) that `found` begins with: marked or not, with 4- or
    8-byte sizes.

    The longest form that says what is right is taken; None where none does.
    """
    for mark in (DESCRIPTOR_MARK, b""):
        for form in ("<LQQ", "<LLL"):
            if form == "<LLL" and max(compressed_size, size) > LIMIT32:
                continue
            descriptor = mark + struct.pack(form, crc, compressed_size, size)
            if found.startswith(descriptor):
                return len(descriptor)
    return None


def _disagreement(name: str) -> ArchiveError:
    return ArchiveError(f"{name!r} is described in two ways by the archive. Zip the files again.")


def _decoded(raw: bytes, flags: int, host: int, extra: bytes) -> str:
    """The entry's name (4.4.17, appendix D); names from Unix are UTF-8 where they can be."""
    unicode_path = _extras(extra, repr(raw)).get(UNICODE_PATH_EXTRA, b"")
    if unicode_path[:1] == b"\1" and unicode_path[1:5] == struct.pack("<L", zlib.crc32(raw)):
        raw, flags = unicode_path[5:], flags | UTF8
    try:
        if flags & UTF8 or host in MADE_ON_UNIX:
            return raw.decode()
    except UnicodeDecodeError:
        if flags & UTF8:
            raise ArchiveError(f"{raw!r} in the archive isn't a name in UTF-8.") from None
    return raw.decode("cp437")


def _extras(extra: bytes, name: str) -> dict[int, bytes]:
    """The extra fields by their number (4.5)."""
    fields: dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(extra):
        number, size = struct.unpack_from("<HH", extra, at)
        if at + 4 + size > len(extra) or (number in fields and number == ZIP64_EXTRA):
            raise ArchiveError(f"{name} has damaged extra fields in the archive. Zip it again.")
        fields[number] = extra[at + 4 : at + 4 + size]
        at += 4 + size
    return fields


def _widened(value: int, wide: bytes, name: str) -> tuple[int, bytes]:
    """A 32-bit value, or the next 64-bit one where it only says that it is too small (4.5.3)."""
    if value != LIMIT32:
        return value, wide
    if len(wide) < 8:
        raise ArchiveError(f"{name!r} lacks its zip64 sizes. Zip the files again.")
    return struct.unpack_from("<Q", wide)[0], wide[8:]

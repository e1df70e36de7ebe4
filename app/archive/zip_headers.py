"""What the headers of one entry of a zip say: its name, its sizes, its extra fields.

The format is that of PKWARE's APPNOTE.TXT 6.3.10; section numbers below are its.
"""

import struct
import zlib
from dataclasses import dataclass

from app.archive.limits import ArchiveError
from app.archive.names import readable

LOCAL = struct.Struct("<4s5HL2L2H")  # 4.3.7
LOCAL_MARK, DESCRIPTOR_MARK = b"PK\3\4", b"PK\7\x08"
ENCRYPTED, HAS_DESCRIPTOR, STRONG, UTF8, MASKED = 1, 8, 64, 2048, 8192
ZIP64_EXTRA, UNICODE_PATH_EXTRA = 0x0001, 0x7075
LIMIT32 = 0xFFFFFFFF
WRAP = 2**32
"""What macOS's Finder takes sizes and offsets modulo, instead of using zip64."""

DESCRIPTOR_BYTES = 24


@dataclass(frozen=True)
class LocalHeader:
    """What stands before an entry's data (4.3.7); with a data descriptor, sizes may be 0."""

    raw_name: bytes
    unicode_path: bytes | None
    name: str
    flags: int
    method: int
    crc: int
    compressed_size: int
    size: int


def local_header_size(beginning: bytes) -> int:
    """The bytes of the local header that begins with these LOCAL.size bytes."""
    *_, name_size, extra_size = LOCAL.unpack(beginning)
    return LOCAL.size + int(name_size) + int(extra_size)


def local_header(head: bytes, name: str | None = None) -> LocalHeader:
    """The local header in `head`, which is all of it; errors (ArchiveError) speak of `name`, if it
    is known already."""
    _, _, flags, method, _, _, crc, compressed, size, name_size, _ = LOCAL.unpack_from(head)
    raw_name = head[LOCAL.size : LOCAL.size + name_size]
    extra = head[LOCAL.size + name_size :]
    own_name = decoded_name(raw_name, flags, extra)
    extras = extra_fields(extra, name or own_name)
    size, compressed = widened(extras.get(ZIP64_EXTRA), name or own_name, size, compressed)
    return LocalHeader(
        *(raw_name, extras.get(UNICODE_PATH_EXTRA), own_name),
        *(flags, method, crc, compressed, size),
    )


def check_flags(name: str, flags: int) -> None:
    """Raise ArchiveError for an entry that is encrypted (4.4.4)."""
    if flags & (ENCRYPTED | STRONG | MASKED):
        raise ArchiveError(f"{name!r} is encrypted. Zip it without a password.")


def descriptor_size(
    found: bytes, crc: int, compressed_size: int, size: int, *, wrapped: bool
) -> int | None:
    """The bytes of the data descriptor (4.3.9) that `found` begins with: marked or not, with 4- or
    8-byte sizes, which may be `wrapped`.

    The longest form that says what is right is taken; None where none does.
    """
    is_wide = max(compressed_size, size) >= WRAP
    for mark in (DESCRIPTOR_MARK, b""):
        forms = [struct.pack("<LQQ", crc, compressed_size, size)]
        if wrapped or not is_wide:
            forms.append(struct.pack("<LLL", crc, compressed_size % WRAP, size % WRAP))
        for form in forms:
            if found.startswith(mark + form):
                return len(mark + form)
    return None


def no_descriptor(name: str) -> ArchiveError:
    """What to raise where descriptor_size finds none."""
    return ArchiveError(f"{name!r} has no data descriptor that agrees with it. Zip it again.")


def decoded_name(raw: bytes, flags: int, extra: bytes) -> str:
    """The entry's name (4.4.17, appendix D). Raises ArchiveError."""
    unicode_path = extra_fields(extra, repr(raw)).get(UNICODE_PATH_EXTRA, b"")
    if unicode_path[:1] == b"\1" and unicode_path[1:5] == struct.pack("<L", zlib.crc32(raw)):
        raw, flags = unicode_path[5:], flags | UTF8
    if not flags & UTF8:
        return readable(raw)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise ArchiveError(f"{raw[:100]!r} in the archive isn't a name in UTF-8.") from None


def extra_fields(extra: bytes, name: str) -> dict[int, bytes]:
    """The extra fields by their number (4.5); of those that matter here there can be one each."""
    fields: dict[int, bytes] = {}
    at = 0
    while at < len(extra):
        number, size = struct.unpack("<HH", extra[at : at + 4].ljust(4, b"\xff"))
        repeated = number in fields and number in (ZIP64_EXTRA, UNICODE_PATH_EXTRA)
        if at + 4 + size > len(extra) or repeated:
            raise ArchiveError(f"{name} has damaged extra fields in the archive. Zip it again.")
        fields[number] = extra[at + 4 : at + 4 + size]
        at += 4 + size
    return fields


def widened(wide: bytes | None, name: str, *values: int) -> list[int]:
    """32-bit values, with the next 64-bit one of the zip64 extra field `wide` for each that only
    says that it is too small (4.5.3).

    Some writers give all values there. That is right only where it is the same, however it is read.
    """
    if wide is None:
        if LIMIT32 in values:
            raise ArchiveError(f"{name!r} lacks its zip64 sizes. Zip the files again.")
        return list(values)
    result, at = [], 0
    for value in values:
        if value == LIMIT32:
            if len(wide) < at + 8:
                raise ArchiveError(f"{name!r} lacks its zip64 sizes. Zip the files again.")
            value = struct.unpack_from("<Q", wide, at)[0]
            at += 8
        result.append(value)
    whole = struct.pack(f"<{len(result)}QL", *result, 0)
    if at < len(wide) and not whole.startswith(wide):
        raise ArchiveError(f"{name!r} has two sizes in the archive. Zip it again.")
    return result

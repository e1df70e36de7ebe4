"""A tar's entries, unpacked as they arrive; compressed or not.

The format is POSIX's (ustar and pax) with GNU tar's long names and large sizes; each header block
is decoded by the standard library. The rules are those for zips: only files and folders, each under
one name that stays below its folder. Where readers are known to differ (a pax record that
contradicts its header, sparse files, global names), it is refused.
"""

import re
import tarfile
from collections.abc import Generator, Iterator
from contextlib import suppress
from typing import Any

from zlib_ng import zlib_ng

from app.archive.decoder import BLOCK
from app.archive.intake import Arrived, Buffer, CutOff, Intake, Waiting
from app.archive.limits import ArchiveError, check_ratio
from app.archive.names import is_junk, readable
from app.formats import magic

try:
    from compression import zstd  # type: ignore[import-not-found, unused-ignore]
except ImportError:
    from backports import zstd  # type: ignore[no-redef, unused-ignore]

TAR_BLOCK = 512
EXTENSION_BYTES = 2**20
FED_BYTES = 2**15
_OCTAL_SIZE = 8 * 2**30
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_EXTENSIONS = (
    tarfile.XHDTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device or another special file",
    tarfile.BLKTYPE: "a device or another special file",
    tarfile.FIFOTYPE: "a device or another special file",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}
_PAX_RECORD = re.compile(rb"([1-9][0-9]{0,6}) ([^=]+)=")
_NUMBER = re.compile(r"[0-9]{1,19}")
_REFUSED_PAX = ("GNU.sparse.", "SCHILY.realsize", "SUN.holesdata")


def is_tar(beginning: bytes) -> bool:
    """Whether a tar's first block begins with these bytes, be it older than ustar or empty."""
    block = beginning[:TAR_BLOCK]
    if len(block) < TAR_BLOCK:
        return False
    if not block.strip(b"\0"):
        return True
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def read_tar(intake: Intake, source: Buffer, *, resumable: bool) -> Waiting:
    """Unpack every entry. Raises ArchiveError. With `resumable`, `source` is what arrives, and each
    entry's end is where the archive can be gone on from."""
    extensions = _Extensions()
    while True:
        start = source.at
        yield from source.need(TAR_BLOCK)
        block = source.take(TAR_BLOCK, keep=True)
        if not block.strip(b"\0"):
            break
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError:
            raise ArchiveError("The archive is damaged. Pack and upload it again.") from None
        if info.type in _EXTENSIONS:
            if not 0 <= info.size <= EXTENSION_BYTES:
                raise ArchiveError("The archive has a header that is too long. Pack it again.")
            content = yield from _padded(source, info.size)
            extensions.add(info.type, content)
            continue
        yield from _entry(intake, source, info, extensions, start, resumable)
        extensions = _Extensions()
    yield from source.need(TAR_BLOCK)
    while True:
        if source.take(source.left, keep=True).strip(b"\0"):
            raise ArchiveError("The archive has other data after its end. Pack the files again.")
        try:
            yield from source.need(1)
        except CutOff:
            return


def read_compressed(intake: Intake, raw: Buffer, kind: magic.Kind, *, spool: bool) -> Waiting:
    """Unpack a tar that is a gzip or a Zstandard file. With `spool`, what arrives is kept."""
    plain = Buffer()
    reading = _read_inner(intake, plain)
    decompressed = _Decompressed(kind)
    while True:
        try:
            yield from raw.need(1)
        except CutOff:
            break
        for piece in decompressed.feed(raw.take(raw.left, keep=spool)):
            plain.add(piece)
            next(reading)
            check_ratio("The archive", plain.at, raw.at, intake.limits)
    decompressed.check_end()
    plain.ended = True
    for _ in reading:
        pass


def _read_inner(intake: Intake, plain: Buffer) -> Waiting:
    with suppress(CutOff):
        yield from plain.need(TAR_BLOCK)
    beginning = plain.peek(TAR_BLOCK)
    if not is_tar(beginning):
        kind = magic.recognise(beginning)
        what = f"{kind.name}, not a tar" if kind else "not a tar"
        raise ArchiveError(f"What is compressed in the uploaded file is {what}. Unpack it first.")
    yield from read_tar(intake, plain, resumable=False)


def _entry(
    intake: Intake,
    source: Buffer,
    info: tarfile.TarInfo,
    extensions: "_Extensions",
    start: int,
    resumable: bool,
) -> Waiting:
    said = extensions.name(info)
    size = extensions.size(info, said)
    while said.startswith("./"):
        said = said.removeprefix("./").lstrip("/")
    if said in ("", ".") and info.type == tarfile.DIRTYPE:
        return
    if info.type == tarfile.DIRTYPE:
        said = said.removesuffix("/") + "/"
    name = intake.name(said)
    _check_kind(name, info, size)
    source.check_left(size)
    entry = Arrived(name, said, size, start, source.at, compressed_size=size)
    output = None
    if info.type in _FILES and not is_junk(name):
        output = intake.begin(name, size, source.at, is_stored=resumable)
    left = size
    while left:
        yield from source.need(1)
        piece = source.take(min(left, BLOCK), keep=output is None)
        left -= len(piece)
        if output:
            output.write(piece)
    yield from source.need(-size % TAR_BLOCK)
    source.take(-size % TAR_BLOCK, keep=True)
    entry.file = output.end() if output else None
    entry.end = source.at
    intake.done(entry, source.at if resumable else 0)


def _check_kind(name: str, info: tarfile.TarInfo, size: int) -> None:
    if info.type == tarfile.DIRTYPE:
        if size:
            raise ArchiveError(f"{name!r} is a folder with content. Pack it again.")
        return
    if info.type not in _FILES:
        what = _KINDS.get(info.type, "a device or another special file")
        raise ArchiveError(
            f"{name!r} is {what}. Pack only files and folders, for example with"
            " `tar -ch --hard-dereference`."
        )
    if name.endswith("/"):
        raise ArchiveError(f"{name!r} is a file and a folder at once. Pack it again.")
    if info.mode & 0o6000:
        raise ArchiveError(f"{name!r} has a setuid or setgid bit. Pack it without.")


def _padded(source: Buffer, size: int) -> Generator[None, None, bytes]:
    """The next `size` bytes; what fills up their last block is passed over."""
    whole = -(-size // TAR_BLOCK) * TAR_BLOCK
    yield from source.need(whole)
    return source.take(whole, keep=True)[:size]


class _Extensions:
    """What stands before an entry's header: pax records and GNU tar's long names."""

    def __init__(self) -> None:
        self._pax: dict[str, bytes] = {}
        self._long_name: bytes | None = None

    def add(self, kind: bytes, content: bytes) -> None:
        """Take the content of an extension. Raises ArchiveError where it can't be read alike by
        all."""
        if kind == tarfile.GNUTYPE_LONGNAME:
            if self._long_name is not None:
                raise _disagreement(readable(content.rstrip(b"\0")))
            self._long_name = content.rstrip(b"\0")
        elif kind != tarfile.GNUTYPE_LONGLINK:
            records = _pax_records(content)
            for key in records:
                if key.startswith(_REFUSED_PAX):
                    raise ArchiveError("The archive has a sparse file. Pack it without --sparse.")
                if key in self._pax or (kind == tarfile.XGLTYPE and key in ("path", "size")):
                    raise _disagreement(key)
            if kind != tarfile.XGLTYPE:
                self._pax |= records

    def name(self, info: tarfile.TarInfo) -> str:
        """What the entry is called. Raises ArchiveError where that is said in two ways."""
        names = {name for name in (self._pax.get("path"), self._long_name) if name is not None} or {
            info.name.encode("utf-8", "surrogateescape")
        }
        if len(names) > 1:
            raise _disagreement(readable(min(names)))
        return readable(names.pop())

    def size(self, info: tarfile.TarInfo, name: str) -> int:
        """The bytes of the entry's content. Raises ArchiveError where that is said in two ways."""
        size = info.size
        if text := self._pax.get("size"):
            if not _NUMBER.fullmatch(text.decode("latin-1")):
                raise _disagreement(name)
            size = int(text)
            if size != info.size and size < _OCTAL_SIZE:
                raise _disagreement(name)
        if not 0 <= size < 2**63:
            raise _disagreement(name)
        return size


def _disagreement(name: str) -> ArchiveError:
    return ArchiveError(f"{name[:200]!r} is described in two ways by the archive. Pack it again.")


def _pax_records(content: bytes) -> dict[str, bytes]:
    """The records of a pax header: `length key=value` and a line end, the length counting all."""
    records: dict[str, bytes] = {}
    at = 0
    while at < len(content):
        match = _PAX_RECORD.match(content, at)
        end = at + int(match[1]) if match else at
        if match is None or end < match.end() + 1 or content[end - 1 : end] != b"\n":
            raise ArchiveError("The archive has a damaged pax header. Pack it again.")
        key = match[2].decode(errors="replace")
        if key in records:
            raise _disagreement(key)
        records[key] = content[match.end() : end - 1]
        at = end
    return records


class _Decompressed:
    """A gzip or Zstandard file's content, piece by piece; several one after the other are one."""

    def __init__(self, kind: magic.Kind) -> None:
        self._is_gzip = kind is magic.GZIP
        self._decoder: Any = None
        self._any = False

    def feed(self, block: bytes) -> Iterator[bytes]:
        """The pieces, of at most BLOCK bytes, that the next compressed bytes give. Raises
        ArchiveError."""
        # What follows the end of each of several is copied: of many short ones, many times.
        for at in range(0, len(block), FED_BYTES):
            yield from self._feed(block[at : at + FED_BYTES])

    def _feed(self, block: bytes) -> Iterator[bytes]:
        while True:
            if self._decoder is None:
                if not block or (self._any and self._is_gzip and not block.strip(b"\0")):
                    return
                self._decoder = self._new()
                self._any = True
            try:
                piece = self._decoder.decompress(block, BLOCK)
            except (zlib_ng.error, zstd.ZstdError):  # type: ignore[misc]
                raise ArchiveError("The archive is damaged. Pack and upload it again.") from None
            block = self._decoder.unconsumed_tail if self._is_gzip else b""
            ended = self._decoder.eof
            if ended:
                block, self._decoder = self._decoder.unused_data, None
            if piece:
                yield piece
            elif not ended and not block:
                return

    def check_end(self) -> None:
        """Raise CutOff unless the file ended where its content says so."""
        if self._decoder is not None:
            raise CutOff

    def _new(self) -> Any:
        if self._is_gzip:
            return zlib_ng.decompressobj(16 + zlib_ng.MAX_WBITS)
        return zstd.ZstdDecompressor()

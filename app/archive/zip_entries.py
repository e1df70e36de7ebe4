"""A zip's entries, unpacked as they arrive.

They are followed by their local headers and refused as soon as those, or the first bytes after
them, tell. Archive checks them against the central directory when all is here.
"""

import sys
from collections.abc import Generator

from app.archive.decoder import DEFLATED, STORED, Decoder, check_method
from app.archive.intake import Arrived, Buffer, Intake, Output, Waiting
from app.archive.limits import ArchiveError, check_ratio
from app.archive.names import is_junk
from app.archive.zip_headers import (
    DESCRIPTOR_BYTES,
    HAS_DESCRIPTOR,
    LOCAL,
    LOCAL_MARK,
    LocalHeader,
    check_flags,
    descriptor_size,
    local_header,
    local_header_size,
    no_descriptor,
)

UNSTATED_BYTES = 4 * 2**30


def read_zip(intake: Intake, raw: Buffer, *, spool: bool) -> Waiting:
    """Unpack every entry, and keep all else: each record at its place.

    From where it can't be followed (an entry is stored without stating its size) the rest is kept
    as it came. With `spool`, compressed bytes are kept, too. Raises ArchiveError.
    """
    while (yield from _entry(intake, raw, spool)):
        pass
    while not raw.ended:
        raw.take(raw.left, keep=True)
        yield
    raw.take(raw.left, keep=True)


def _entry(intake: Intake, raw: Buffer, spool: bool) -> Generator[None, None, bool]:
    """Unpack an entry; False where none begins that can be followed to its end."""
    start = raw.at
    yield from raw.need(len(LOCAL_MARK))
    if raw.peek(len(LOCAL_MARK)) != LOCAL_MARK:
        return False
    yield from raw.need(LOCAL.size)
    head_size = local_header_size(raw.peek(LOCAL.size))
    yield from raw.need(head_size)
    header = local_header(raw.take(head_size, keep=True))
    name = intake.name(header.name)
    check_flags(name, header.flags)
    check_method(name, header.method)
    if not intake.entries and name.endswith("/data.pkl"):
        raise ArchiveError(
            "The uploaded file is a PyTorch file. Save the model as safetensors, or convert it to"
            " GGUF."
        )
    with_descriptor = bool(header.flags & HAS_DESCRIPTOR)
    stated = not with_descriptor or header.compressed_size > 0
    if not stated and header.method != DEFLATED:
        return False
    if stated and header.method == STORED and header.size != header.compressed_size:
        raise ArchiveError(f"{name!r} has two sizes in the archive. Zip it again.")
    if stated:
        raw.check_left(header.compressed_size)
    data, entry = raw.at, Arrived(name, header.name, start=start)
    if not stated or header.compressed_size:
        content, output = yield from _content(intake, raw, header, name, stated, spool)
        if with_descriptor:
            content.check_end()
            yield from _descriptor(raw, content, name)
        else:
            content.check(header)
        entry.size, entry.crc = content.size, content.crc
        entry.compressed_size = content.compressed_size
        entry.file = output.end() if output else None
    entry.data, entry.end = data, raw.at
    intake.done(entry, raw.at)
    return True


def _content(
    intake: Intake, raw: Buffer, header: LocalHeader, name: str, stated: bool, spool: bool
) -> Generator[None, None, tuple[Decoder, Output | None]]:
    size = header.size if stated else None
    if size is not None:
        check_ratio(repr(name), size, header.compressed_size, intake.limits)
    content = Decoder(name, header.method, sys.maxsize if size is None else size)
    left = header.compressed_size if stated else sys.maxsize
    wanted = not name.endswith("/") and not is_junk(name)
    is_stored = header.method == STORED
    output = intake.begin(name, size, raw.at, is_stored=is_stored) if wanted else None
    while left and (stated or not content.ended):
        yield from raw.need(1)
        block = raw.take(left, keep=spool and not (is_stored and wanted))
        left -= len(block)
        for piece in content.feed(block):
            if output:
                output.write(piece)
            elif name.endswith("/"):
                raise ArchiveError(f"{name!r} is a folder with content. Zip it again.")
        if not stated and content.size > UNSTATED_BYTES:
            check_ratio(repr(name), content.size, content.compressed_size, intake.limits)
    if not stated:
        raw.give_back(content.rest)
        content.rest = b""
    return content, output


def _descriptor(raw: Buffer, content: Decoder, name: str) -> Waiting:
    yield from raw.need(DESCRIPTOR_BYTES)
    found = raw.peek(DESCRIPTOR_BYTES)
    size = descriptor_size(found, content.crc, content.compressed_size, content.size, wrapped=True)
    if size is None:
        raise no_descriptor(name)
    raw.take(size, keep=True)

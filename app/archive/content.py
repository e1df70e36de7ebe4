"""The contents of a zip's entries, decoded piece by piece and never believed."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zlib_ng import zlib_ng

from app.archive.zip_records import ArchiveError, Record

BLOCK = 2**20
STORED, DEFLATED = 0, 8


@dataclass(frozen=True)
class Limits:
    """What an archive may claim at most.

    Deflate can't do better than about 1:1032; weights don't even come near 1:10. So an entry of
    more than `ratio_from` bytes that claims more than `ratio` is a bomb or a lie.
    """

    entries: int = 10_000
    ratio: int = 200
    ratio_from: int = 64 * 2**20
    component_bytes: int = 255
    name_bytes: int = 1024
    depth: int = 32


def check_ratio(name: str, size: int, compressed_size: int, limits: Limits) -> None:
    """Raise ArchiveError for `size` bytes that can't have been compressed that well."""
    if size > limits.ratio_from and size > limits.ratio * compressed_size:
        raise ArchiveError(
            f"{name!r} claims {size} bytes in {compressed_size} compressed ones, which no model"
            " file does."
        )


class Content:
    """What an entry's compressed bytes hold: given piece by piece, counted and checked.

    `most` bytes are given at most. `size`, `compressed_size` and `crc` are of what has been.
    """

    def __init__(self, name: str, method: int, most: int) -> None:
        self._name = name
        self._most = most
        self._inflate = zlib_ng.decompressobj(-zlib_ng.MAX_WBITS) if method == DEFLATED else None
        self.problem: ArchiveError | None = None
        self.compressed_size = self.size = self.crc = 0
        self.rest = b""

    @property
    def ended(self) -> bool:
        """Whether the content itself says that this was all of it. What followed is `rest`."""
        return self._inflate is not None and self._inflate.eof

    def feed(self, block: bytes) -> Iterator[bytes]:
        """The pieces of the content, of at most BLOCK bytes, that the next compressed bytes give.

        Raises ArchiveError, again and again, once the content can't be right.
        """
        try:
            if self.problem:
                raise self.problem
            self.compressed_size += len(block)
            for piece in self._inflated(self._inflate, block) if self._inflate else [block]:
                self.size += len(piece)
                self.crc = zlib_ng.crc32(piece, self.crc)
                if self.size > self._most:
                    raise ArchiveError(
                        f"{self._name!r} is larger than the archive says. Zip it again."
                    )
                yield piece
        except ArchiveError as error:
            self.problem = error
            raise

    def check(self, record: Record) -> None:
        """Raise ArchiveError unless all that was fed is what `record` says."""
        if self.problem:
            raise self.problem
        if self._inflate and not self._inflate.eof:
            raise ArchiveError(f"{self._name!r} is cut off. Zip and upload it again.")
        if self.rest:
            raise ArchiveError(f"{self._name!r} has other data after its end.")
        if self.size != record.size:
            more = "larger" if self.size > record.size else "smaller"
            raise ArchiveError(f"{self._name!r} is {more} than the archive says. Zip it again.")
        if self.crc != record.crc:
            raise ArchiveError(
                f"{self._name!r} is damaged: its checksum doesn't agree. Zip and upload it again."
            )

    def _inflated(self, inflate: Any, block: bytes) -> Iterator[bytes]:
        while not inflate.eof:
            try:
                piece = inflate.decompress(block, BLOCK)
            except zlib_ng.error:  # type: ignore[misc]
                raise ArchiveError(f"{self._name!r} is damaged. Zip and upload it again.") from None
            block = inflate.unconsumed_tail
            if piece:
                yield piece
            elif not block and not inflate.eof:
                return
        self.rest = inflate.unused_data or block
        self.compressed_size -= len(self.rest)


@dataclass(frozen=True)
class Unpacked:
    """An entry's content that was written to the file `path` as it arrived."""

    path: Path
    content: Content
    digest: "hashlib._Hash"

    @property
    def sha256(self) -> str:
        """The content's, in hex."""
        return self.digest.hexdigest()

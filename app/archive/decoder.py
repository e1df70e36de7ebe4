"""The content of a zip's entries, decoded piece by piece, within limits and checked."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import inflate64
from zlib_ng import zlib_ng

from app.archive.limits import ArchiveError

BLOCK = 2**20
STORED, DEFLATED, DEFLATED64 = 0, 8, 9
METHODS = (STORED, DEFLATED, DEFLATED64)
DEFLATE64_BYTES = 1024
"""Fed to inflate64 at once, since it gives all that they make at once: some 27 MB at most."""

_METHOD_NAMES = {1: "shrink", 6: "implode", 12: "bzip2", 14: "LZMA", 20: "Zstandard"} | {
    **{93: "Zstandard", 95: "xz", 98: "PPMd", 99: "AES encryption"}
}


class Facts(Protocol):
    """What is said of an entry's content: its size in bytes and its CRC-32."""

    @property
    def size(self) -> int: ...
    @property
    def crc(self) -> int: ...


def check_method(name: str, method: int) -> None:
    """Raise ArchiveError for an entry that is compressed by another method than METHODS."""
    if method not in METHODS:
        what = _METHOD_NAMES.get(method, f"method {method}")
        raise ArchiveError(
            f"{name!r} is compressed with {what}, which isn't supported."
            " Zip with deflate or without compression, for example with `zip -0`."
        )


class Decoder:
    """What an entry's compressed bytes hold: given piece by piece, counted and checked.

    `most` bytes are given at most. `size`, `compressed_size` and `crc` are of what has been.
    """

    def __init__(self, name: str, method: int, most: int) -> None:
        self._name = name
        self._most = most
        self._method = method
        self._decoder: Any = None
        if method == DEFLATED:
            self._decoder = zlib_ng.decompressobj(-zlib_ng.MAX_WBITS)
        elif method == DEFLATED64:
            self._decoder = inflate64.Inflater()
        self.compressed_size = self.size = self.crc = 0
        self.rest = b""

    @property
    def ended(self) -> bool:
        """Whether the content itself says that this was all of it. What followed is `rest`; of
        Deflate64, where the reader swallows some of that, it isn't all."""
        return self._decoder is not None and bool(self._decoder.eof)

    def feed(self, block: bytes) -> Iterator[bytes]:
        """The pieces of the content, of at most BLOCK bytes, that the next compressed bytes give.

        Raises ArchiveError where the content can't be right.
        """
        self.compressed_size += len(block)
        if self._decoder is None:
            pieces: Iterator[bytes] = iter((block,))
        else:
            pieces = self._inflated(block) if self._method == DEFLATED else self._inflated64(block)
        for piece in pieces:
            self.size += len(piece)
            self.crc = zlib_ng.crc32(piece, self.crc)
            if self.size > self._most:
                raise ArchiveError(f"{self._name!r} is larger than the archive says. Zip it again.")
            yield piece

    def check(self, said: Facts) -> None:
        """Raise ArchiveError unless all that was fed is what is said of it."""
        self.check_end()
        if self.size != said.size:
            more = "larger" if self.size > said.size else "smaller"
            raise ArchiveError(f"{self._name!r} is {more} than the archive says. Zip it again.")
        if self.crc != said.crc:
            raise ArchiveError(
                f"{self._name!r} is damaged: its checksum doesn't agree. Zip and upload it again."
            )

    def check_end(self) -> None:
        """Raise ArchiveError unless the content ends with what was fed."""
        if self._decoder is not None and not self.ended:
            raise ArchiveError(f"{self._name!r} is cut off. Zip and upload it again.")
        if self.rest:
            raise ArchiveError(f"{self._name!r} has other data after its end.")

    def _inflated(self, block: bytes) -> Iterator[bytes]:
        inflate = self._decoder
        while not inflate.eof:
            try:
                piece = inflate.decompress(block, BLOCK)
            except zlib_ng.error:  # type: ignore[misc]
                raise self._damaged() from None
            block = inflate.unconsumed_tail
            if piece:
                yield piece
            elif not block and not inflate.eof:
                return
        self.rest = inflate.unused_data or block
        self.compressed_size -= len(self.rest)

    def _inflated64(self, block: bytes) -> Iterator[bytes]:
        for at in range(0, len(block), DEFLATE64_BYTES):
            if self._decoder.eof:
                self.rest = block[at:]
                return
            try:
                made = self._decoder.inflate(block[at : at + DEFLATE64_BYTES])
            except ValueError:
                raise self._damaged() from None
            yield from (made[start : start + BLOCK] for start in range(0, len(made), BLOCK))

    def _damaged(self) -> ArchiveError:
        return ArchiveError(f"{self._name!r} is damaged. Zip and upload it again.")


@dataclass(frozen=True)
class Unpacked:
    """An entry's content that was written to the file `path` as it arrived; sizes in bytes,
    `sha256` in hex."""

    path: Path
    size: int
    compressed_size: int
    crc: int
    sha256: str

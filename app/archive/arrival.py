"""A zip on its way in: what its entries hold is unpacked, checked and hashed as its bytes pass.

So every byte is written once, in its final form. What stays of the zip itself is a sparse file:
everything but the contents, each record at its place. Archive reads that as it reads a whole zip
and holds what was unpacked against it; until then, nothing that was unpacked has even a name.
"""

import ctypes
import hashlib
import os
import queue
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from app.archive.content import DEFLATED, STORED, Content, Limits, Unpacked, check_ratio
from app.archive.zip_records import (
    DESCRIPTOR_BYTES,
    ENCRYPTED,
    HAS_DESCRIPTOR,
    LOCAL,
    MASKED,
    STRONG,
    ArchiveError,
    LocalHeader,
    descriptor_size,
    local_header,
    local_header_size,
)

QUEUED_PIECES = 4
UNSTATED_BYTES = 4 * 2**30
WRITE_BACK_BYTES = 32 * 2**20

_AT_WORK = threading.BoundedSemaphore(len(os.sched_getaffinity(0)))
"""Held to hash and write a piece: more threads at it than processors would only keep requests that
are quickly answered from their turn."""

Waiting = Generator[None, None, None]
"""Code that yields where it can't go on without more bytes."""


class Arrival:
    """Takes a zip's bytes in order, and makes of them in `folder` what Archive is opened with.

    `path` is the sparse file, `unpacked` the contents by where in it their data would begin. From
    where it can't be followed (it is no zip, an entry is wrong, or stored without stating its
    size), the rest is kept in `path` as it came. `require(size)` is asked before so many bytes are
    unpacked; what it raises, `write` raises.
    """

    def __init__(self, folder: Path, limits: Limits, require: Callable[[int], None]) -> None:
        self.path = folder / "upload.zip"
        self.unpacked: dict[int, Unpacked] = {}
        self._folder = folder
        self._limits = limits
        self._require = require
        self._zip = self.path.open("xb", buffering=0)
        self._writer = _Writer()
        self._rest = b""
        self._at = 0
        self._reading = self._read()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """The end of the zip, unless an exception says otherwise. Raises OSError as `write`."""
        with self._zip:
            self._reading.close()
            self._writer.end()
            if error is None:
                self._writer.check()
                self._keep(len(self._rest))
                self._zip.truncate(self._at)

    def write(self, block: bytes) -> None:
        """Take the next bytes. Raises OSError where they can't be written."""
        self._rest = self._rest + block if self._rest else bytes(block)
        next(self._reading)

    def _take(self, count: int) -> bytes:
        taken, self._rest = self._rest[:count], self._rest[count:]
        self._at += len(taken)
        return taken

    def _keep(self, count: int) -> bytes:
        """Take bytes into the sparse file."""
        self._zip.seek(self._at)
        taken = self._take(count)
        write_all(self._zip, taken)
        return taken

    def _need(self, count: int) -> Waiting:
        while len(self._rest) < count:
            yield

    def _read(self) -> Waiting:
        with suppress(ArchiveError):
            while (yield from self._entry()):
                pass
        while True:
            self._keep(len(self._rest))
            yield

    def _entry(self) -> Generator[None, None, bool]:
        """Unpack an entry. False where none begins that can be followed to its end; raises
        ArchiveError where one does that is wrong."""
        yield from self._need(LOCAL.size)
        head_size = local_header_size(self._rest[: LOCAL.size])
        if head_size is None or len(self.unpacked) >= self._limits.entries:
            return False
        yield from self._need(head_size)
        header = local_header(self._keep(head_size), "An entry")
        with_descriptor = bool(header.flags & HAS_DESCRIPTOR)
        stated = not with_descriptor or header.compressed_size > 0
        if (
            header.flags & (ENCRYPTED | STRONG | MASKED)
            or header.method not in (STORED, DEFLATED)
            or (header.method == STORED and not stated)
        ):
            return False
        if stated and header.compressed_size == 0:
            return True
        content = yield from self._unpack(header, stated)
        if with_descriptor:
            yield from self._need(DESCRIPTOR_BYTES)
            size = descriptor_size(self._rest, content.crc, content.compressed_size, content.size)
            if size is None:
                return False
            self._keep(size)
        return True

    def _unpack(self, header: LocalHeader, stated: bool) -> Generator[None, None, Content]:
        name = header.raw_name.decode(errors="replace")
        if stated:
            check_ratio(name, header.size, header.compressed_size, self._limits)
            self._require(header.size)
        content = Content(name, header.method, header.size if stated else sys.maxsize)
        left = header.compressed_size if stated else sys.maxsize
        path = self._folder / f"entry-{len(self.unpacked)}"
        file = _File(path)
        self.unpacked[self._at] = Unpacked(path, content, file.digest)
        try:
            while left and (stated or not content.ended):
                yield from self._need(1)
                block = self._take(left)
                left -= len(block)
                for piece in content.feed(block):
                    self._writer.write(file, piece)
                if not stated and content.size > UNSTATED_BYTES:
                    check_ratio(name, content.size, content.compressed_size, self._limits)
        finally:
            self._writer.close(file)
        if not stated:
            self._rest, content.rest = content.rest, b""
            self._at -= len(self._rest)
        return content


class _File:
    """A file that a _Writer writes; `digest` is its sha256 once it is closed."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("xb", buffering=0)
        self.digest = hashlib.sha256()
        self._size = self._started = 0

    def write(self, piece: bytes) -> None:
        """Hash and write; what is written starts for the disk early, so that the sync at the end
        finds little left to wait for."""
        self.digest.update(piece)
        write_all(self.file, piece)
        self._size += len(piece)
        if self._size - self._started >= WRITE_BACK_BYTES:
            _start_write_back(self.file.fileno(), self._started, self._size - self._started)
            self._started = self._size


class _Writer:
    """Writes and hashes on a thread of its own, while more is received and inflated."""

    def __init__(self) -> None:
        self._queue: queue.Queue[tuple[_File, bytes | None] | None] = queue.Queue(QUEUED_PIECES)
        self._failure: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="arrival", daemon=True)
        self._thread.start()

    def write(self, file: _File, piece: bytes) -> None:
        """Write `piece` some time. Raises OSError where an earlier write has failed."""
        self.check()
        self._queue.put((file, piece))

    def close(self, file: _File) -> None:
        """Close `file` once all of it is written."""
        self._queue.put((file, None))

    def check(self) -> None:
        """Raise what a write has raised."""
        if self._failure is not None:
            raise self._failure

    def end(self) -> None:
        """Wait for all that was asked for."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            file, piece = item
            try:
                if piece is None:
                    file.file.close()
                elif self._failure is None:
                    with _AT_WORK:
                        file.write(piece)
            except OSError as error:
                self._failure = error


def _start_write_back(descriptor: int, offset: int, size: int) -> None:
    """Have the kernel begin to write that range to the disk. Source: sync_file_range(2)."""
    begin_only = 2
    ctypes.CDLL(None).sync_file_range(
        descriptor, ctypes.c_int64(offset), ctypes.c_int64(size), begin_only
    )


def write_all(file: Any, block: bytes) -> None:
    """Write a whole block to an unbuffered file."""
    view = memoryview(block)
    while view:
        view = view[file.write(view) :]

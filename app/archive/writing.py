"""Files written and hashed on a thread of their own, while more is received and decoded."""

import ctypes
import hashlib
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

QUEUED_PIECES = 4
WRITE_BACK_BYTES = 32 * 2**20
BLOCK = 2**20

_AT_WORK = threading.BoundedSemaphore(len(os.sched_getaffinity(0)))
"""Held to hash and write a piece: more threads at it than processors would only keep requests that
are quickly answered from their turn."""


class Writer:
    """Does what it is given in order, on a thread of its own; `most` things wait or are under way.

    What the thread raises, of whatever kind, the next call raises; nothing is done after it.
    """

    def __init__(self, most: int = QUEUED_PIECES) -> None:
        self._most = most
        self._pool = ThreadPoolExecutor(1, "arrival")
        self._pending: deque[Future[None]] = deque()
        self._failed = False

    def submit(self, function: Callable[..., None], *arguments: Any) -> None:
        """Have it done some time; waits while there is too much to do."""
        self.wait(self._most - 1)
        self._pending.append(self._pool.submit(self._do, function, *arguments))

    def wait(self, most: int = 0) -> None:
        """Wait until at most so many are left to do."""
        while len(self._pending) > most:
            self._pending.popleft().result()

    def end(self) -> None:
        """Wait for the thread; what wasn't begun is left undone."""
        self._pool.shutdown(cancel_futures=True)

    def _do(self, function: Callable[..., None], *arguments: Any) -> None:
        if self._failed:
            return
        try:
            function(*arguments)
        except BaseException:
            self._failed = True
            raise


class HashedFile:
    """A file that is written once from its start; `digest` is the sha256 of what was.

    Of a file that is begun again, the first `kept` bytes are there: hashed, but not written.
    """

    def __init__(self, path: Path, kept: int | None = None) -> None:
        self.path = path
        self.digest = hashlib.sha256()
        self._kept = kept or 0
        self._size = self._started = 0
        self._file = path.open("xb" if kept is None else "r+b", buffering=0)
        self._file.seek(self._kept)

    def write(self, piece: bytes) -> None:
        """Hash and write; what is written starts for the disk early, so that the sync at the end
        finds little left to wait for."""
        with _AT_WORK:
            self.digest.update(piece)
            write_all(self._file, memoryview(piece)[max(0, self._kept - self._size) :])
            self._size += len(piece)
        if self._size - self._started >= WRITE_BACK_BYTES:
            _start_write_back(self._file.fileno(), self._started, self._size - self._started)
            self._started = self._size

    def sync(self) -> None:
        """Wait until what was written is on the disk."""
        if not self._file.closed:
            os.fdatasync(self._file.fileno())

    def close(self) -> None:
        """Close the file; again, too."""
        self._file.close()


def _start_write_back(descriptor: int, offset: int, size: int) -> None:
    """Have the kernel begin to write that range to the disk. Source: sync_file_range(2)."""
    begin_only = 2
    ctypes.CDLL(None).sync_file_range(
        descriptor, ctypes.c_int64(offset), ctypes.c_int64(size), begin_only
    )


def release(descriptor: int, offset: int, size: int) -> None:
    """Give back a range's room on the disk, where the filesystem can. Source: fallocate(2)."""
    keep_size, punch_hole = 1, 2
    ctypes.CDLL(None).fallocate(
        descriptor, keep_size | punch_hole, ctypes.c_int64(offset), ctypes.c_int64(size)
    )


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(file: Any, block: bytes | memoryview) -> None:
    """Write a whole block to an unbuffered file."""
    view = memoryview(block)
    while view:
        view = view[file.write(view) :]

"""Locks on names, seen by the threads and processes of every service on one models directory."""

import fcntl
import hashlib
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from app.storage.failures import Busy

_FLOCK = "hhqqi4x"
"""C's struct flock on 64-bit Linux: type, whence, start, length, pid."""


class Locks:
    """One lock file, of which each name locks a byte of its own, and who holds which.

    The kernel drops a lock with its holder. To lock takes no new byte and no new inode, so it works
    on a full disk; the empty files in `holders`, `<key>.<task>`, only serve to name the holder.
    Source: fcntl(2), open file description locks.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "lock"
        self.holders = folder / "locks"

    @contextmanager
    def hold(self, name: str, doing: str, task: str, *, shared: bool = False) -> Iterator[None]:
        """Hold `name` for `task`, alone or with others that share it.

        Raises Busy, saying `doing` of the tasks that hold it.
        """
        place = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) >> 2
        kind = fcntl.F_RDLCK if shared else fcntl.F_WRLCK
        descriptor = self._open()
        try:
            if not _lock(descriptor, kind, place):
                raise Busy(f"{_named(self._tasks(place))} {doing}.")
            if not shared:
                self._forget(place)  # those that were killed
            mark = self.holders / f"{place:016x}.{task}"
            with suppress(OSError):
                mark.touch()
            try:
                yield
            finally:
                with suppress(OSError):
                    mark.unlink()
                # A process that is being started just now may have a copy of the descriptor.
                _lock(descriptor, fcntl.F_UNLCK, place)
        finally:
            os.close(descriptor)

    def sweep(self) -> None:
        """Remove what names tasks that hold nothing any more."""
        descriptor = self._open()
        try:
            # A task makes its mark when it has the lock: one listed before the lock was seen free
            # is a dead one's.
            for path in list(self.holders.iterdir()):
                place, _, _ = path.name.partition(".")
                if not _is_place(place) or _is_free(descriptor, int(place, 16)):
                    path.unlink(missing_ok=True)
        finally:
            os.close(descriptor)

    def _open(self) -> int:
        try:
            return os.open(self._file, os.O_RDWR)
        except FileNotFoundError:
            self.holders.mkdir(parents=True, exist_ok=True)
            return os.open(self._file, os.O_RDWR | os.O_CREAT, 0o600)

    def _marks(self, place: int) -> list[Path]:
        try:
            return list(self.holders.glob(f"{place:016x}.*"))
        except OSError:
            return []

    def _tasks(self, place: int) -> list[str]:
        return sorted(mark.name.partition(".")[2] for mark in self._marks(place))

    def _forget(self, place: int) -> None:
        for mark in self._marks(place):
            with suppress(OSError):
                mark.unlink()


def _named(tasks: list[str]) -> str:
    if not tasks:
        return "Another task is"
    return f"Task {tasks[0]} is" if len(tasks) == 1 else f"Tasks {', '.join(tasks)} are"


def _is_place(text: str) -> bool:
    return len(text) == 16 and set(text) <= set("0123456789abcdef")


def _request(kind: int, place: int) -> bytes:
    return struct.pack(_FLOCK, kind, os.SEEK_SET, place, 1, 0)


def _lock(descriptor: int, kind: int, place: int) -> bool:
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _request(kind, place))
    except (BlockingIOError, PermissionError):
        return False
    return True


def _is_free(descriptor: int, place: int) -> bool:
    answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _request(fcntl.F_WRLCK, place))
    return bool(struct.unpack(_FLOCK, answer)[0] == fcntl.F_UNLCK)

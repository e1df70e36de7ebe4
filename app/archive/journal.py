"""The journal of a resumable upload: a line for each checkpoint, from which it resumes.

A line of the journal says two things: what has been written, which survives the process, and what
of it is on the disk, which survives a power cut, too. The second trails behind, so that nobody has
to wait for the disk. After a reboot, which the kernel's boot id tells, the second alone counts.
"""

import errno
import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

from app.archive.decoder import Unpacked
from app.archive.intake import Arrived

NAME = "journal"
_TAIL_BYTES = 2**16
_NO_ENTRIES = b'"entries": []}\n'


def _boot_id() -> str:
    """Another one after each start of the kernel. Source: random(4)."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return uuid4().hex  # Then what another process has written counts once it is on the disk.


BOOT = _boot_id()


@dataclass
class State:
    """How far an upload is.

    The bytes before `offset` have arrived; those before `boundary` aren't needed any more. `files`
    files were begun; the last one holds `size` bytes for sure where it isn't whole. Where its
    content is stored in the archive as it is, `hole` is where that begins. `is_finished` says that
    all has come and was right. `entries` are those that came since the state before.
    """

    offset: int = 0
    boundary: int = 0
    files: int = 0
    size: int | None = None
    hole: int | None = None
    is_finished: bool = False
    entries: list[Arrived] = field(default_factory=list)


Mark = dict[str, Any]
"""A State as the journal has it, with the number of all entries until then."""


class Journal:
    """The file in `folder` that each State is added to.

    `state`, with all entries, is where a resumed upload stands. Whoever opens it to resume waits
    until another process has synced what that has written.
    """

    def __init__(self, folder: Path, *, begin: bool) -> None:
        """Raises OSError where there is no journal to go on with."""
        self._path = folder / NAME
        self._file: BinaryIO = self._path.open("xb" if begin else "r+b", buffering=0)
        self.state = State()
        self._is_torn = False
        self._written = self._synced = _mark(self.state, 0)
        try:
            if not begin:
                self.lock(fcntl.LOCK_EX)
                self._read(folder)
                self.unlock()
        except BaseException:
            self._file.close()
            raise

    def add(self, state: State) -> Mark:
        """Add a state, all of which is written. It survives the process from now on; the power's
        end, once `mark_synced` is given what this returns."""
        first = self._written["entries"]
        entries = [_packed(entry) for entry in state.entries]
        self._written = _mark(state, first + len(entries))
        self._add_line(first, entries)
        return self._written

    def sync(self) -> None:
        """Wait until what was added is on the disk."""
        os.fdatasync(self._file.fileno())

    def mark_synced(self, mark: Mark) -> None:
        """Say that all of which that state speaks is on the disk, its line included."""
        self._synced = mark
        self._add_line(self._written["entries"], [])

    def fall_back(self) -> None:
        """Say that what isn't on the disk is lost."""
        self._written = self._synced
        self._add_line(self._written["entries"], [])

    def lock(self, how: int = fcntl.LOCK_SH) -> None:
        """Have whoever is to go on with the upload in another process wait until `unlock`."""
        fcntl.flock(self._file, how)

    def unlock(self) -> None:
        """Let others go on with the upload."""
        fcntl.flock(self._file, fcntl.LOCK_UN)

    @property
    def is_synced(self) -> bool:
        """Whether all that was written is on the disk."""
        return self._written == self._synced

    @property
    def bytes_ahead(self) -> int:
        """How much of the upload was written and isn't known to be on the disk."""
        return int(self._written["offset"] - self._synced["offset"])

    @property
    def is_current(self) -> bool:
        """Whether nobody else has written to the journal since."""
        return self._file.tell() == self._path.stat().st_size

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _add_line(self, first: int, entries: list[dict[str, Any]]) -> None:
        line = {"boot": BOOT, "written": self._written, "synced": self._synced}
        text = json.dumps({**line, "first": first, "entries": entries}).encode() + b"\n"
        if self._is_torn:
            text = b"\n" + text
        written = self._file.write(text)
        self._is_torn = written < len(text)
        if self._is_torn:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _read(self, folder: Path) -> None:
        with self._path.open("rb") as file:
            end, line = _last_line(file)
            file.seek(0)
            entries = _entries(file)
        # What was being written when the process was killed, or the power was gone, is cut off.
        self._file.truncate(end)
        self._file.seek(end)
        if line is not None:
            self._synced, self._written = line["synced"], _counting(line)
        del entries[self._written["entries"] :]
        self.state = State(**{**self._written, "entries": list(_unpacked(folder, entries))})


def read_offset(folder: Path) -> int:
    """How many bytes have arrived of the upload in `folder`. Raises OSError where there is no
    journal."""
    with (folder / NAME).open("rb") as file:
        _, line = _last_line(file)
    return int(_counting(line)["offset"]) if line else 0


def _last_line(file: BinaryIO) -> tuple[int, dict[str, Any] | None]:
    """Where the last whole line ends, and what it says."""
    size = start = file.seek(0, os.SEEK_END)
    step = _TAIL_BYTES
    while start > 0:
        start = max(0, start - step)
        file.seek(start)
        end = size
        for text in reversed(file.read(size - start).splitlines(keepends=True)):
            if line := _parsed(text):
                return end, line
            end -= len(text)
        step *= 4
    return 0, None


def _entries(file: BinaryIO) -> list[dict[str, Any]]:
    """The entries of all lines; those that were added again count instead of the first ones."""
    entries: list[dict[str, Any]] = []
    for text in file:
        if not text.endswith(_NO_ENTRIES) and (line := _parsed(text)):
            entries[line["first"] :] = line["entries"]
    return entries


def _mark(state: State, entries: int) -> Mark:
    return {**vars(state), "entries": entries}


def _parsed(text: bytes) -> dict[str, Any] | None:
    """A line; None for what isn't a whole one."""
    with suppress(ValueError):
        line = json.loads(text)
        if text.endswith(b"\n") and isinstance(line, dict) and "written" in line:
            return line
    return None


def _counting(line: dict[str, Any]) -> Mark:
    """Which of a line's two states counts."""
    mark: Mark = line["written"] if line["boot"] == BOOT else line["synced"]
    return mark


def _packed(entry: Arrived) -> dict[str, Any]:
    unpacked = entry.unpacked
    of_file = {"path": unpacked.path.name, "sha256": unpacked.sha256} if unpacked else None
    return {**vars(entry), "file": None, "restored": of_file}


def _unpacked(folder: Path, lines: Iterable[dict[str, Any]]) -> Iterator[Arrived]:
    for line in lines:
        entry = Arrived(**{**line, "restored": None})
        if of_file := line["restored"]:
            entry.restored = Unpacked(
                *(folder / of_file["path"], entry.size, entry.compressed_size, entry.crc),
                of_file["sha256"],
            )
        yield entry

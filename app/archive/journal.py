"""What is kept beside an upload that is to survive its process: how far it is, on the disk."""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.archive.decoder import Unpacked
from app.archive.intake import Arrived

NAME = "journal"


@dataclass
class State:
    """How far an upload is.

    The bytes before `offset` have arrived and are on the disk; those before `boundary` aren't
    needed any more. `files` files were begun; the last one holds `size` bytes for sure where it
    isn't whole. Where its content is stored in the archive as it is, `hole` is where that begins.
    `is_finished` says that all has come and was right.
    """

    offset: int = 0
    boundary: int = 0
    files: int = 0
    size: int | None = None
    hole: int | None = None
    is_finished: bool = False
    entries: list[Arrived] = field(default_factory=list)


class Journal:
    """The file in `folder` that a State is written to, a line at a time."""

    def __init__(self, folder: Path, *, begin: bool) -> None:
        self._folder = folder
        self._file = (folder / NAME).open("xb" if begin else "ab", buffering=0)

    def add(self, state: State) -> None:
        """Write a state, whose `entries` are those that came since the last one, and wait until it
        is on the disk. Everything that it speaks of must be there before."""
        line = {**vars(state), "entries": [_packed(entry) for entry in state.entries]}
        self._file.write(json.dumps(line).encode() + b"\n")
        os.fdatasync(self._file.fileno())

    @property
    def is_current(self) -> bool:
        """Whether nobody else has written to the journal since."""
        return self._file.tell() == (self._folder / NAME).stat().st_size

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_journal(folder: Path) -> State:
    """The last state that was written in `folder`, with the entries of all of them; what was being
    written when the process was killed is cut off. Raises OSError where there is no journal."""
    path = folder / NAME
    text = path.read_bytes()
    whole, end, _ = text.rpartition(b"\n")
    os.truncate(path, len(whole + end))
    states = [json.loads(line) for line in whole.splitlines()]
    state = State(**{**states[-1], "entries": []}) if states else State()
    state.entries = list(_unpacked(folder, (line for each in states for line in each["entries"])))
    return state


def _packed(entry: Arrived) -> dict[str, Any]:
    unpacked = entry.unpacked
    of_file = {"path": unpacked.path.name, "sha256": unpacked.sha256} if unpacked else None
    return {**vars(entry), "file": None, "restored": of_file}


def _unpacked(folder: Path, lines: Iterable[dict[str, Any]]) -> Iterable[Arrived]:
    for line in lines:
        entry = Arrived(**{**line, "restored": None})
        if of_file := line["restored"]:
            entry.restored = Unpacked(
                *(folder / of_file["path"], entry.size, entry.compressed_size, entry.crc),
                of_file["sha256"],
            )
        yield entry

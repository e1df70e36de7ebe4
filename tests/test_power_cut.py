"""Resumable uploads and the power's end: of what wasn't synced, anything may be on the disk."""

import os
import random
import threading
from itertools import pairwise
from pathlib import Path

import pytest

from app.archive import arrival as arriving
from app.archive import journal, syncing
from app.archive.arrival import Arrival
from app.archive.journal import read_offset
from app.archive.limits import Limits
from tests.test_resume import KEPT, UPLOADS, digests, resume

BLOCK = 4096
SEEDS = range(int(os.environ.get("SEEDS", "3")))


class Machine:
    """A machine whose power is gone at the `cut_at`th sync, leaving `left` of the folder; or, where
    `is_kill`, the process is killed then. `synced` is what of the folder is on the disk."""

    def __init__(
        self,
        *folders: Path,
        dice: random.Random,
        cut_at: int,
        is_kill: bool,
        synced: dict[str, bytes],
    ) -> None:
        self.folder, self.left = folders
        self.is_off, self.is_kill, self.synced = False, is_kill, synced
        self._dice, self._cut_at = dice, cut_at
        self._names = set(synced)
        self._turn = threading.Lock()

    def sync(self, descriptor: int) -> None:
        """Instead of fsync and fdatasync: what is there now will be there."""
        with self._turn:
            self._cut_at -= 1
            if not self._cut_at:
                self._cut()
            if self.is_off:
                return
            path = Path(f"/proc/self/fd/{descriptor}")
            if path.is_dir():
                self._names = {path.name for path in self.folder.iterdir()}
            else:
                self.synced[path.readlink().name] = path.read_bytes()

    def cut(self) -> None:
        """Leave what was synced, and of all else some; after a kill, all."""
        with self._turn:
            if not self.is_off:
                self._cut()

    def _cut(self) -> None:
        self.is_off = True
        self.left.mkdir()
        # The journal first: what it speaks of was there before.
        journal_path = self.folder / journal.NAME
        said = journal_path.read_bytes()
        for path in self.folder.iterdir():
            now = said if path == journal_path else path.read_bytes()
            if self.is_kill:
                (self.left / path.name).write_bytes(now)
                continue
            is_begun = path.name in ("upload", "journal")  # which the storage has synced
            if not (is_begun or path.name in self._names) and self._dice.random() < 0.5:
                continue
            content = self._mixed(self.synced.get(path.name, b""), now)
            (self.left / path.name).write_bytes(content)

    def left_synced(self) -> dict[str, bytes]:
        """What of the folder that is left is on the disk."""
        if self.is_kill:
            return self.synced
        return {path.name: path.read_bytes() for path in self.left.iterdir()}

    def _mixed(self, synced: bytes, now: bytes) -> bytes:
        """Block after block: as it was synced, as it is now, or nothing; and a torn end."""
        least, most = sorted((len(synced), len(now)))
        size = self._dice.choice([least, most, self._dice.randint(least, most)])
        if size < len(synced) and len(now) >= len(synced):
            size = len(synced)
        mixed = bytearray()
        for at in range(0, size, BLOCK):
            before, after = synced[at : at + BLOCK], now[at : at + BLOCK]
            if before == after:
                mixed += after
            else:
                lost = bytes(max(0, len(after) - len(before)))
                mixed += self._dice.choice([after, before + after[len(before) :], before + lost])
        return bytes(mixed[:size])


def offset_on_disk(machine: Machine, folder: Path) -> int:
    """What the journal says, as far as it is synced, after another boot."""
    folder.mkdir(exist_ok=True)
    (folder / journal.NAME).write_bytes(machine.synced.get(journal.NAME, b""))
    with pytest.MonkeyPatch.context() as later:
        later.setattr(journal, "BOOT", "another boot")
        return read_offset(folder)


@pytest.mark.parametrize("name", UPLOADS)
def test_what_a_power_cut_or_a_kill_leaves_is_gone_on_with(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The offset is never beyond what is there, and the digests are the source's."""
    monkeypatch.setattr(arriving, "CHECKPOINT_BYTES", 20_000)
    monkeypatch.setattr(syncing, "MOST_AHEAD_BYTES", 40_000)
    content = UPLOADS[name]()
    for seed in SEEDS:
        dice = random.Random(seed)
        folders = [tmp_path / f"{seed}-{number}" for number in range(8)]
        folders[0].mkdir()
        least, synced = 0, dict[str, bytes]()
        for number, (folder, left) in enumerate(pairwise(folders)):
            is_kill = dice.random() < 0.5
            cut_at = dice.randrange(1, 30)
            machine = Machine(
                folder, left, dice=dice, cut_at=cut_at, is_kill=is_kill, synced=synced
            )
            for function in ("fsync", "fdatasync"):
                monkeypatch.setattr(os, function, machine.sync)
            if number == 0:
                arrival = Arrival(folder, Limits(), lambda size: None, resumable=True)
            else:
                offset = read_offset(folder)
                assert offset >= least, seed
                arrival = resume(folder)
                assert arrival.offset == offset, seed
            acknowledged = send(arrival, content, machine, dice)
            machine.cut()
            arrival.close()
            least = acknowledged if is_kill else offset_on_disk(machine, tmp_path / "disk")
            synced = machine.left_synced()
            if not is_kill:
                monkeypatch.setattr(journal, "BOOT", f"boot {seed} {number}")
        monkeypatch.setattr(os, "fsync", lambda descriptor: None)
        monkeypatch.setattr(os, "fdatasync", lambda descriptor: None)
        arrival = resume(folders[-1])
        arrival.write(content[arrival.offset :])
        arrival.finish()
        arrival.close()
        assert digests(arrival) == KEPT, seed


def send(arrival: Arrival, content: bytes, machine: Machine, dice: random.Random) -> int:
    """Send the rest, until the machine is off; how much was acknowledged by then."""
    acknowledged = arrival.offset
    while arrival.offset < len(content) and not machine.is_off:
        arrival.write(content[arrival.offset : arrival.offset + dice.randrange(1, 30_000)])
        if dice.random() < 0.5:
            checkpoint = arrival.checkpoint()
            acknowledged = acknowledged if machine.is_off else checkpoint
    if arrival.offset == len(content):
        arrival.finish()
    return acknowledged

"""What the readers of an arriving archive work with: its bytes, and the files they become."""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from app.archive.decoder import Unpacked
from app.archive.limits import ArchiveError, Limits, check_count, check_ratio
from app.archive.names import Names
from app.archive.writing import HashedFile, Writer, write_all
from app.formats.files import UNKNOWN_SIZE, ModelFile

FIRST_LOOK_BYTES = 2**16

Waiting = Generator[None, None, None]
"""Code that yields where it can't go on without more bytes."""

OnFile = Callable[[ModelFile], bool]
"""Looks at a file of which only the beginning is there: `size` is the whole one's, or UNKNOWN_SIZE
until it has come, `open` gives what has come. True once it has seen enough; what it raises,
`Arrival.write` raises."""


class CutOff(ArchiveError):
    """There are no more bytes where some are needed."""

    def __init__(self) -> None:
        super().__init__("The archive is cut off: its end is missing. Upload it again.")


class Buffer:
    """Bytes in the order they came, until they are taken; `at` is the offset of the next one.

    `most` is how many there will be at most, where that is known.
    What is taken to be kept is written to `file`, at the offset it came from, unless that is before
    `kept`: then it is there.
    """

    def __init__(self, file: BinaryIO | None = None) -> None:
        self.at = 0
        self.kept = 0
        self.ended = False
        self.most: int | None = None
        self._file = file
        self._block = b""
        self._taken = 0

    @property
    def left(self) -> int:
        """How many bytes are there to be taken."""
        return len(self._block) - self._taken

    def add(self, block: bytes) -> None:
        """Take in the next bytes."""
        rest = self._block[self._taken :]
        self._block, self._taken = rest + block if rest else bytes(block), 0

    def check_left(self, count: int) -> None:
        """Raise CutOff where there can't be `count` bytes more."""
        if self.most is not None and self.at + count > self.most:
            raise CutOff

    def need(self, count: int) -> Waiting:
        """Wait until `count` bytes are there. Raises CutOff where there won't be as many."""
        while self.left < count:
            if self.ended:
                raise CutOff
            yield

    def peek(self, count: int) -> bytes:
        """Up to `count` bytes, which stay."""
        return self._block[self._taken : self._taken + count]

    def take(self, count: int, *, keep: bool = False) -> bytes:
        """Up to `count` bytes."""
        taken = self.peek(count)
        if keep:
            self._keep(taken)
        self._taken += len(taken)
        self.at += len(taken)
        return taken

    def give_back(self, block: bytes) -> None:
        """Have these, the last that were taken, be the next ones again."""
        self._block, self._taken = block + self._block[self._taken :], 0
        self.at -= len(block)

    def keep_rest(self) -> int:
        """Keep what isn't taken yet, too, and return the offset of its end."""
        self._keep(self.peek(self.left))
        return self.at + self.left

    def _keep(self, block: bytes) -> None:
        end = self.at + len(block)
        if self._file is not None and end > self.kept:
            start = max(self.at, self.kept)
            self._file.seek(start)
            write_all(self._file, block[start - self.at :])
            self.kept = end


@dataclass
class Arrived:
    """An entry that has arrived whole. Offsets and sizes are in bytes of the archive as it came;
    `said` is the name as it stands there. `file` is None where the entry left none."""

    name: str
    said: str
    size: int = 0
    start: int = 0
    data: int = 0
    end: int = 0
    compressed_size: int = 0
    crc: int = 0
    file: HashedFile | None = None
    restored: Unpacked | None = None

    @property
    def unpacked(self) -> Unpacked | None:
        """Where the content is, and its digest, once all of it is written."""
        if self.file is None:
            return self.restored
        return Unpacked(
            *(self.file.path, self.size, self.compressed_size, self.crc),
            self.file.digest.hexdigest(),
        )


class Output:
    """A file of the archive while it is written."""

    def __init__(
        self,
        intake: "Intake",
        about: ModelFile,
        hashed: HashedFile,
        data: int,
        is_stored: bool,
    ) -> None:
        self.hashed = hashed
        self.data = data
        self.is_stored = is_stored
        self.size = 0
        self._intake = intake
        self._about = about
        self._look_at = FIRST_LOOK_BYTES if about.size else 0

    def write(self, piece: bytes) -> None:
        """Write the next piece. Raises what an earlier write, or a look at the file, has raised."""
        self._intake.writer.submit(self.hashed.write, piece)
        self.size += len(piece)
        if self._look_at and self.size >= self._look_at:
            self._look_at *= 4
            self._look()

    def end(self) -> HashedFile:
        """The file, all of which is given."""
        if self._look_at or self._about.size in (0, UNKNOWN_SIZE):
            self._about = ModelFile(self._about.name, self.size, self._about.open)
            self._look()
        self._intake.writer.submit(self.hashed.close)
        return self.hashed

    def _look(self) -> None:
        self._intake.writer.wait()
        if self._intake.on_file(self._about):
            self._look_at = 0


class Intake:
    """The entries of an archive that arrives: names checked, files written, totals bounded."""

    def __init__(
        self,
        folder: Path,
        limits: Limits,
        require: Callable[[int], None],
        on_file: OnFile,
        writer: Writer,
    ) -> None:
        self.limits = limits
        self.require = require
        self.on_file = on_file
        self.writer = writer
        self.entries: list[Arrived] = []
        self.boundary = 0
        self.output: Output | None = None
        self.files = 0
        self.kept: dict[int, int] = {}
        self._folder = folder
        self._names = Names(limits)
        self._size = self._compressed_size = 0

    def name(self, said: str) -> str:
        """The path of the next entry, which is called so. Raises ArchiveError."""
        check_count(len(self.entries) + 1, self.limits)
        return self._names.add(said)

    def begin(self, name: str, size: int | None, data: int, *, is_stored: bool) -> Output:
        """The file that the entry `name` becomes; `size` is None where it isn't known. `data` is
        where its content begins in the archive, where it may be `is_stored` as it is."""
        kept = self.kept.get(self.files)
        if size:
            self.require(size - (kept or 0))
        path = self._folder / f"entry-{self.files}"
        hashed = HashedFile(path, kept)
        self.files += 1
        about = ModelFile(name, UNKNOWN_SIZE if size is None else size, lambda: path.open("rb"))
        self.output = Output(self, about, hashed, data, is_stored)
        return self.output

    def done(self, entry: Arrived, boundary: int = 0) -> None:
        """An entry is whole; from `boundary` on, the archive can be read without what was before.

        Raises ArchiveError where all entries are more than can have been compressed so well.
        """
        self.output = None
        self.boundary = boundary
        self.entries.append(entry)
        self._size += entry.size
        self._compressed_size += entry.compressed_size
        check_ratio("The archive", self._size, self._compressed_size, self.limits)

    def restore(self, entry: Arrived) -> None:
        """Have an entry that arrived earlier."""
        self.name(entry.said)
        self.done(entry, entry.end)
        self.files += entry.restored is not None

    def close(self) -> None:
        """Close the files that are open."""
        if self.output:
            self.output.hashed.close()
        for entry in self.entries:
            if entry.file:
                entry.file.close()

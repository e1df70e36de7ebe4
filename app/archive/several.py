"""Several files sent without an archive: they become what a zip of them would."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from app.archive.intake import Arrived, Intake, OnFile
from app.archive.limits import ArchiveError, Limits
from app.archive.names import is_junk
from app.archive.reader import Archive, Entry
from app.archive.writing import Writer


class SeveralFiles:
    """Takes files, and makes of them in `folder` what `archive` gives. Their names and their number
    are held to the rules for archives; each byte is written once.

    `require` and `on_file` are as for an Arrival.
    """

    def __init__(
        self, folder: Path, limits: Limits, require: Callable[[int], None], on_file: OnFile
    ) -> None:
        self._writer = Writer()
        self._intake = Intake(folder, limits, require, on_file, self._writer)

    @contextmanager
    def file(self, said: str) -> Iterator[Callable[[bytes], None]]:
        """What takes the content of the next file, which is called so: a path with `/`.

        Raises ArchiveError, also while its content is taken, and what `on_file` raises.
        """
        name = self._intake.name(said)
        if name.endswith("/"):
            raise ArchiveError(f"{name!r} is a folder's name, not a file's.")
        if is_junk(name):
            yield _drop
            self._intake.done(Arrived(name, said))
            return
        output = self._intake.begin(name, None, 0, is_stored=True)
        yield output.write
        size = output.size
        self._intake.done(Arrived(name, said, size, compressed_size=size, file=output.end()))

    def add(self, said: str, content: bytes) -> None:
        """Take a file whose content is here; raises as `file`."""
        with self.file(said) as write:
            write(content)

    def finish(self) -> None:
        """Wait until all is written. Raises OSError."""
        self._writer.wait()

    def close(self) -> None:
        """Close what is open."""
        self._writer.end()
        self._intake.close()

    def archive(self) -> Archive:
        """The files, without the one folder that they may all be in. Raises ArchiveError."""
        entries = self._intake.entries
        return Archive([Entry(e.name, e.size, found) for e in entries if (found := e.unpacked)])


def _drop(piece: bytes) -> None:
    """Keep nothing of a file that an operating system added by itself."""

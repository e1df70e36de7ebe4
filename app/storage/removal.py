"""What is no longer wanted in the models directory: moved aside by one rename, then removed."""

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from app.storage.disk import locked, remove_all


class Removed:
    """The folder that it is moved to. What somebody still reads stays there until they are done."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def take(self, path: Path) -> Path:
        """Move a file or folder there, and return where it is now. Raises OSError.

        Needs no new byte and no new inode: a full disk can be emptied.
        """
        taken = self.folder / uuid4().hex
        try:
            os.rename(path, taken)
        except FileNotFoundError:
            if self.folder.is_dir():
                raise
            self.folder.mkdir(parents=True, exist_ok=True)
            os.rename(path, taken)
        return taken

    def bury(self, taken: Path) -> None:
        """Remove what was taken, unless someone still reads it."""
        with suppress(FileNotFoundError):
            if taken.is_symlink() or not taken.is_dir():
                taken.unlink()
                return
            with suppress(BlockingIOError), locked(taken, fcntl.LOCK_EX | fcntl.LOCK_NB):
                remove_all(taken)

    def discard(self, path: Path) -> None:
        """Remove a file or folder of the same filesystem, if it is there."""
        try:
            self.bury(self.take(path))
        except OSError:
            remove_all(path)

    def empty(self) -> None:
        """Remove all that nobody reads any more."""
        with suppress(FileNotFoundError):
            for taken in self.folder.iterdir():
                self.bury(taken)

"""Where models are made before anybody sees them: a staging folder a task, beside the models."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from app.archive.limits import Limits
from app.archive.writing import sync
from app.storage.disk import locked
from app.storage.models import Models
from app.storage.staging import Staging


class StagedModels(Models):
    """The models, and the staging folders that they come from: each is locked by its task, and
    removed by whoever looks next where that was killed."""

    def __init__(self, folder: Path, limits: Limits | None = None) -> None:
        super().__init__(folder, limits)
        self._staging = self.state_folder / "staging"

    @contextmanager
    def staging(self, task: str) -> Iterator[Staging]:
        """A staging folder for `task`, removed with all that is in it at the end."""
        folder = self._staging / task
        self._make_folders()
        self.sweep()
        with ExitStack() as held:
            with locked(self._staging, fcntl.LOCK_SH):
                folder.mkdir()
                held.callback(self.removed.discard, folder)
                held.enter_context(locked(folder, fcntl.LOCK_EX))
            yield Staging(self, task, folder, held)

    def sweep(self) -> None:
        """Remove the staging folders of tasks that no longer run."""
        gone = suppress(BlockingIOError, FileNotFoundError)
        with gone, locked(self._staging, fcntl.LOCK_EX | fcntl.LOCK_NB):
            for folder in self._staging.iterdir():
                with gone, locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    self.put_back(folder)
                    self.removed.take(folder)
        self.removed.empty()

    def check_writable(self) -> None:
        """Raise OSError unless the models directory takes all that an upload does to it."""
        probe = str(uuid4())
        with self.staging(probe) as staging, self.hold(probe, probe):
            written = staging.folder / "written"
            written.write_bytes(b"ready")
            sync(written)
            os.rename(written, staging.folder / "renamed")

    def _make_folders(self) -> None:
        super()._make_folders()
        self._staging.mkdir(exist_ok=True)

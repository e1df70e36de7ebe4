"""Files that clients have sent by their digest, before a model is made of them: as Ollama's blobs.

Each is whole, or isn't there. One that no model is made of expires.
"""

import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from app.archive.writing import HashedFile, Writer, sync
from app.storage.failures import Busy, NoSpace, UploadLocked, WrongDigest
from app.storage.locks import Locks
from app.storage.manifest import StoredFile
from app.storage.staged import StagedModels

MAX_BLOBS = 10_000
SMALL_BYTES = 2**20
"""What two clients may send at once: a folder's configs are often alike."""

SPACE_BYTES = 64 * 2**20
_FILE = re.compile(r"sha256-([0-9a-f]{64})")


class Blobs:
    """The blobs in `folder`, each removed `lifetime` seconds after it came by whoever looks next.

    What the stored models hold is found as well: nothing has to be sent twice.
    """

    def __init__(self, storage: StagedModels, locks: Locks, folder: Path, lifetime: float) -> None:
        self._storage = storage
        self._locks = locks
        self._folder = folder
        self._lifetime = lifetime

    def find(self, sha256: str) -> tuple[Path, StoredFile] | None:
        """Path and entry of a file with that content (hex), a blob's or a stored model's; None
        where there is none."""
        return self.find_all([sha256]).get(sha256)

    def find_all(self, digests: Iterable[str]) -> dict[str, tuple[Path, StoredFile]]:
        """The same for each of these digests that is here."""
        found = {}
        stored: dict[str, tuple[Path, StoredFile]] | None = None
        for sha256 in digests:
            blob = self._blob(sha256)
            if blob is None:
                if stored is None:
                    stored = self._storage.published_files(least=0)
                blob = stored.get(sha256)
            if blob is not None:
                found[sha256] = blob
        return found

    def receive(self, sha256: str, blocks: Iterable[bytes]) -> None:
        """Take a blob's bytes, and keep it once it is seen to be what `sha256` (hex) says.

        Raises WrongDigest where it isn't, UploadLocked where another sends the same large one at
        this moment, NoSpace and OSError; nothing is kept then, nor where `blocks` raises.
        """
        self.sweep()
        if len(self._all()) >= MAX_BLOBS:
            raise NoSpace(f"{MAX_BLOBS} blobs wait for a model to be made of them.")
        task = str(uuid4())
        with self._storage.staging(task) as staging, ExitStack() as held:
            file = HashedFile(staging.folder / "blob")
            held.callback(file.close)
            writer = Writer()
            held.callback(writer.end)
            size = left = 0
            for block in blocks:
                if size <= SMALL_BYTES < size + len(block):
                    held.enter_context(self._sole_writer(sha256, task))
                if len(block) > left:
                    self._storage.require_space(SPACE_BYTES, "This blob")
                    left = SPACE_BYTES
                size, left = size + len(block), left - len(block)
                writer.submit(file.write, block)
            writer.submit(file.sync)
            writer.wait()
            if file.digest.hexdigest() != sha256:
                raise WrongDigest(file.digest.hexdigest())
            self._folder.mkdir(exist_ok=True)
            os.rename(file.path, self._folder / f"sha256-{sha256}")
            sync(self._folder)

    def remove(self, digests: Iterable[str]) -> None:
        """Remove these blobs: models hold their content now, or nobody wants it any more."""
        for sha256 in digests:
            with suppress(FileNotFoundError):
                (self._folder / f"sha256-{sha256}").unlink()

    def expired(self) -> list[Path]:
        """The blobs that `sweep` removes."""
        found = []
        for path in (self._folder / name for name in self._all()):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > self._lifetime:
                    found.append(path)
        return found

    def sweep(self) -> None:
        """Remove what has expired."""
        for path in self.expired():
            path.unlink(missing_ok=True)

    def _blob(self, sha256: str) -> tuple[Path, StoredFile] | None:
        path = self._folder / f"sha256-{sha256}"
        with suppress(FileNotFoundError):
            status = path.stat()
            if time.time() - status.st_mtime <= self._lifetime:
                return path, StoredFile(status.st_size, status.st_mtime_ns, sha256)
        return None

    def _all(self) -> list[str]:
        with suppress(FileNotFoundError):
            return [name for name in os.listdir(self._folder) if _FILE.fullmatch(name)]
        return []

    @contextmanager
    def _sole_writer(self, sha256: str, task: str) -> Iterator[None]:
        try:
            with self._locks.hold(f"blob {sha256}", "receiving this blob", task):
                yield
        except Busy:
            raise UploadLocked(
                "Another client is sending this file at this moment. Create the model again when"
                " that has ended: what is here by then isn't sent twice."
            ) from None

"""The models directory, whole: models, staging folders, partial uploads and blobs.

What arrives is staged in `.model-handler/staging` on the same filesystem, and published by one
rename. What is no longer wanted goes to `.model-handler/removed`, and from there as soon as nobody
reads it.
"""

from collections.abc import Iterable
from pathlib import Path

from app.archive.limits import Limits
from app.storage.blobs import Blobs
from app.storage.partial import WEEK_SECONDS, PartialUploads
from app.storage.staged import StagedModels
from app.storage.staging import WantedFile


class Storage(StagedModels):
    """The models directory and the service's own state folder in it."""

    def __init__(
        self,
        folder: Path,
        limits: Limits | None = None,
        upload_lifetime: float = WEEK_SECONDS,
    ) -> None:
        """A partial upload expires `upload_lifetime` seconds after bytes came last, a blob so long
        after it came."""
        super().__init__(folder, limits)
        self.uploads = PartialUploads(self, self.state_folder / "uploads", upload_lifetime)
        self.blobs = Blobs(self, self._locks, self.state_folder / "blobs", upload_lifetime)

    def prepare(self) -> None:
        """Make the folders, and remove what killed tasks have left in them."""
        self._make_folders()
        self.sweep()
        self._locks.sweep()
        self.uploads.sweep()
        self.blobs.sweep()

    def reserved_bytes(self, but: str | None = None) -> int:
        """What partial uploads, other than the one with the id `but`, have still to bring."""
        return self.uploads.undelivered_bytes(but)

    def missing(self, files: Iterable[WantedFile]) -> list[WantedFile]:
        """Those of the files whose content isn't stored here, or is too small to be shared; see
        Staging.link_known for the others."""
        published = self.published_files()
        return [
            file
            for file in files
            if file.sha256 not in published or published[file.sha256][1].size != file.size
        ]

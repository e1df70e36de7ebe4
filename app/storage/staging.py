"""One task's staging folder: where an upload is received, extracted, and published from."""

import hashlib
import os
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.archive.arrival import Arrival
from app.archive.intake import OnFile
from app.archive.limits import ArchiveError
from app.archive.names import is_own
from app.archive.reader import Archive, Entry
from app.archive.writing import write_all
from app.progress import Report
from app.storage.disk import sync
from app.storage.manifest import Manifest, StoredFile, write_manifest

if TYPE_CHECKING:
    from app.storage.directory import Storage


class Staging:
    """A staging folder, held by its task for as long as it lives."""

    def __init__(self, storage: "Storage", task: str, folder: Path, held: ExitStack) -> None:
        self.folder = folder
        self._model = folder / "model"
        self._storage = storage
        self._task = task
        self._held = held
        self._arrival: Arrival | None = None

    def hold(self, name: str) -> None:
        """Hold the model `name` for as long as the staging folder lives. Raises Busy."""
        self._held.enter_context(self._storage.hold(name, self._task))

    def receive(self, filename: str = "", on_file: OnFile | None = None) -> Arrival:
        """What takes the upload's bytes, and unpacks them as they come; see Arrival."""
        self._arrival = Arrival(
            *(self.folder, self._storage.limits, self._require), filename=filename, on_file=on_file
        )
        return self._arrival

    def archive(self) -> Archive:
        """The upload, once it is here whole. Raises ArchiveError."""
        assert self._arrival is not None
        archive = self._arrival.archive()
        try:
            waiting = (entry.size for entry in archive.entries if not archive.unpacked(entry))
            self._require(sum(waiting))
        except BaseException:
            archive.close()
            raise
        return archive

    def extract(self, archive: Archive, facts: dict[str, Any], report: Report) -> None:
        """Put every entry in its place, and keep digests and `facts` with them.

        What wasn't unpacked as it arrived is extracted, and hashed in the same pass. Raises
        ArchiveError where the bytes aren't what the listing says.
        """
        files: dict[str, StoredFile] = {}
        done = 0
        self._model.mkdir()
        published = self._storage.published_files()
        for entry in archive.entries:
            if any(map(is_own, entry.name.split("/"))):
                raise ArchiveError(f"{entry.name!r} is a name of the service's own. Rename it.")
            path = self._model / entry.name
            path.parent.mkdir(parents=True, exist_ok=True)
            if unpacked := archive.unpacked(entry):
                os.rename(unpacked.path, path)
                digest = unpacked.sha256
            else:
                digest = self._extract(archive, entry, path, done, report)
            done += entry.size
            _report_extracted(report, archive, entry, done)
            if digest in published:
                self._share(path, *published[digest])
            sync(path)
            status = path.stat()
            files[entry.name] = StoredFile(status.st_size, status.st_mtime_ns, digest)
        created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        write_manifest(self._model, Manifest(files, {"created_at": created, **facts}))
        for parent, _, _ in os.walk(self._model):
            sync(Path(parent))

    def publish(self, name: str) -> None:
        """Make what was extracted the model `name`; a model that was replaced gives its space
        back."""
        self._storage.publish(self._model, name)

    def _extract(
        self, archive: Archive, entry: Entry, path: Path, before: int, report: Report
    ) -> str:
        digest = hashlib.sha256()
        with path.open("xb", buffering=0) as file:
            for block in archive.chunks(entry):
                write_all(file, block)
                digest.update(block)
                _report_extracted(report, archive, entry, before + file.tell())
        return digest.hexdigest()

    def _share(self, path: Path, published: Path, entry: StoredFile) -> None:
        """Make `path` one with a published file of the same content: the same base in ten zips
        takes its room once."""
        link = self.folder / "shared"
        with suppress(OSError):  # it has gone meanwhile, or this filesystem has no links
            os.link(published, link, follow_symlinks=False)
            # By now another file may have that name.
            if entry.holds(link.stat()):
                os.replace(link, path)
            else:
                link.unlink()

    def _require(self, size: int) -> None:
        self._storage.require_space(size, "Extracting this archive")


def _report_extracted(report: Report, archive: Archive, entry: Entry, done: int) -> None:
    total = archive.total_size
    details = {"file": entry.name, "bytes": done, "total_bytes": total}
    report("Extracting.", details, done / total if total else None)

"""One task's staging folder: where an upload is received, extracted, and published from."""

import hashlib
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.archive.arrival import Arrival
from app.archive.decoder import Unpacked
from app.archive.intake import OnFile
from app.archive.limits import ArchiveError, check_count
from app.archive.names import Names, is_own
from app.archive.reader import Archive, Entry
from app.archive.several import SeveralFiles
from app.archive.writing import sync, write_all
from app.progress import Report
from app.storage.failures import ContentMissing, NoSuchUpload
from app.storage.manifest import Manifest, StoredFile, write_manifest
from app.storage.model import Model
from app.storage.models import Models


@dataclass(frozen=True)
class WantedFile:
    """A file that a client has: its name below the model's folder, size in bytes and sha256 (hex).

    Whoever may upload may download every model too, so to know a digest opens nothing that was
    closed: one content serves all.
    """

    name: str
    size: int
    sha256: str


class Staging:
    """A staging folder, held by its task for as long as it lives."""

    def __init__(
        self,
        models: Models,
        task: str,
        folder: Path,
        held: ExitStack,
        arrival: Arrival | SeveralFiles | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """`arrival` is that of an upload, of which its client said `metadata`. It is here already,
        and stays as it is until it is published, or `is_of_no_use`."""
        self.folder = folder
        self.metadata = metadata or {}
        self.filename = self.metadata.get("filename", "")
        self.is_published = False
        self.keeps_upload = arrival is not None
        self.is_of_no_use = False
        self.model_name = ""
        self._model = folder / "model"
        self._models = models
        self._task = task
        self._held = held
        self._arrival = arrival
        self._known: list[Entry] = []
        self._name_held = ExitStack()

    def hold(self, name: str) -> None:
        """Hold the model `name` for as long as the staging folder lives, or until another is held
        instead. Raises Busy."""
        before, self.model_name = self.model_name, name
        if name == before:
            return
        with ExitStack() as new:
            new.enter_context(self._models.hold(name, self._task))
            self._name_held.close()
            self._name_held = self._held.enter_context(new.pop_all())

    def receive(self, filename: str = "", on_file: OnFile | None = None) -> Arrival:
        """What takes the upload's bytes, and unpacks them as they come; see Arrival."""
        arrival = self._arrival = Arrival(
            *(self.folder, self._models.limits, self._require), filename=filename, on_file=on_file
        )
        return arrival

    @contextmanager
    def receive_files(self, on_file: OnFile) -> Iterator[SeveralFiles]:
        """What takes an upload of several files, for the block."""
        files = SeveralFiles(self.folder, self._models.limits, self._require, on_file)
        try:
            yield files
            files.finish()
        finally:
            files.close()
        self._arrival = files

    def link_known(self, files: Iterable[WantedFile]) -> None:
        """Have these files, which are stored here already, be part of the upload.

        What is sent beside them comes in an archive whose one top folder is the model's, so that
        its names are told from those of folders in it.
        Raises ContentMissing for those that aren't, ArchiveError for a name that could go astray.
        """
        published = self._models.published_files()
        names = Names(self._models.limits)
        missing = []
        for number, file in enumerate(files):
            name = names.add(file.name)
            path = self.folder / f"known-{number}"
            path.unlink(missing_ok=True)
            found, entry = published.get(file.sha256, (None, None))
            if found and entry and entry.size == file.size and _link(found, entry, path):
                here = Unpacked(path, file.size, file.size, 0, file.sha256)
                self._known.append(Entry(name, file.size, here))
            else:
                missing.append(file.name)
        if missing:
            raise ContentMissing(missing)

    def link_blobs(
        self, digests: Mapping[str, str], found: Mapping[str, tuple[Path, StoredFile]]
    ) -> None:
        """Have the files of these names be part of the upload: each the content of a sha256 (hex)
        that is here, a blob's or a stored model's.

        Raises ContentMissing for those that aren't, ArchiveError for too many and for a name that
        could go astray.
        """
        check_count(len(digests), self._models.limits)
        names = Names(self._models.limits)
        for said, sha256 in digests.items():
            name = names.add(said)
            path = self.folder / f"known-{len(self._known)}"
            if sha256 not in found:
                raise ContentMissing([said])
            source, entry = found[sha256]
            size = entry.size
            if not (_link(source, entry, path) or self._copied(source, entry, path)):
                raise ContentMissing([said])
            self._known.append(Entry(name, size, Unpacked(path, size, size, 0, sha256)))

    def _copied(self, source: Path, entry: StoredFile, target: Path) -> bool:
        """Copy a file, on a filesystem without links; whether it still was what `entry` says."""
        with suppress(FileNotFoundError):
            self._require(entry.size)
            shutil.copyfile(source, target)
            return entry.matches(source.stat())
        return False

    def add_text(self, name: str, text: str) -> None:
        """Have a small file, with that text, be part of the upload."""
        content = text.encode()
        path = self.folder / f"known-{len(self._known)}"
        # It may be a link to a model's file, of a request that failed.
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        size = len(content)
        self._known.append(Entry(name, size, Unpacked(path, size, size, 0, sha256)))

    def archive(self) -> Archive:
        """The upload, once it is here whole. Raises ArchiveError, or NoSuchUpload where what had
        arrived of it has gone into a model already."""
        try:
            archive = self._arrival.archive() if self._arrival else Archive(self._known)
        except ArchiveError:
            self.is_of_no_use = True
            raise
        try:
            if self._arrival:
                self._put_back(archive)
                self._check_is_here(archive)
            if self._known:
                self._add_known(archive)
            waiting = (entry.size for entry in archive.entries if not archive.unpacked(entry))
            self._require(sum(waiting))
        except BaseException:
            archive.close()
            raise
        return archive

    def _add_known(self, archive: Archive) -> None:
        names = Names(self._models.limits)
        sent = archive.entries if self._arrival else ()
        archive.entries = (*sent, *self._known)
        for entry in archive.entries:
            names.add(entry.name)
        archive.total_size = sum(entry.size for entry in archive.entries)

    def take_back(self) -> None:
        """Undo `extract`, so that the upload is as it arrived."""
        if self._arrival is not None and self._model.exists():
            with self._arrival.archive() as archive:
                self._put_back(archive)

    def _put_back(self, archive: Archive) -> None:
        """Undo what an extraction did that failed or was killed, also after its model had changed
        places with the one before it."""
        if not self._model.exists():
            return
        for entry in archive.entries:
            unpacked, placed = archive.unpacked(entry), self._model / entry.name
            if unpacked and not unpacked.path.exists() and _is_content(placed, unpacked):
                os.rename(placed, unpacked.path)
        self._models.removed.discard(self._model)

    def _check_is_here(self, archive: Archive) -> None:
        for entry in archive.entries if self.keeps_upload else ():
            unpacked = archive.unpacked(entry)
            if unpacked and not unpacked.path.exists():
                raise NoSuchUpload("What had arrived of this upload isn't here any more.")

    def extract(self, archive: Archive, facts: dict[str, Any], report: Report) -> None:
        """Put every entry in its place, and keep digests and `facts` with them.

        What wasn't unpacked as it arrived is extracted, and hashed in the same pass. Raises
        ArchiveError where the bytes aren't what the listing says.
        """
        files: dict[str, StoredFile] = {}
        done = 0
        self._model.mkdir()
        published = self._models.published_files()
        for entry in archive.entries:
            if any(map(is_own, entry.name.split("/"))):
                raise ArchiveError(f"{entry.name!r} is a name of the service's own. Rename it.")
            path = self._model / entry.name
            path.parent.mkdir(parents=True, exist_ok=True)
            if unpacked := archive.unpacked(entry):
                self._place(unpacked.path, path)
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

    def model(self, name: str) -> Model:
        """What was extracted, as the model `name` that it isn't yet."""
        return Model(name, self._model)

    def _place(self, unpacked: Path, path: Path) -> None:
        """Give a file its name in the model. What is to outlive a kill keeps the one that it has,
        where the filesystem has links."""
        if self.keeps_upload:
            with suppress(OSError):
                os.link(unpacked, path)
                return
        os.rename(unpacked, path)

    def publish(self, name: str) -> None:
        """Make what was extracted the model `name`; a model that was replaced gives its space
        back."""
        self._models.publish(self._model, name)
        self.is_published = True

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
        with suppress(FileNotFoundError):  # deleted meanwhile
            if path.samefile(published):
                return
        link = self.folder / "shared"
        if _link(published, entry, link):
            os.replace(link, path)

    def _require(self, size: int) -> None:
        self._models.require_space(size, "Extracting this archive")


def _is_content(path: Path, unpacked: Unpacked) -> bool:
    """Whether the file at `path` is what was unpacked."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size != unpacked.size:
                return False
            return hashlib.file_digest(file, "sha256").hexdigest() == unpacked.sha256
    except OSError:
        return False


def _link(published: Path, entry: StoredFile, link: Path) -> bool:
    """Make `link` a hard link to a published file, unless that has gone or changed meanwhile, or
    its filesystem has no links."""
    with suppress(OSError):
        os.link(published, link, follow_symlinks=False)
        # By now another file may have that name.
        if entry.matches(link.stat()):
            return True
        link.unlink()
    return False


def _report_extracted(report: Report, archive: Archive, entry: Entry, done: int) -> None:
    total = archive.total_size
    details = {"file": entry.name, "bytes": done, "total_bytes": total}
    report("Extracting.", details, done / total if total else None)

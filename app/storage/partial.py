"""Partial uploads: each a folder that survives its request, its process and a reboot.

What arrives is unpacked and hashed as it comes, by a resumable Arrival. Once `append` has returned,
it survives the process; whole uploads survive a power cut, too, and others as far as their
Arrival's journal says then. See partial_folders for what lies where, partial_arrivals for who
writes there.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from app.archive.arrival import Arrival
from app.archive.intake import OnFile
from app.archive.limits import ArchiveError
from app.storage.failures import (
    NoSpace,
    NoSuchUpload,
    StorageError,
    UploadLocked,
    UploadTooLong,
    UploadUnfinished,
)
from app.storage.partial_arrivals import (
    Arrivals,
    Checksum,
    bounded,
    check_offset,
    checked,
    write_until_it_ends,
)
from app.storage.partial_folders import PartialUpload, UploadFolders
from app.storage.staged import StagedModels
from app.storage.staging import Staging

WEEK_SECONDS = 7 * 24 * 3600.0
RESERVED_SECONDS = 3600
MAX_UPLOADS = 1000
METADATA_BYTES = 4096


class PartialUploads:
    """The partial uploads in the models directory.

    Each has one writer at a time, in whatever process. It expires `lifetime` seconds after bytes
    came last, and is then removed by whoever looks next.
    """

    def __init__(self, storage: StagedModels, folder: Path, lifetime: float = WEEK_SECONDS) -> None:
        self.lifetime = lifetime
        self._storage = storage
        self._folders = UploadFolders(folder, lifetime)
        self._arrivals = Arrivals(storage)

    def create(self, length: int, metadata: Mapping[str, str]) -> PartialUpload:
        """Begin an upload of `length` bytes. Raises NoSpace and UploadTooLong."""
        if sum(len(key) + len(value) for key, value in metadata.items()) > METADATA_BYTES:
            raise UploadTooLong(f"The upload's metadata exceeds {METADATA_BYTES} characters.")
        self.sweep()
        if len(self._folders.ids()) >= MAX_UPLOADS:
            raise NoSpace(f"{MAX_UPLOADS} uploads are unfinished. Finish or delete some.")
        self._storage.require_space(length, "This upload")
        now = time.time()
        upload = PartialUpload(uuid4().hex, length, dict(metadata), now, now + self.lifetime)
        with self._storage.staging(upload.id) as staging:
            folder = staging.folder / "upload"
            folder.mkdir()
            self._arrivals.begin(upload, folder).close()
            self._folders.add(folder, upload)
        return upload

    def get(self, upload_id: str) -> PartialUpload:
        """The upload of that id. Raises NoSuchUpload."""
        return self._folders.get(upload_id)

    def all(self) -> list[PartialUpload]:
        """The uploads that haven't expired, the oldest first."""
        found = []
        for upload_id in self._folders.ids():
            with suppress(NoSuchUpload):
                found.append(self.get(upload_id))
        return sorted(found, key=lambda upload: upload.created)

    def append(
        self,
        upload_id: str,
        at: int,
        blocks: Iterable[bytes],
        *,
        on_file: OnFile | None = None,
        checksum: Checksum | None = None,
    ) -> PartialUpload:
        """Take the bytes from offset `at` on, and wait until they survive this process; for the
        upload's last ones, until it is on the disk.

        What came before `blocks` raised or ended is kept. With `checksum`, all of them are taken
        or, with ChecksumMismatch, none. Raises NoSuchUpload, UploadLocked, WrongOffset and
        UploadTooLong; what `blocks` raise, NoSpace and OSError, after which the upload can go on.
        ArchiveError, and what `on_file` raises, say that it is of no use: it is removed.
        """
        with self._held(upload_id) as (upload, folder):
            check_offset(at, upload.offset)
            self._folders.want_no_more(upload_id)
            blocks = bounded(blocks, upload)
            if checksum is not None:
                blocks = checked(folder / "chunk", blocks, checksum)
            try:
                with self._arrivals.at_end(upload, folder, on_file) as arrival:
                    failure = write_until_it_ends(arrival, blocks)
                    if arrival.checkpoint() == upload.length:
                        arrival.finish()
            except (OSError, StorageError):
                raise
            except Exception:
                self._remove(upload_id)
                raise
            if failure:
                raise failure
            return self._folders.get(upload_id)

    def is_wanted(self, upload_id: str) -> bool:
        """Whether somebody was refused since `append` began, because it holds the upload. One that
        waits for a client that may be gone can end then."""
        return self._folders.is_wanted(upload_id)

    def remove(self, upload_id: str) -> None:
        """Remove an upload and all that has come of it. Raises NoSuchUpload and UploadLocked."""
        with self._held(upload_id):
            self._remove(upload_id)

    @contextmanager
    def whole(self, upload_id: str, task: str) -> Iterator[Staging]:
        """The staging folder of an upload that has arrived whole, to do with what is done with any.

        The upload is gone once it was published, or turned out to be of no use, and else as it was,
        also where the process is killed. Raises NoSuchUpload, UploadLocked and UploadUnfinished;
        ArchiveError for one that is of no use, which is removed.
        """
        with self._held(upload_id) as (upload, folder), ExitStack() as held:
            if not upload.is_whole:
                raise UploadUnfinished(
                    f"{upload.offset} of the upload's {upload.length} bytes have arrived."
                    " Send the rest first."
                )
            self._arrivals.close(upload_id)
            self._undo_replacement(folder)
            arrival = self._whole_arrival(upload, folder)
            held.callback(arrival.close)
            staging = Staging(self._storage, task, folder, held, arrival, upload.metadata)
            try:
                yield staging
            except NoSuchUpload:
                self._remove(upload_id)
                raise
            finally:
                if staging.is_published or staging.is_of_no_use:
                    self._remove(upload_id)
                else:
                    staging.take_back()

    def _whole_arrival(self, upload: PartialUpload, folder: Path) -> Arrival:
        try:
            arrival = self._arrivals.begin(upload, folder)
            try:
                arrival.finish()
            except BaseException:
                arrival.close()
                raise
            return arrival
        except ArchiveError:
            self._remove(upload.id)
            raise

    def close(self) -> None:
        """Close what is kept open between requests; the uploads go on from the disk."""
        self._arrivals.close_all()

    def undelivered_bytes(self, but: str | None = None) -> int:
        """How many bytes uploads other than `but`, that something came of within the last hour,
        have still to bring."""
        total = 0
        for upload_id in self._folders.ids():
            with suppress(OSError, NoSuchUpload):
                age = time.time() - self._folders.changed_at(upload_id)
                if upload_id != but and age < RESERVED_SECONDS:
                    upload = self.get(upload_id)
                    total += upload.length - upload.offset
        return total

    def expired(self) -> dict[Path, str]:
        """The folders of the uploads that `sweep` removes, unless somebody writes to them, and
        what each file was called, or else the upload's id."""
        over = filter(self._folders.is_over, self._folders.ids())
        return {self._folders.path(each): self._folders.name(each) for each in over}

    def sweep(self) -> None:
        """Remove what has expired, and give back what killed tasks had taken away."""
        for upload_id in self._folders.ids():
            folder = self._folders.path(upload_id)
            if (folder / "replaced").exists():
                with suppress(NoSuchUpload, UploadLocked), self._locked(upload_id):
                    self._undo_replacement(folder)
        for folder in self.expired():
            with suppress(NoSuchUpload, UploadLocked), self._locked(folder.name):
                if self._folders.is_over(folder.name):
                    self._remove(folder.name)
        for upload_id in self._arrivals.open_ids():
            if not self._folders.path(upload_id).is_dir():
                self._arrivals.close(upload_id)

    @contextmanager
    def _held(self, upload_id: str) -> Iterator[tuple[PartialUpload, Path]]:
        with self._locked(upload_id) as folder:
            yield self.get(upload_id), folder

    @contextmanager
    def _locked(self, upload_id: str) -> Iterator[Path]:
        with ExitStack() as held:
            path = held.enter_context(self._folders.locked(upload_id))
            try:
                yield path
            finally:
                held.close()
                if not path.exists():
                    self._storage.sweep()  # What was locked couldn't be removed for good.

    def _undo_replacement(self, folder: Path) -> None:
        self._storage.put_back(folder)
        self._storage.removed.discard(folder / "replaced")

    def _remove(self, upload_id: str) -> None:
        self._arrivals.close(upload_id)
        self._storage.removed.discard(self._folders.path(upload_id))

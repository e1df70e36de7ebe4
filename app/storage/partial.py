"""Partial uploads: each a folder that survives its request, its process and a reboot.

What arrives is unpacked and hashed as it comes, by a resumable Arrival. `info.json` beside it says
what was declared; how much has arrived is what the Arrival's journal has on the disk.
"""

import fcntl
import hashlib
import json
import os
import re
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

from app.archive.arrival import Arrival
from app.archive.intake import OnFile
from app.archive.journal import NAME as JOURNAL
from app.archive.journal import read_offset
from app.archive.limits import ArchiveError
from app.storage.disk import locked, sync, write_whole
from app.storage.failures import (
    ChecksumMismatch,
    NoSpace,
    NoSuchUpload,
    StorageError,
    UploadLocked,
    UploadTooLong,
    UploadUnfinished,
    WrongOffset,
)
from app.storage.staging import Staging

if TYPE_CHECKING:
    from app.storage.directory import Storage

WEEK_SECONDS = 7 * 24 * 3600.0
RESERVED_SECONDS = 3600
MAX_UPLOADS = 1000
METADATA_BYTES = 4096
KEPT_OPEN = 4
INFO = "info.json"
WANTED = "wanted"
CHECKSUMS = {"sha1": 20, "sha256": 32}
"""The algorithms that a Checksum may name, with their digests' bytes."""
_ID = re.compile(r"[0-9a-f]{32}")


class Checksum(NamedTuple):
    """One of CHECKSUMS, and the digest of the bytes that are sent."""

    algorithm: str
    digest: bytes


@dataclass(frozen=True)
class PartialUpload:
    """A partial upload: `length` bytes of which the first `offset` are on the disk.

    `metadata` is what its client said of it; `filename` in it, how the file is called. `created`
    and `expires` are seconds since 1970.
    """

    id: str
    length: int
    metadata: Mapping[str, str]
    created: float
    expires: float
    offset: int = 0

    @property
    def filename(self) -> str:
        return self.metadata.get("filename", "")

    @property
    def is_whole(self) -> bool:
        return self.offset == self.length


class PartialUploads:
    """The partial uploads in the models directory.

    Each has one writer at a time, in whatever process. It expires `lifetime` seconds after bytes
    came last, and is then removed by whoever looks next.
    """

    def __init__(self, storage: "Storage", folder: Path, lifetime: float = WEEK_SECONDS) -> None:
        self.lifetime = lifetime
        self._storage = storage
        self._folder = folder
        # An Arrival that goes on in the process where it was needn't read anything again.
        self._arrivals: OrderedDict[str, Arrival] = OrderedDict()
        self._lock = threading.Lock()
        weakref.finalize(self, _close_all, self._arrivals)

    def create(self, length: int, metadata: Mapping[str, str]) -> PartialUpload:
        """Begin an upload of `length` bytes. Raises NoSpace."""
        if sum(len(key) + len(value) for key, value in metadata.items()) > METADATA_BYTES:
            raise UploadTooLong(f"The upload's metadata exceeds {METADATA_BYTES} characters.")
        self.sweep()
        if len(self._ids()) >= MAX_UPLOADS:
            raise NoSpace(f"{MAX_UPLOADS} uploads are unfinished. Finish or delete some.")
        self._storage.require_space(length, "This upload")
        now = time.time()
        upload = PartialUpload(uuid4().hex, length, dict(metadata), now, now + self.lifetime)
        with self._storage.staging(upload.id) as staging:
            folder = staging.folder / "upload"
            folder.mkdir()
            self._begin(upload, folder, None).close()
            _write_info(folder, upload)
            self._folder.mkdir(exist_ok=True)
            os.rename(folder, self._folder / upload.id)
            sync(self._folder)
        return upload

    def get(self, upload_id: str) -> PartialUpload:
        """The upload of that id. Raises NoSuchUpload."""
        folder = self._path(upload_id)
        try:
            upload = self._read(folder)
            if upload.id == upload_id and time.time() < upload.expires:
                return upload
        except (OSError, ValueError, TypeError, KeyError):
            pass
        raise NoSuchUpload(f"There is no upload {upload_id!r}, or it has expired.")

    def all(self) -> list[PartialUpload]:
        """The uploads that haven't expired, the oldest first."""
        found = []
        for upload_id in self._ids():
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
        """Take the bytes from offset `at` on, and wait until they are on the disk.

        What came before `blocks` raised or ended is kept. With `checksum`, all of them are taken
        or, with ChecksumMismatch, none. Raises NoSuchUpload, UploadLocked, WrongOffset and
        UploadTooLong; what `blocks` raise, NoSpace and OSError, after which the upload can go on.
        ArchiveError, and what `on_file` raises, say that it is of no use: it is removed.
        """
        with self._held(upload_id) as upload:
            _check_offset(at, upload.offset)
            folder = self._path(upload_id)
            (folder / WANTED).unlink(missing_ok=True)
            if checksum is not None:
                blocks = _checked(folder / "chunk", self._bounded(blocks, upload), checksum)
            try:
                with self._arrival(upload, on_file) as arrival:
                    _check_offset(at, arrival.offset)
                    failure = _write(arrival, self._bounded(blocks, upload))
                    if arrival.checkpoint() == upload.length:
                        arrival.finish()
            except (OSError, StorageError):
                raise
            except Exception:
                self._remove(upload_id)
                raise
            if failure:
                raise failure
            return self._read(folder)

    def is_wanted(self, upload_id: str) -> bool:
        """Whether somebody was refused since `append` began, because it holds the upload. One that
        waits for a client that may be gone can end then."""
        return (self._path(upload_id) / WANTED).exists()

    def remove(self, upload_id: str) -> None:
        """Remove an upload and all that has come of it. Raises NoSuchUpload and UploadLocked."""
        with self._held(upload_id):
            self._remove(upload_id)

    @contextmanager
    def whole(self, upload_id: str, task: str) -> Iterator[Staging]:
        """The staging folder of an upload that has arrived whole, to do with what is done with any.

        The upload is gone once it was published, and else as it was, also where the process is
        killed. Raises NoSuchUpload, UploadLocked and UploadUnfinished; ArchiveError for one that is
        of no use, which is removed.
        """
        with self._held(upload_id) as upload, ExitStack() as held:
            if not upload.is_whole:
                raise UploadUnfinished(
                    f"{upload.offset} of the upload's {upload.length} bytes have arrived."
                    " Send the rest first."
                )
            folder = self._path(upload_id)
            self._close(upload_id)
            self._undo_replacement(folder)
            arrival = self._whole_arrival(upload, folder)
            held.callback(arrival.close)
            staging = Staging(self._storage, task, folder, held, arrival, upload.filename)
            try:
                yield staging
            except NoSuchUpload:
                self._remove(upload_id)
                raise
            finally:
                if staging.is_published:
                    self._remove(upload_id)
                else:
                    staging.take_back()

    def _whole_arrival(self, upload: PartialUpload, folder: Path) -> Arrival:
        try:
            arrival = self._begin(upload, folder, None)
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
        with self._lock:
            _close_all(self._arrivals)

    def undelivered_bytes(self, but: str | None = None) -> int:
        """How many bytes uploads other than `but`, that something came of within the last hour,
        have still to bring."""
        total = 0
        for upload_id in self._ids():
            with suppress(OSError, NoSuchUpload):
                path = self._path(upload_id) / JOURNAL
                if upload_id != but and time.time() - path.stat().st_mtime < RESERVED_SECONDS:
                    upload = self.get(upload_id)
                    total += upload.length - upload.offset
        return total

    def expired(self) -> dict[Path, str]:
        """The folders of the uploads that `sweep` removes, unless somebody writes to them, and
        what each file was called, or else the upload's id."""
        found = {}
        for upload_id in filter(self._is_over, self._ids()):
            folder = self._path(upload_id)
            try:
                found[folder] = self._read(folder).filename or upload_id
            except (OSError, ValueError, TypeError, KeyError):
                found[folder] = upload_id
        return found

    def sweep(self) -> None:
        """Remove what has expired, and give back what killed tasks had taken away."""
        for upload_id in self._ids():
            folder = self._path(upload_id)
            if (folder / "replaced").exists():
                with suppress(NoSuchUpload, UploadLocked), self._lock_of(upload_id):
                    self._undo_replacement(folder)
        for folder in self.expired():
            with suppress(NoSuchUpload, UploadLocked), self._lock_of(folder.name):
                if self._is_over(folder.name):
                    self._remove(folder.name)
        with self._lock:
            gone = [known for known in self._arrivals if not self._path(known).is_dir()]
        for upload_id in gone:
            self._close(upload_id)

    def _is_over(self, upload_id: str) -> bool:
        """Whether the upload has expired; where its info can't be read, by its folder's time."""
        folder = self._path(upload_id)
        try:
            return time.time() >= self._read(folder).expires
        except (OSError, ValueError, TypeError, KeyError):
            with suppress(OSError):
                return time.time() - folder.stat().st_mtime > self.lifetime
            return False

    def _read(self, folder: Path) -> PartialUpload:
        """The upload in `folder`; its journal was written to when bytes came last. Raises OSError,
        and others where what stands there is damaged."""
        journal = folder / JOURNAL
        expires = journal.stat().st_mtime + self.lifetime
        about = json.loads((folder / INFO).read_bytes())
        return PartialUpload(**{**about, "expires": expires, "offset": read_offset(folder)})

    def _ids(self) -> list[str]:
        with suppress(FileNotFoundError):
            return [name for name in os.listdir(self._folder) if _ID.fullmatch(name)]
        return []

    def _path(self, upload_id: str) -> Path:
        if not _ID.fullmatch(upload_id):
            raise NoSuchUpload("There is no such upload.")
        return self._folder / upload_id

    @contextmanager
    def _lock_of(self, upload_id: str) -> Iterator[None]:
        path = self._path(upload_id)
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB))
            except BlockingIOError:
                with suppress(OSError):
                    (path / WANTED).touch()
                raise UploadLocked("Another request is writing to this upload.") from None
            except (FileNotFoundError, NotADirectoryError):
                raise NoSuchUpload(f"There is no upload {upload_id!r}.") from None
            try:
                yield
            finally:
                stack.close()
                if not path.exists():
                    self._storage.sweep()  # What was locked couldn't be removed for good.

    @contextmanager
    def _held(self, upload_id: str) -> Iterator[PartialUpload]:
        with self._lock_of(upload_id):
            yield self.get(upload_id)

    @contextmanager
    def _arrival(self, upload: PartialUpload, on_file: OnFile | None) -> Iterator[Arrival]:
        """The upload's Arrival: the one that is open in this process, or one that goes on from the
        disk. It stays open unless the block raises."""
        with self._lock:
            arrival = self._arrivals.pop(upload.id, None)
        if arrival is not None and not (arrival.is_current and arrival.offset == upload.offset):
            arrival.close()
            arrival = None
        arrival = arrival or self._begin(upload, self._path(upload.id), on_file)
        try:
            yield arrival
        except BaseException:
            arrival.close()
            raise
        if arrival.offset == upload.length:
            arrival.close()
            return
        with self._lock:
            self._arrivals[upload.id] = arrival
            surplus = [
                self._arrivals.popitem(last=False)[1]
                for _ in range(len(self._arrivals) - KEPT_OPEN)
            ]
        for one in surplus:
            one.close()

    def _begin(self, upload: PartialUpload, folder: Path, on_file: OnFile | None) -> Arrival:
        def require(size: int) -> None:
            self._storage.require_space(size, "Extracting this archive", but=upload.id)

        arguments = (folder, self._storage.limits, require)
        about: dict[str, Any] = {"filename": upload.filename, "on_file": on_file}
        if (folder / JOURNAL).exists():
            arrival = Arrival.resume(*arguments, **about)
        else:
            arrival = Arrival(*arguments, **about, resumable=True)
        arrival.expect(upload.length)
        return arrival

    def _bounded(self, blocks: Iterable[bytes], upload: PartialUpload) -> Iterator[bytes]:
        left = upload.length - upload.offset
        for block in blocks:
            if len(block) > left:
                raise UploadTooLong(f"The upload was declared to have {upload.length} bytes.")
            left -= len(block)
            yield block

    def _close(self, upload_id: str) -> None:
        with self._lock:
            arrival = self._arrivals.pop(upload_id, None)
        if arrival is not None:
            arrival.close()

    def _undo_replacement(self, folder: Path) -> None:
        self._storage.put_back(folder)
        self._storage.removed.discard(folder / "replaced")

    def _remove(self, upload_id: str) -> None:
        self._close(upload_id)
        self._storage.removed.discard(self._path(upload_id))


def _close_all(arrivals: OrderedDict[str, Arrival]) -> None:
    while arrivals:
        arrivals.popitem()[1].close()


def _checked(path: Path, blocks: Iterable[bytes], checksum: Checksum) -> Iterator[bytes]:
    """The same blocks, once all of them are seen to be what the checksum says."""
    digest = hashlib.new(checksum.algorithm, usedforsecurity=False)
    path.unlink(missing_ok=True)
    try:
        with path.open("x+b") as file:
            for block in blocks:
                file.write(block)
                digest.update(block)
            if digest.digest() != checksum.digest:
                raise ChecksumMismatch("What arrived isn't what its checksum says. Send it again.")
            file.seek(0)
            yield from iter(lambda: file.read(2**20), b"")
    finally:
        path.unlink(missing_ok=True)


def _write_info(folder: Path, upload: PartialUpload) -> None:
    info = {key: value for key, value in asdict(upload).items() if key not in ("offset", "expires")}
    write_whole(folder / INFO, json.dumps(info).encode())


def _check_offset(at: int, offset: int) -> None:
    if at != offset:
        raise WrongOffset(f"The upload goes on at {offset}, not at {at}.")


def _write(arrival: Arrival, blocks: Iterable[bytes]) -> Exception | None:
    """Write the blocks, and return what they raised instead of ending, if anything."""
    blocks = iter(blocks)
    while True:
        try:
            block = next(blocks, None)
        except Exception as error:
            return error
        if block is None:
            return None
        arrival.write(block)

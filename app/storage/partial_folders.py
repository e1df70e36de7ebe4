"""Where partial uploads lie: a folder each, with what was declared of it, and its lock."""

import fcntl
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from app.archive.journal import NAME as JOURNAL
from app.archive.journal import read_offset
from app.archive.writing import sync
from app.storage.disk import locked, write_whole
from app.storage.failures import NoSuchUpload, UploadLocked

INFO = "info.json"
WANTED = "wanted"
_ID = re.compile(r"[0-9a-f]{32}")
_DAMAGED = (OSError, ValueError, TypeError, KeyError)


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


class UploadFolders:
    """The folders in `folder`, called by the uploads' ids.

    `info.json` in each says what was declared; how much has arrived, and when, its Arrival's
    journal. An upload expires `lifetime` seconds after that.
    """

    def __init__(self, folder: Path, lifetime: float) -> None:
        self._folder = folder
        self._lifetime = lifetime

    def ids(self) -> list[str]:
        """The ids of all uploads, expired ones too."""
        with suppress(FileNotFoundError):
            return [name for name in os.listdir(self._folder) if _ID.fullmatch(name)]
        return []

    def path(self, upload_id: str) -> Path:
        """The folder of the upload of that id, if there is one. Raises NoSuchUpload for what is no
        id."""
        if not _ID.fullmatch(upload_id):
            raise NoSuchUpload("There is no such upload.")
        return self._folder / upload_id

    def add(self, folder: Path, upload: PartialUpload) -> None:
        """Make `folder` that of an upload, in one step."""
        info = {
            key: value for key, value in asdict(upload).items() if key not in ("offset", "expires")
        }
        write_whole(folder / INFO, json.dumps(info).encode())
        self._folder.mkdir(exist_ok=True)
        os.rename(folder, self._folder / upload.id)
        sync(self._folder)

    def get(self, upload_id: str) -> PartialUpload:
        """The upload of that id. Raises NoSuchUpload, also for one that has expired or whose info
        is damaged."""
        folder = self.path(upload_id)
        with suppress(*_DAMAGED):
            upload = self._read(folder)
            if upload.id == upload_id and time.time() < upload.expires:
                return upload
        raise NoSuchUpload(f"There is no upload {upload_id!r}, or it has expired.")

    def changed_at(self, upload_id: str) -> float:
        """When bytes came last, in seconds since 1970. Raises OSError."""
        return (self.path(upload_id) / JOURNAL).stat().st_mtime

    def is_over(self, upload_id: str) -> bool:
        """Whether the upload has expired; where its info can't be read, by its folder's time."""
        folder = self.path(upload_id)
        try:
            return time.time() >= self._read(folder).expires
        except _DAMAGED:
            with suppress(OSError):
                return time.time() - folder.stat().st_mtime > self._lifetime
            return False

    def name(self, upload_id: str) -> str:
        """What the upload's file was called, or else its id."""
        with suppress(*_DAMAGED):
            return self._read(self.path(upload_id)).filename or upload_id
        return upload_id

    @contextmanager
    def locked(self, upload_id: str) -> Iterator[Path]:
        """Hold the upload's folder for the block. Raises NoSuchUpload, and UploadLocked where
        somebody else holds it, who is told by `is_wanted`."""
        path = self.path(upload_id)
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB))
            except BlockingIOError:
                with suppress(OSError):
                    (path / WANTED).touch()
                raise UploadLocked("Another request is writing to this upload.") from None
            except (FileNotFoundError, NotADirectoryError):
                raise NoSuchUpload(f"There is no upload {upload_id!r}.") from None
            yield path

    def is_wanted(self, upload_id: str) -> bool:
        """Whether somebody was refused by `locked` since `want_no_more`."""
        return (self.path(upload_id) / WANTED).exists()

    def want_no_more(self, upload_id: str) -> None:
        """Forget who was refused so far."""
        (self.path(upload_id) / WANTED).unlink(missing_ok=True)

    def _read(self, folder: Path) -> PartialUpload:
        expires = (folder / JOURNAL).stat().st_mtime + self._lifetime
        about = json.loads((folder / INFO).read_bytes())
        return PartialUpload(**{**about, "expires": expires, "offset": read_offset(folder)})

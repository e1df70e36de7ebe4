"""The models directory: one folder a model, and nothing half-done ever to be seen in it.

What arrives is staged in `.model-handler/staging` on the same filesystem; a model appears, is
replaced or disappears by one rename. Each staging folder, and each model that a task works on, is
held by an advisory lock (flock) that the kernel drops with its holder: threads and worker
processes see each other's, and a killed one leaves nothing locked.
"""

import ctypes
import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from app.archive.arrival import Arrival
from app.archive.intake import OnFile
from app.archive.reader import Archive, Entry, Limits
from app.archive.writing import write_all
from app.progress import Report
from app.storage.model import Model, StoredFile, digest_holds, write_manifest

STATE_FOLDER = ".model-handler"
SWEEP_SECONDS = 0.05
SHARED_BYTES = 2**20
NAME_BYTES = 200
NAME_RULE = (
    f"A model's name has 1 to {NAME_BYTES} bytes of printable characters,"
    " no slash or backslash, and doesn't begin with a dot."
)


class StorageError(Exception):
    """The models directory can't be used that way."""


class NameNotAllowed(StorageError):
    """A model's name breaks NAME_RULE."""


class NoSuchModel(StorageError):
    """There is no model of that name."""


class Busy(StorageError):
    """Another task holds that model."""


class NoSpace(StorageError):
    """The models directory's filesystem has too little room."""


def check_name(name: str) -> str:
    """Return `name` if a model may be called so, else raise NameNotAllowed."""
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        length = 0
    allowed = (
        0 < length <= NAME_BYTES
        and name.isprintable()
        and not name.startswith(".")
        and not set(name) & set("/\\")
    )
    if not allowed:
        raise NameNotAllowed(f"{name!r} can't be a model's name. {NAME_RULE}")
    return name


def name_of_upload(filename: str) -> str:
    """The model's name for an uploaded file's: without its `.zip`. Raises NameNotAllowed."""
    stem, extension = os.path.splitext(filename)
    if extension.lower() != ".zip":
        raise NameNotAllowed(f"{filename!r} is not named like a zip file. Upload <model>.zip.")
    return check_name(stem)


class Storage:
    """The models directory and the service's own state folder in it."""

    def __init__(self, folder: Path, limits: Limits | None = None) -> None:
        self.folder = folder
        self.limits = limits or Limits()
        self.state_folder = folder / STATE_FOLDER
        self._staging = self.state_folder / "staging"
        self._locks = self.state_folder / "locks"

    def prepare(self) -> None:
        """Make the folders, and remove what killed tasks have left in them."""
        self._staging.mkdir(parents=True, exist_ok=True)
        self._locks.mkdir(exist_ok=True)
        self.sweep()
        for path in self._locks.iterdir():
            descriptor = _lock_file(path)
            if descriptor is not None:
                path.unlink(missing_ok=True)
                os.close(descriptor)

    def names(self) -> list[str]:
        """The models' names, in order."""
        names = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                with suppress(NameNotAllowed):
                    if entry.is_dir():
                        names.append(check_name(entry.name))
        return sorted(names)

    def model(self, name: str) -> Model:
        """The model of that name. Raises NameNotAllowed or NoSuchModel."""
        folder = self._path(name)
        if not folder.is_dir():
            raise NoSuchModel(f"There is no model {name!r}. GET /models/ lists the models.")
        return Model(name, folder)

    def free_bytes(self) -> int:
        """Bytes that can still be written to the models directory."""
        return shutil.disk_usage(self.folder).free

    def check_writable(self) -> None:
        """Raise OSError unless files can be made in the models directory."""
        with tempfile.TemporaryFile(dir=self.state_folder) as file:
            file.write(b"ready")
            file.flush()

    def require_space(self, needed: int, what: str) -> None:
        """Raise NoSpace if `needed` bytes for `what` wouldn't fit."""
        free = self.free_bytes()
        if needed > free:
            raise NoSpace(
                f"{what} needs {needed} bytes and the models directory has {free} left."
                " Delete models that are no longer needed, or give it a larger disk."
            )

    def digests(self, model: Model, names: Iterable[str], report: Report) -> dict[str, str]:
        """Model.digests, also for names that lead to another model (`../<model>/<file>`) or to a
        blob of Ollama's, which is named by its digest."""
        result = {}
        for name in names:
            if os.path.isabs(name):
                result[name] = Path(name).name.removeprefix("sha256-")
                continue
            owner, inner = model, name
            if name.startswith("../"):
                other, _, inner = name.removeprefix("../").partition("/")
                owner = self.model(other)
            result[name] = owner.digests([inner], report)[inner]
        return result

    @contextmanager
    def hold(self, name: str, task: str) -> Iterator[None]:
        """Hold the model `name` for `task`. Raises Busy, naming the task that holds it."""
        path = self._locks / check_name(name)
        descriptor = _lock_file(path)
        if descriptor is None:
            time.sleep(
                SWEEP_SECONDS
            )  # whoever only removes what a killed task has left is gone now
            descriptor = _lock_file(path)
        if descriptor is None:
            holder = ""
            with suppress(FileNotFoundError):
                holder = path.read_text()
            raise Busy(f"Task {holder or '(just started)'} is working on model {name!r}.")
        try:
            os.ftruncate(descriptor, 0)
            os.write(descriptor, task.encode())
            yield
        finally:
            path.unlink(missing_ok=True)
            os.close(descriptor)

    @contextmanager
    def staging(self, task: str) -> Iterator["Staging"]:
        """A staging folder for `task`, removed with all that is in it at the end."""
        folder = self._staging / task
        self.sweep()
        with ExitStack() as held:
            with _locked(self._staging, fcntl.LOCK_SH):
                folder.mkdir()
                held.callback(shutil.rmtree, folder, ignore_errors=True)
                held.enter_context(_locked(folder, fcntl.LOCK_EX))
            yield Staging(self, task, folder, held)

    def sweep(self) -> None:
        """Remove the staging folders of tasks that no longer run."""
        gone = suppress(BlockingIOError, FileNotFoundError)
        with gone, _locked(self._staging, fcntl.LOCK_EX | fcntl.LOCK_NB):
            for folder in self._staging.iterdir():
                with gone, _locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    self._put_back(folder / "replaced")
                    shutil.rmtree(folder, ignore_errors=True)

    def published_files(self) -> dict[str, tuple[Path, dict[str, Any]]]:
        """Path and manifest entry of a large file of each content, by its sha256 (hex)."""
        return {
            entry["sha256"]: (path, entry)
            for name in self.names()
            for path, entry in Model(name, self.folder / name).published_files()
            if entry["size"] >= SHARED_BYTES
        }

    def remove(self, name: str, staging: "Staging") -> None:
        """Take the model `name` away in one step; its bytes go with the staging folder."""
        os.rename(self.model(name).folder, staging.folder / "deleted")
        _sync(self.folder)

    def publish(self, staged: Path, name: str) -> None:
        """Make the folder `staged` the model `name`, replacing a model of that name in one step."""
        target = self._path(name)
        if target.exists() and not target.is_dir():
            raise NameNotAllowed(f"{name!r} is a file in the models directory, not a model.")
        if not os.path.lexists(target):
            os.rename(staged, target)
        elif not _exchange(staged, target):
            replaced = staged.parent / "replaced"
            replaced.mkdir()
            os.rename(target, replaced / name)
            os.rename(staged, target)
        _sync(self.folder)

    def _put_back(self, replaced: Path) -> None:
        """Undo a replacement without exchange that was killed between its two renames."""
        for folder in replaced.iterdir() if replaced.is_dir() else ():
            if not os.path.lexists(self.folder / folder.name):
                os.rename(folder, self.folder / folder.name)

    def _path(self, name: str) -> Path:
        return self.folder / check_name(name)


class Staging:
    """One task's staging folder: where an upload is received, extracted, and published from."""

    def __init__(self, storage: Storage, task: str, folder: Path, held: ExitStack) -> None:
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
        files: dict[str, Any] = {}
        done = 0
        self._model.mkdir()
        published = self._storage.published_files()
        for entry in archive.entries:
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
                _share(path, *published[digest])
            _sync(path)
            status = path.stat()
            stored = StoredFile(status.st_size, status.st_mtime_ns, digest)
            files[entry.name] = asdict(stored)
        created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        write_manifest(self._model, {"created_at": created, **facts, "files": files})
        for parent, _, _ in os.walk(self._model):
            _sync(Path(parent))

    def publish(self, name: str) -> None:
        """Make what was extracted the model `name`; a model that was replaced gives its space
        back."""
        self._storage.publish(self._model, name)
        shutil.rmtree(self._model, ignore_errors=True)

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

    def _require(self, size: int) -> None:
        self._storage.require_space(size, "Extracting this archive")


def _report_extracted(report: Report, archive: Archive, entry: Entry, done: int) -> None:
    total = archive.total_size
    details = {"file": entry.name, "bytes": done, "total_bytes": total}
    report("Extracting.", details, done / total if total else None)


def _share(path: Path, published: Path, entry: dict[str, Any]) -> None:
    """Make `path` one with a published file of the same content: the same base in ten zips takes
    its room once."""
    link = path.with_name(".shared")
    with suppress(OSError):  # it has gone meanwhile, or this filesystem has no links
        os.link(published, link)
        # By now another file may have that name.
        if digest_holds(entry, link.stat()):
            os.replace(link, path)
        else:
            link.unlink()


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _locked(folder: Path, how: int) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)


def _lock_file(path: Path) -> int | None:
    """A descriptor that holds the lock file at `path`, or None where another one does."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its holder removes the file before it lets go: only the one still there counts.
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except FileNotFoundError:
            pass
        os.close(descriptor)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two paths atomically; False where the filesystem can't. Source: renameat2(2)."""
    at_fdcwd, rename_exchange = -100, 2
    libc = ctypes.CDLL(None, use_errno=True)
    if not libc.renameat2(
        at_fdcwd, os.fsencode(one), at_fdcwd, os.fsencode(other), rename_exchange
    ):
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.EXDEV):
        return False
    raise OSError(code, os.strerror(code))

"""The models in the models directory: each a folder, of which nothing half-done is ever to be seen.

A model appears, is replaced or disappears by one rename. Each model that a task works on is held by
an advisory lock that the kernel drops with its holder: threads and worker processes see each
other's, and a killed one leaves nothing locked.
"""

import fcntl
import os
import shutil
import stat
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from app.archive.limits import Limits
from app.archive.names import OWN_PREFIX
from app.archive.writing import sync
from app.formats.files import ModelFile
from app.progress import Report
from app.storage.creates import carry_creates
from app.storage.disk import exchange
from app.storage.failures import NameNotAllowed, NoSpace, NoSuchModel
from app.storage.locks import Locks
from app.storage.manifest import StoredFile
from app.storage.model import Model
from app.storage.names import NAME_RULE, check_name, stored_name
from app.storage.removal import Removed

STATE_FOLDER = OWN_PREFIX
SHARED_BYTES = 2**20


class Models:
    """The models in `folder`, and what the service keeps of its own beside them, in `state_folder`.
    `limits` are those of the archives that models come in.

    The folders may go at any time, with what is mounted there: they are made when they are needed.
    """

    def __init__(self, folder: Path, limits: Limits | None = None) -> None:
        self.folder = folder
        self.limits = limits or Limits()
        self.state_folder = folder / STATE_FOLDER
        self.removed = Removed(self.state_folder / "removed")
        self._locks = Locks(self.state_folder)
        self._said_unlisted: set[str] = set()
        self._unlisted_at = 0

    def names(self) -> list[str]:
        """The models' names, in order."""
        return sorted(self._found())

    def models(self) -> list[Model]:
        """The models, in name order. Any may have gone by the time that it is looked at."""
        return [Model(name, folder) for name, folder in sorted(self._found().items())]

    def say_unlisted(self) -> list[str]:
        """Sentences on the folders that aren't models because of their names, each of which a
        person has put here: those that this hasn't returned before."""
        if (changed_at := self.changed_at()) == self._unlisted_at:
            return []
        self._unlisted_at = changed_at
        found = self._unlisted() - self._said_unlisted
        self._said_unlisted |= found
        return [
            f"The folder {name!r} in the models directory isn't listed: {_why_unlisted(name)}"
            for name in sorted(found)
        ]

    def model(self, name: str) -> Model:
        """The model of that name. Raises NameNotAllowed or NoSuchModel."""
        name = check_name(name)
        found = self._locate(name)
        if found is None:
            raise NoSuchModel(f"There is no model {name!r}. GET /models/ lists the models.")
        return Model(*found)

    def find(self, name: str) -> str | None:
        """The name of the model that is called `name`, here or by Ollama; None where there is
        none."""
        if name in (found := self._found()):
            return name
        with suppress(NameNotAllowed):
            wanted = stored_name(name).lower()
            return next((each for each in found if each.lower() == wanted), None)
        return None

    def name_for_ollama(self, name: str) -> str:
        """What the model is called here, or would be, that Ollama, which ignores case, calls
        `name`. Raises NameNotAllowed."""
        wanted = stored_name(name)
        return next((each for each in self._found() if each.lower() == wanted.lower()), wanted)

    def changed_at(self) -> int:
        """When a model came or went last, in nanoseconds since 1970; 0 where the folder is gone."""
        try:
            return self.folder.stat().st_mtime_ns
        except OSError:
            return 0

    def free_bytes(self) -> int:
        """Bytes that can still be written to the models directory."""
        self._make_folders()
        return shutil.disk_usage(self.folder).free

    def reserved_bytes(self, but: str | None = None) -> int:
        """How many free bytes are kept for uploads still to arrive, other than `but`."""
        return 0

    def require_space(self, needed: int, what: str, *, but: str | None = None) -> None:
        """Raise NoSpace if `needed` bytes for `what` wouldn't fit beside `reserved_bytes(but)`."""
        free = max(0, self.free_bytes() - self.reserved_bytes(but))
        if needed > free:
            raise NoSpace(
                f"{what} needs {needed} bytes and the models directory has {free} left."
                " Delete models that are no longer needed, or give it a larger disk."
            )

    def hashed(self, model: Model, files: Iterable[ModelFile], report: Report) -> list[ModelFile]:
        """Files of `model`, or of the models that they name, with their sha256; see Model.hashed.

        The caller holds the models, so that the digests stay true.
        """
        return [
            hashed
            for file in files
            for hashed in (self.model(file.model) if file.model else model).hashed([file], report)
        ]

    @contextmanager
    def hold(self, name: str, task: str, *, shared: bool = False) -> Iterator[None]:
        """Hold the model `name` for `task`: alone, to change it, or `shared`, to read it while
        nobody may change it. Raises Busy, naming the tasks that hold it."""
        name = check_name(name)
        # On a filesystem that ignores case they are one model.
        key = unicodedata.normalize("NFC", name.casefold())
        doing = f"working on model {name!r}"
        with self._locks.hold(f"model {key}", doing, task, shared=shared):
            yield

    @contextmanager
    def hold_name_on_ollama(self, server: str, name: str, task: str) -> Iterator[None]:
        """Hold the model `name` on the Ollama server at the URL `server` for `task`.

        Only against tasks of services on this models directory. Names are compared as Ollama does:
        without case, `:latest` and the default registry. Raises Busy, naming the task.
        """
        key = name.lower().removeprefix("registry.ollama.ai/").removeprefix("library/")
        if ":" not in key.rpartition("/")[2]:
            key += ":latest"
        doing = f"making {name!r} on this Ollama server"
        with self._locks.hold(f"ollama {server.rstrip('/')} {key}", doing, task):
            yield

    @contextmanager
    def opened(self, name: str) -> Iterator[list[ModelFile]]:
        """The model's files, each to be opened when its turn comes.

        A model that is deleted or replaced meanwhile is still read as it was: it goes when the
        last one has read it. Raises NoSuchModel.
        """
        while True:
            model = self.model(name)
            try:
                descriptor = os.open(model.folder, os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError:
                if model.folder.is_symlink():
                    raise NoSuchModel(f"The model {name!r} is a link to nothing.") from None
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
                # Whoever moves it from now on finds it locked.
                if os.path.samestat(os.fstat(descriptor), os.stat(model.folder)):
                    break
            except (BlockingIOError, FileNotFoundError):
                pass
            os.close(descriptor)
        try:
            yield Model(name, Path(f"/proc/self/fd/{descriptor}")).files()
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)
            self.removed.empty()

    def published_files(self, least: int = SHARED_BYTES) -> dict[str, tuple[Path, StoredFile]]:
        """Path and manifest entry of a file of each content, by its sha256 (hex): of those that
        have `least` bytes."""
        return {
            entry.sha256: (path, entry)
            for model in self.models()
            for path, entry in model.published_files()
            if entry.size >= least
        }

    def remove(self, name: str) -> None:
        """Take the model `name` away in one step, then free its bytes. Raises NoSuchModel."""
        taken = self.removed.take(self.model(name).folder)
        sync(self.folder)
        self.removed.bury(taken)

    def publish(self, staged: Path, name: str) -> None:
        """Make the folder `staged` the model `name`, replacing a model of that name in one step.

        The history of creates stays with the name."""
        name = check_name(name)
        _, target = self._locate(name) or (name, self.folder / name)
        if target.exists() and not target.is_dir():
            raise NameNotAllowed(f"{name!r} is a file in the models directory, not a model.")
        carry_creates(target, staged)
        if not os.path.lexists(target):
            os.rename(staged, target)
        elif exchange(staged, target):
            self.removed.discard(staged)
        else:
            replaced = staged.parent / "replaced"
            replaced.mkdir()
            os.rename(target, replaced / target.name)
            os.rename(staged, target)
            self.removed.discard(replaced / target.name)
        sync(self.folder)

    def _make_folders(self) -> None:
        for folder in (self.removed.folder, self._locks.holders):
            folder.mkdir(parents=True, exist_ok=True)

    def _found(self) -> dict[str, Path]:
        """The folder of each model by its name. Where two differ only in how letters are coded,
        the one in the normal form is the model."""
        found: dict[str, Path] = {}
        for entry in self._folders():
            with suppress(NameNotAllowed):
                name = check_name(entry.name)
                if name == entry.name or name not in found:
                    found[name] = Path(entry.path)
        return found

    def _unlisted(self) -> set[str]:
        """The names of the folders that aren't listed, but for those that begin with a dot."""
        listed = {folder.name for folder in self._found().values()}
        names = {entry.name for entry in self._folders()}
        return {name for name in names - listed if not name.startswith(".")}

    def _folders(self) -> Iterator[os.DirEntry[str]]:
        with suppress(FileNotFoundError), closing(os.scandir(self.folder)) as entries:
            yield from filter(_is_folder, entries)

    def _locate(self, name: str) -> tuple[str, Path] | None:
        """Name and folder of the model `name`, as they are on the disk."""
        found = self._found()
        if name in found:
            return name, found[name]
        if os.path.lexists(self.folder / name):  # by a filesystem that ignores case
            for other, folder in found.items():
                if other.casefold() == name.casefold():
                    return other, folder
        return None

    def put_back(self, staged_in: Path) -> None:
        """Undo a replacement without exchange, of a model that was staged in that folder, which was
        killed between its two renames."""
        replaced = staged_in / "replaced"
        for folder in replaced.iterdir() if replaced.is_dir() else ():
            if not os.path.lexists(self.folder / folder.name):
                os.rename(folder, self.folder / folder.name)


def _why_unlisted(name: str) -> str:
    try:
        other = check_name(name)
    except NameNotAllowed:
        return f"rename it. {NAME_RULE}"
    return (
        f"{other!r}, which differs only in how its letters are coded, is a model already."
        " Rename one."
    )


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder, or a link to one, or one that can't be followed."""
    try:
        return stat.S_ISDIR(entry.stat().st_mode)
    except OSError:
        return entry.is_symlink()

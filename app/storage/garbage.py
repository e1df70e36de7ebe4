"""What takes disk space in the models directory and is no longer needed."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from app.storage.directory import Storage
from app.storage.disk import freed_bytes, locked
from app.storage.failures import Busy, NoSuchModel
from app.storage.model import Model

LEFT = "What a task that was killed has left"
REMOVED = "What was removed, and is read no more"


@dataclass(frozen=True)
class Garbage:
    """Something that may go: `what` it is, and the bytes that this gives back. `is_gone` once it
    has; what is still held by a task stays."""

    what: str
    size: int
    is_gone: bool = False


def collect(storage: Storage, method: int, *, dry_run: bool = False) -> Iterator[Garbage]:
    """Remove expired partial uploads, what killed tasks have left, and kept results that were made
    of files that have changed or gone, or by another `method`; with `dry_run`, only find them.

    Takes the same locks as the tasks of a running service, so that nothing that is used goes.
    """
    found = {**_leftovers(storage), **_expired(storage)}
    sizes = {path: freed_bytes(path) for path in found}
    if found and not dry_run:
        storage.prepare()
    for path, what in found.items():
        yield Garbage(what, sizes[path], not path.exists())
    for model in storage.models():
        with suppress(NoSuchModel, OSError):
            yield from _surplus(storage, model, method, dry_run)


def _leftovers(storage: Storage) -> dict[Path, str]:
    """The folders of tasks that no longer run, and what was removed and is read no more."""
    found: dict[Path, str] = {}
    for name, what in (
        ("staging", LEFT),
        ("removed", REMOVED),
    ):
        folder = storage.state_folder / name
        # A task that begins has its folder's lock by the time that this one is had.
        with suppress(OSError), locked(folder, fcntl.LOCK_EX):
            found |= {path: what for path in sorted(folder.iterdir()) if _is_free(path)}
    return found


def _is_free(path: Path) -> bool:
    try:
        with locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB):
            return True
    except NotADirectoryError:
        return True
    except OSError:
        return False


def _expired(storage: Storage) -> dict[Path, str]:
    uploads, blobs = storage.uploads.expired(), storage.blobs.expired()
    found = {path: f"Partial upload of {name}" for path, name in uploads.items()}
    found |= {path: f"Blob that no model was made of, {path.name[:19]}" for path in blobs}
    said = {}
    for path, what in found.items():
        with suppress(OSError):
            changed = time.strftime("%Y-%m-%d", time.gmtime(path.stat().st_mtime))
            said[path] = f"{what}, last changed on {changed}, expired"
    return said


def _surplus(storage: Storage, model: Model, method: int, dry_run: bool) -> Iterator[Garbage]:
    if not model.results.surplus(method):
        return
    what = f"Kept result of model {model.name!r}"
    try:
        with storage.hold(model.name, f"gc-{uuid4()}", shared=dry_run):
            surplus = model.results.surplus(method)
            for path, reason in surplus.items():
                size = freed_bytes(path)
                if not dry_run:
                    path.unlink(missing_ok=True)
                if not path.name.endswith(".json"):
                    yield Garbage(f"{what}: {reason}", size, not dry_run)
    except Busy as error:
        yield Garbage(f"{what}: {error}", 0)

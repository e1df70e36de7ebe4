"""What was made of a model's files, a merged GGUF for instance: kept, so that it is made once."""

import json
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from app.storage.disk import disk_bytes, move, remove_all, write_whole
from app.storage.manifest import OWN_FOLDER

FACTS_BYTES = 2**20


class Results:
    """The results that are kept with the model in the folder `model`, each by a key."""

    def __init__(self, model: Path) -> None:
        self._model = model
        self._folder = model / OWN_FOLDER / "kept"
        self._earlier = model / ".merged"

    def find(self, key: str) -> tuple[Path, dict[str, Any]] | None:
        """The file of the result called `key`, and the facts that were kept with it.

        None where there is none, or where either isn't as `add` left it.
        """
        path = self._folder / key
        with (
            suppress(OSError, ValueError, TypeError, RecursionError),
            _facts(path).open("rb") as file,
        ):
            facts = json.loads(file.read(FACTS_BYTES))
            status = path.lstat()
            about = {key: facts.pop(key, None) for key in ("of", "inputs", "method")}
            if stat.S_ISREG(status.st_mode) and about["of"] == _size_and_time(status):
                return path, facts
        return None

    def add(
        self,
        result: Path,
        key: str,
        facts: dict[str, Any],
        inputs: Iterable[Path] = (),
        method: int = 0,
    ) -> Path:
        """Move the file `result`, from a staging folder, to the model as the result called `key`.

        `facts` come back from `find`. By `inputs`, the files that it was made of, and `method`, the
        version of what makes results, `surplus` tells whether it may be asked for again. The caller
        holds the model alone.
        """
        path = self._folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        with result.open("rb") as file:
            os.fsync(file.fileno())
            status = os.fstat(file.fileno())
        move(result, path)
        places = {os.path.relpath(each, self._model): each.stat() for each in inputs}
        about = {
            "of": _size_and_time(status),
            "inputs": {place: _size_and_time(status) for place, status in places.items()},
            "method": method,
        }
        write_whole(_facts(path), json.dumps({**facts, **about}).encode())
        return path

    def surplus(self, method: int) -> dict[Path, str]:
        """The files among its results that nobody will ask for again, each with the reason: what
        they were made of has changed or gone, or they are made by another method than `method`.

        The caller holds the model, or looks again once it does.
        """
        found = {}
        for path in _files_in(self._folder):
            if path.name.endswith(".json") and path.with_suffix("").exists():
                continue
            if reason := self._why_surplus(path, method):
                found[path] = reason
                if _facts(path).exists():
                    found[_facts(path)] = reason
        return found | dict.fromkeys(_files_in(self._earlier), "of an earlier version")

    def clear(self) -> None:
        """Remove all of them."""
        for folder in (self._folder, self._earlier):
            with suppress(FileNotFoundError):
                remove_all(folder)

    def disk_bytes(self) -> int:
        """What they take on the disk, in bytes."""
        return disk_bytes(self._folder)

    def _why_surplus(self, path: Path, method: int) -> str | None:
        if self.find(path.name) is None:
            return "not whole"
        about = json.loads(_facts(path).read_bytes()[:FACTS_BYTES])
        if about.get("method") != method or not isinstance(about.get("inputs"), dict):
            return "of an earlier version"
        for place, known in about["inputs"].items():
            try:
                status = Path(os.path.normpath(self._model / place)).stat()
            except OSError:
                return f"{Path(place).name} has gone"
            if _size_and_time(status) != known:
                return f"{Path(place).name} has changed"
        return None


def _files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())


def _size_and_time(status: os.stat_result) -> list[int]:
    return [status.st_size, status.st_mtime_ns]


def _facts(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")

"""A model's folder: its files, and what is known of them."""

import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from app.formats.files import ModelFile
from app.progress import Report
from app.storage.creates import add_create, read_creates
from app.storage.disk import locked
from app.storage.failures import NoSuchModel
from app.storage.manifest import OWN_FOLDER, Manifest, StoredFile, read_manifest, write_manifest
from app.storage.results import Results

BLOCK = 2**20


class Model:
    """A model's folder. Files and folders whose names begin with a dot are not part of it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.results = Results(folder)

    def files(self) -> list[ModelFile]:
        """Its files in name order, with the digests that are still true; without those that can't
        be looked at. Raises NoSuchModel where its folder has gone."""
        known = self.manifest().files
        return [
            ModelFile(
                name,
                status.st_size,
                partial(_opened, path),
                path,
                _digest(known, name, status),
            )
            for name, path, status in self._found([])
        ]

    def manifest(self) -> Manifest:
        """What was kept with the model when it was published, and since."""
        return read_manifest(self.folder)

    def facts(self) -> dict[str, Any]:
        """Size in bytes, and what the manifest says of the model; no file is opened but that.

        `kept_size` is what results made from it take, where there are any; `problem` a sentence
        where something of it can't be read. Raises NoSuchModel where its folder has gone.
        """
        problems: list[OSError] = []
        facts: dict[str, Any] = {
            "size": sum(status.st_size for _, _, status in self._found(problems))
        }
        if kept := self.results.disk_bytes():
            facts["kept_size"] = kept
        manifest = self.manifest()
        facts |= manifest.facts
        if problems:
            facts["problem"] = f"{self._place(problems[0])} can't be read: {problems[0].strerror}."
        elif manifest.problem:
            facts["problem"] = manifest.problem
        return facts

    def published_files(self) -> Iterator[tuple[Path, StoredFile]]:
        """Path and manifest entry of each file whose digest is true; none of a folder that was
        placed manually."""
        manifest = self.manifest()
        for name, entry in manifest.files.items() if "created_at" in manifest.facts else ():
            path = self.folder / name
            with suppress(OSError):
                status = path.lstat()
                if stat.S_ISREG(status.st_mode) and entry.matches(status):
                    yield path, entry

    def note(self, **facts: Any) -> None:
        """Add to what the manifest says of the model, where its folder can be written."""
        self._change_manifest(Manifest(facts=facts))

    def creates(self) -> list[dict[str, Any]]:
        """The history of the model on Ollama, newest first: each create with its options, its
        Modelfile and how it ended."""
        return read_creates(self.folder)

    def add_create(self, create: Mapping[str, Any]) -> None:
        """Keep a create with the model, where its folder can be written. The caller holds the model
        alone."""
        with suppress(OSError):
            (self.folder / OWN_FOLDER).mkdir(exist_ok=True)
            add_create(self.folder, create)

    def hashed(self, files: Iterable[ModelFile], report: Report) -> list[ModelFile]:
        """Files of this model with their sha256.

        A digest that isn't known is computed by reading the file, and kept in the manifest, so that
        it is read once.
        """
        result = []
        for file in files:
            if file.sha256 is None:
                assert file.path is not None
                status = file.path.stat()
                details = {"model": self.name, "file": file.name}
                digest = hash_file(file.path, report, details)
                stored = StoredFile(status.st_size, status.st_mtime_ns, digest)
                self._change_manifest(Manifest(files={file.name: stored}))
                file = replace(file, sha256=digest)
            result.append(file)
        return result

    def _found(self, problems: list[OSError]) -> list[tuple[str, Path, os.stat_result]]:
        found = []

        def note(error: OSError) -> None:
            gone = isinstance(error, FileNotFoundError) and not os.path.islink(error.filename)
            if not gone:
                problems.append(error)

        for parent, folders, names in os.walk(self.folder, onerror=note):
            folders[:] = [folder for folder in folders if not folder.startswith(".")]
            for path in (Path(parent, name) for name in names if not name.startswith(".")):
                try:
                    status = path.stat()
                except OSError as error:
                    note(error)
                    continue
                name = path.relative_to(self.folder).as_posix()
                if not _is_text(name):
                    problems.append(OSError(errno.EILSEQ, "its name isn't UTF-8", str(path)))
                elif stat.S_ISREG(status.st_mode):
                    found.append((name, path, status))
        if not os.path.lexists(self.folder):
            raise NoSuchModel(f"There is no model {self.name!r}. GET /models/ lists the models.")
        return sorted(found)

    def _place(self, error: OSError) -> str:
        path = Path(str(error.filename))
        return path.relative_to(self.folder).as_posix() if path != self.folder else "Its folder"

    def _change_manifest(self, change: Manifest) -> None:
        """Lay `change` over the manifest, where the folder can be written; two at once don't lose
        each other's."""
        with suppress(OSError):
            own = self.folder / OWN_FOLDER
            own.mkdir(exist_ok=True)
            with locked(own, fcntl.LOCK_EX):
                now = self.manifest()
                merged = Manifest({**now.files, **change.files}, {**now.facts, **change.facts})
                write_manifest(self.folder, merged)


def hash_file(path: Path, report: Report, details: dict[str, Any]) -> str:
    """The sha256 (hex) of a whole file, read in blocks."""
    digest = hashlib.sha256()
    size, done = path.stat().st_size, 0
    with path.open("rb", buffering=0) as file:
        while block := file.read(BLOCK):
            digest.update(block)
            done += len(block)
            report("Hashing.", {**details, "bytes": done, "total_bytes": size}, done / size)
    return digest.hexdigest()


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _opened(path: Path) -> BinaryIO:
    return path.open("rb")


def _digest(known: Any, name: str, status: os.stat_result) -> str | None:
    entry = known.get(name)
    return entry.sha256 if entry is not None and entry.matches(status) else None

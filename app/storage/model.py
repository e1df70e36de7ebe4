"""A model's folder: its files, and the manifest that is kept with them."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from app.progress import Report

MANIFEST = ".model-handler.json"
BLOCK = 2**20


@dataclass(frozen=True)
class StoredFile:
    """A model's file as its manifest knows it; the digest holds while size and time do."""

    size: int
    mtime_ns: int
    sha256: str


class Model:
    """A model's folder. Files and folders whose names begin with a dot are not part of it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder

    def files(self) -> dict[str, Path]:
        """Path of each file by its name relative to the folder, in name order."""
        found = {}
        for parent, folders, names in os.walk(self.folder):
            folders[:] = [folder for folder in folders if not folder.startswith(".")]
            for name in names:
                path = Path(parent, name)
                if not name.startswith(".") and path.is_file():
                    found[path.relative_to(self.folder).as_posix()] = path
        return dict(sorted(found.items()))

    def manifest(self) -> dict[str, Any]:
        """What was kept with the model when it was published; empty for a folder put by hand."""
        try:
            manifest = json.loads((self.folder / MANIFEST).read_bytes())
        except (OSError, ValueError):
            return {}
        return manifest if isinstance(manifest, dict) else {}

    def facts(self) -> dict[str, Any]:
        """Size in bytes, and what the manifest says of the model; no file is opened but that."""
        facts = {key: value for key, value in self.manifest().items() if key != "files"}
        return {"size": sum(path.stat().st_size for path in self.files().values()), **facts}

    def published_files(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Path and manifest entry of each file whose digest holds; none of a folder put by hand."""
        manifest = self.manifest()
        for name, entry in manifest.get("files", {}).items() if "created_at" in manifest else ():
            path = Path(self.folder, name)
            with suppress(OSError):
                if digest_holds(entry, path.stat()):
                    yield path, entry

    def note(self, **facts: Any) -> None:
        """Add to what the manifest says of the model, where its folder can be written."""
        with suppress(OSError):
            write_manifest(self.folder, {**self.manifest(), **facts})

    def digests(self, names: Iterable[str], report: Report) -> dict[str, str]:
        """The sha256 (hex) of each file in `names`.

        From the manifest where the file is still as it was, else by reading the file; what was
        read is added to the manifest, so that it is read once.
        """
        manifest = self.manifest()
        known = manifest.setdefault("files", {})
        result = {}
        for name in names:
            path = self.folder / name
            status = path.stat()
            entry = known.get(name, {})
            if not digest_holds(entry, status):
                digest = hash_file(path, report, {"model": self.name, "file": name})
                entry = asdict(StoredFile(status.st_size, status.st_mtime_ns, digest))
                known[name] = entry
                with suppress(OSError):
                    write_manifest(self.folder, manifest)
            result[name] = entry["sha256"]
        return result


def digest_holds(entry: Mapping[str, Any], status: os.stat_result) -> bool:
    """Whether a file of that status is still the one that the manifest's entry is about."""
    return (entry.get("size"), entry.get("mtime_ns")) == (status.st_size, status.st_mtime_ns)


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


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write a model's manifest whole or not at all."""
    temporary = folder / f"{MANIFEST}.{os.getpid()}"
    try:
        with temporary.open("w") as file:
            json.dump(manifest, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(folder / MANIFEST)
    finally:
        temporary.unlink(missing_ok=True)

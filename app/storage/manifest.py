"""What is kept with a model about it: its types are checked once, where it is read."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from app.archive.names import OWN_PREFIX
from app.storage.disk import write_whole

OWN_FOLDER = OWN_PREFIX
MANIFEST = f"{OWN_FOLDER}/manifest.json"
EARLIER_MANIFEST = f"{OWN_PREFIX}.json"
"""Where it was before; still read, and removed when the manifest is written next."""
MANIFEST_BYTES = 16 * 2**20

_SHA256 = re.compile(r"[0-9a-f]{64}")
_TYPES: Mapping[str, type] = {
    "created_at": str,
    "kind": str,
    "architecture": str,
    "quantization": str,
    "parameter_count": int,
    "context_length": int,
    "last_create": dict,
}


@dataclass(frozen=True)
class StoredFile:
    """A model's file as its manifest knows it; the digest (hex) is true while size (bytes) and
    time of change (ns) are the same."""

    size: int
    mtime_ns: int
    sha256: str

    def matches(self, status: os.stat_result) -> bool:
        """Whether a file of that status is still the one that this is about."""
        return (self.size, self.mtime_ns) == (status.st_size, status.st_mtime_ns)


@dataclass(frozen=True)
class Manifest:
    """Digests by file name, and `facts`: what else is known of the model.

    `created_at` is among the facts of a model that was published by the service, not of a folder
    that was placed manually. `problem` is a sentence where there is a manifest that can't be used.
    """

    files: Mapping[str, StoredFile] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the model in `folder`; an empty one where there is none that can be used."""
    for name in (MANIFEST, EARLIER_MANIFEST):
        try:
            with (folder / name).open("rb") as file:
                content = file.read(MANIFEST_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            return Manifest(problem=f"Its manifest can't be read: {error.strerror}.")
        try:
            return _parsed(content)
        except (ValueError, TypeError, RecursionError) as error:
            reason = str(error) if isinstance(error, _Invalid) else "it isn't JSON of that kind"
            return Manifest(problem=f"Its manifest ({name}) can't be used: {reason}.")
    return Manifest()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write a model's manifest whole or not at all, never into a file that was there before."""
    files = {name: asdict(file) for name, file in manifest.files.items()}
    content = json.dumps({**manifest.facts, "files": files}, indent=1).encode()
    (folder / OWN_FOLDER).mkdir(exist_ok=True)
    write_whole(folder / MANIFEST, content)
    (folder / EARLIER_MANIFEST).unlink(missing_ok=True)


class _Invalid(ValueError):
    pass


def _parsed(content: bytes) -> Manifest:
    if len(content) > MANIFEST_BYTES:
        raise _Invalid(f"it is larger than {MANIFEST_BYTES} bytes")
    facts = json.loads(content, parse_constant=_refuse_constant)
    if not isinstance(facts, dict):
        raise _Invalid("it is no object")
    files = facts.pop("files", {})
    if not isinstance(files, dict):
        raise _Invalid("'files' is no object")
    for key, kind in _TYPES.items():
        value = facts.get(key)
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            raise _Invalid(f"{key!r} isn't of type {kind.__name__}")
    json.dumps(facts, ensure_ascii=False).encode()
    for name in files:
        if not name or name.startswith("/") or ".." in name.split("/"):
            raise _Invalid("a file's name in it leads out of the model")
    return Manifest({name: _stored_file(entry) for name, entry in files.items()}, facts)


def _stored_file(entry: Any) -> StoredFile:
    file = StoredFile(**entry)
    numbers = type(file.size) is int and type(file.mtime_ns) is int
    if not numbers or not isinstance(file.sha256, str) or not _SHA256.fullmatch(file.sha256):
        raise _Invalid("a file's size, time or digest isn't one")
    return file


def _refuse_constant(name: str) -> Any:
    raise _Invalid(f"it has {name}")

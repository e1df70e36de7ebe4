"""What `model-handler deploy` sends: a file as it is, or a folder as a stored zip."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from zipstream import ZipStream

from app.planning.safetensors_parts import ADAPTER_CONFIG
from app.storage.models import SHARED_BYTES
from app.storage.staging import WantedFile

BLOCK = 2**20


class Payload(Protocol):
    """Bytes that are the same each time that they are read: `name` as the service is to call the
    upload, `size` in bytes, `identity` another where the bytes may be others."""

    name: str
    size: int
    identity: str

    def blocks(self, offset: int) -> Iterator[bytes]:
        """The bytes from `offset` on."""


class FilePayload:
    """A zip, a tar or a GGUF."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.name = path.name
        self.size = path.stat().st_size
        self.identity = _identity([path])

    def blocks(self, offset: int) -> Iterator[bytes]:
        """The file's bytes from `offset` on."""
        with self._path.open("rb") as file:
            file.seek(offset)
            yield from iter(partial(file.read, BLOCK), b"")


class FolderPayload:
    """Some files of a folder, as an uncompressed zip with the folder at its top; never a file of
    its own."""

    def __init__(self, folder: Path, files: Iterable[Path]) -> None:
        self._folder = folder
        self._files = list(files)
        self.name = f"{folder.name}.zip"
        self.size = len(self._zip())
        self.identity = _identity(self._files)

    def blocks(self, offset: int) -> Iterator[bytes]:
        """The zip's bytes from `offset` on; those before are read again, and dropped."""
        for block in self._zip():
            if offset < len(block):
                yield block[offset:]
            offset = max(0, offset - len(block))

    def _zip(self) -> ZipStream:
        zipped = ZipStream(sized=True)
        for path in self._files:
            zipped.add_path(path, f"{self._folder.name}/{_below(self._folder, path)}")
        return zipped


@dataclass(frozen=True)
class Folder:
    """A model's folder: its files in name order, without hidden ones."""

    path: Path
    files: tuple[Path, ...]

    @classmethod
    def read(cls, path: Path) -> "Folder":
        """The folder at `path`. Raises ValueError if there is no file in it."""
        found = sorted(file for file in path.rglob("*") if file.is_file())
        shown = [
            file
            for file in found
            if not any(part.startswith(".") for part in file.relative_to(path).parts)
        ]
        if not shown:
            raise ValueError(f"{path.name} holds no file.")
        return cls(path, tuple(shown))

    @classmethod
    def of_adapter(cls, weights: Path) -> "Folder":
        """An adapter's safetensors and the config beside it, without what else is there. Raises
        ValueError where there is no config."""
        config = weights.with_name(ADAPTER_CONFIG)
        if not config.is_file():
            raise ValueError(
                f"{weights.name} has no {ADAPTER_CONFIG} beside it, which tells what it is. If it"
                " isn't an adapter, give the folder that it is in."
            )
        return cls(weights.parent, (config, weights))

    def large(self) -> list[Path]:
        """The files that the service shares between models."""
        return [file for file in self.files if file.stat().st_size >= SHARED_BYTES]

    def described(self, file: Path, hashed: Callable[[int], Any]) -> dict[str, Any]:
        """Name, size and sha256 of a file, of which `hashed` is told the bytes as they are read."""
        digest = hashlib.sha256()
        with file.open("rb") as content:
            for block in iter(partial(content.read, BLOCK), b""):
                digest.update(block)
                hashed(len(block))
        name = _below(self.path, file)
        return asdict(WantedFile(name, file.stat().st_size, digest.hexdigest()))

    def without(self, known: Iterable[str]) -> FolderPayload | None:
        """What is to be sent beside the files of those names; None where nothing is."""
        names = set(known)
        files = [file for file in self.files if _below(self.path, file) not in names]
        return FolderPayload(self.path, files) if files else None


def _below(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


def _identity(paths: Iterable[Path]) -> str:
    stats = ((path, path.stat()) for path in paths)
    return "\n".join(f"{path} {stat.st_size} {stat.st_mtime_ns}" for path, stat in stats)

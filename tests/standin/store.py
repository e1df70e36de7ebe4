"""Blobs and manifests on disk, laid out as in Ollama's models folder (manifest/ in its source)."""

import hashlib
import io
import json
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from . import go_json
from .names import Name

CONFIG = "application/vnd.docker.container.image.v1+json"
_IMAGE = "application/vnd.ollama.image."
MODEL, ADAPTER, PROJECTOR = _IMAGE + "model", _IMAGE + "adapter", _IMAGE + "projector"
TEMPLATE, SYSTEM, LICENSE = _IMAGE + "template", _IMAGE + "system", _IMAGE + "license"
PARAMS, MESSAGES = _IMAGE + "params", _IMAGE + "messages"

_CHUNK = 1 << 18
_DIGEST = re.compile(r"sha256[:-][0-9a-fA-F]{64}", re.ASCII)


class DigestError(Exception):
    """A digest isn't `sha256:` or `sha256-` and 64 hex digits."""


@dataclass(frozen=True)
class Layer:
    """A blob in its part of a model. `origin` is what the manifest calls `from`."""

    media_type: str
    digest: str
    size: int
    origin: str = ""
    is_new: bool = False

    @property
    def status(self) -> str:
        """The line that create sends about it."""
        return f"{'creating new' if self.is_new else 'using existing'} layer {self.digest}"

    def as_json(self) -> dict[str, Any]:
        """The layer's entry in a manifest."""
        entry = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        return entry | ({"from": self.origin} if self.origin else {})


@dataclass(frozen=True)
class Manifest:
    """A model: its layers, the digest of its manifest file, and when that was written."""

    layers: tuple[Layer, ...]
    config: Layer
    digest: str
    modified: datetime

    @property
    def all_layers(self) -> tuple[Layer, ...]:
        """Its layers and its config."""
        return (*self.layers, self.config)

    @property
    def size(self) -> int:
        """The bytes of all its layers."""
        return sum(layer.size for layer in self.all_layers)

    def of_type(self, media_type: str) -> list[Layer]:
        """Its layers of one media type, in order."""
        return [layer for layer in self.layers if layer.media_type == media_type]


@dataclass
class Store:
    """The models folder; made when absent."""

    folder: Path
    blobs: Path = field(init=False)
    manifests: Path = field(init=False)
    _lock: threading.RLock = field(init=False, default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self.folder = self.folder.absolute()
        self.blobs = self.folder / "blobs"
        self.manifests = self.folder / "manifests"
        self.blobs.mkdir(parents=True, exist_ok=True)
        self.manifests.mkdir(exist_ok=True)

    def blob_path(self, digest: str) -> Path:
        """Where the blob lies, whether it is there or not. An empty digest gives the folder.

        Raises DigestError.
        """
        if digest and not _DIGEST.fullmatch(digest):
            raise DigestError("invalid digest format")
        return self.blobs / digest.replace(":", "-")

    @contextmanager
    def temporary(self) -> Iterator[Path]:
        """An empty file next to the blobs, removed at the end if it is still there."""
        handle, path = tempfile.mkstemp(dir=self.blobs, prefix="temporary-")
        os.close(handle)
        try:
            yield Path(path)
        finally:
            Path(path).unlink(missing_ok=True)

    def add(self, read: Callable[[int], bytes], media_type: str = "") -> Layer:
        """Store what `read` gives until it gives nothing, under its true digest."""
        sha256 = hashlib.sha256()
        size = 0
        with self.temporary() as path:
            with path.open("wb") as file:
                while chunk := read(_CHUNK):
                    sha256.update(chunk)
                    size += file.write(chunk)
            digest = f"sha256:{sha256.hexdigest()}"
            with self._lock:
                is_new = not self.blob_path(digest).exists()
                if is_new:
                    path.rename(self.blob_path(digest))
        return Layer(media_type, digest, size, is_new=is_new)

    def add_bytes(self, content: bytes, media_type: str) -> Layer:
        """Store `content`."""
        return self.add(io.BytesIO(content).read, media_type)

    def existing(self, digest: str, media_type: str, origin: str) -> Layer:
        """A layer for a blob that is there. Raises FileNotFoundError and DigestError."""
        return Layer(media_type, digest, self.blob_path(digest).stat().st_size, origin)

    def names(self) -> list[Name]:
        """All models' names, last written first."""
        return [name for name, _ in self.models()]

    def models(self) -> list[tuple[Name, Manifest]]:
        """All models, last written first."""
        with self._lock:
            files = [path for path in self.manifests.glob("*/*/*/*") if path.is_file()]
            names = [Name(*path.relative_to(self.manifests).parts) for path in files]
            found = [(name, self.load(name)) for name in names]
        return sorted(found, key=lambda model: model[1].modified, reverse=True)

    def load(self, name: Name) -> Manifest:
        """The model's manifest. Raises FileNotFoundError."""
        path = self.manifests / name.path
        content = path.read_bytes()
        document = json.loads(content)
        return Manifest(
            tuple(map(_layer, document["layers"])),
            _layer(document["config"]),
            hashlib.sha256(content).hexdigest(),
            datetime.fromtimestamp(path.stat().st_mtime, UTC),
        )

    def save(self, name: Name, config: Layer, layers: list[Layer]) -> None:
        """Write the model's manifest, replacing one of this name."""
        document = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": config.as_json(),
            "layers": [layer.as_json() for layer in layers],
        }
        self._write_manifest(name, go_json.encode(document) + b"\n")

    def copy(self, source: Name, target: Name) -> None:
        """Give a model a second name. Raises FileNotFoundError."""
        self._write_manifest(target, (self.manifests / source.path).read_bytes())

    def delete(self, name: Name) -> None:
        """Remove the model, and its blobs that no other uses. Raises FileNotFoundError."""
        with self._lock:
            manifest = self.load(name)
            (self.manifests / name.path).unlink()
            for parent in PurePosixPath(name.path).parents[:-1]:
                with suppress(OSError):
                    (self.manifests / parent).rmdir()
            self.drop_unused(manifest)

    def drop_unused(self, gone: Manifest) -> None:
        """Remove the blobs of a deleted or replaced model that no model uses."""
        with self._lock:
            used = {layer.digest for _, model in self.models() for layer in model.all_layers}
            for layer in gone.all_layers:
                if layer.digest not in used:
                    self.blob_path(layer.digest).unlink(missing_ok=True)

    def _write_manifest(self, name: Name, content: bytes) -> None:
        path = self.manifests / name.path
        with self._lock, self.temporary() as file:
            file.write_bytes(content)
            path.parent.mkdir(parents=True, exist_ok=True)
            file.rename(path)


def _layer(entry: dict[str, Any]) -> Layer:
    return Layer(entry["mediaType"], entry["digest"], entry["size"], entry.get("from", ""))

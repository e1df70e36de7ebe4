"""The folder of an Ollama on the same machine: where a model's own blob lies.

Source for the layout: Ollama, manifest/paths.go and manifest/layer.go.
"""

import json
import re
from contextlib import suppress
from pathlib import Path

from app.formats.files import ModelFile
from app.ollama.names import InvalidName, check_name

MODEL_LAYER = "application/vnd.ollama.image.model"
ADAPTER_LAYER = "application/vnd.ollama.image.adapter"
MANIFEST_BYTES = 2**20
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


def base_blob(folder: Path, name: str) -> ModelFile | None:
    """The GGUF blob of the Ollama model `name`, called by that name; None where the folder has no
    such model, or it is no single GGUF, or carries an adapter already.

    Nothing outside `folder` is opened, whatever names, digests and links say.
    """
    with suppress(InvalidName, OSError, ValueError, LookupError, TypeError, RecursionError):
        manifest = _below(folder, "manifests", *_parts(check_name(name)))
        with manifest.open("rb") as file:
            layers = json.loads(file.read(MANIFEST_BYTES))["layers"]
        kinds = [layer["mediaType"] for layer in layers]
        digests = [layer["digest"] for layer in layers if layer["mediaType"] == MODEL_LAYER]
        digest = _DIGEST.fullmatch(digests[0])
        if len(digests) != 1 or ADAPTER_LAYER in kinds or digest is None:
            return None
        blob = _below(folder, "blobs", f"sha256-{digest[1]}")
        if blob.is_file():
            return ModelFile(
                name=name,
                size=blob.stat().st_size,
                open=lambda: blob.open("rb"),
                path=blob,
                sha256=digest[1],
            )
    return None


def _parts(name: str) -> list[str]:
    """Host, namespace, name and tag, each a part of the path to the manifest."""
    *parents, last = name.split("/")
    last, _, tag = last.partition(":")
    defaults = ["registry.ollama.ai", "library"][: 2 - len(parents)]
    return [*defaults, *parents, last, tag or "latest"]


def _below(folder: Path, *parts: str) -> Path:
    """The path, with all links followed. Raises ValueError for one that leads out of `folder`."""
    path = folder.joinpath(*parts).resolve(strict=True)
    path.relative_to(folder.resolve())
    return path

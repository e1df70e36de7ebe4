"""The folder of an Ollama on the same machine: where a model's own blob lies.

Source for the layout: Ollama, manifest/paths.go and manifest/layer.go.
"""

import json
from pathlib import Path

MODEL_LAYER = "application/vnd.ollama.image.model"
ADAPTER_LAYER = "application/vnd.ollama.image.adapter"


def base_blob(folder: Path, name: str) -> Path | None:
    """The GGUF blob of the Ollama model `name`; None where the folder has no such model, or it is
    no single GGUF, or carries an adapter already."""
    *parents, last = name.split("/")
    last, _, tag = last.partition(":")
    parts = [*parents, last]
    defaults = ["registry.ollama.ai", "library"]
    place = [*defaults[: 3 - len(parts)], *parts, tag or "latest"]
    try:
        manifest = json.loads(folder.joinpath("manifests", *place).read_bytes())
        layers = [(layer["mediaType"], layer["digest"]) for layer in manifest["layers"]]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    blobs = [digest for kind, digest in layers if kind == MODEL_LAYER]
    if len(blobs) != 1 or ADAPTER_LAYER in dict(layers):
        return None
    blob = folder / "blobs" / blobs[0].replace(":", "-")
    return blob if blob.is_file() else None

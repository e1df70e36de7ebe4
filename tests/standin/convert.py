"""What create says about safetensors, and a GGUF without tensors in place of the conversion."""

import json
from collections.abc import Generator
from typing import Any

from . import store
from .gguf_copy import write_minimal
from .gguf_header import Header, read_header
from .store import Layer, Store
from .versions import Behaviour

_ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MixtralForCausalLM": "llama",
    "GemmaForCausalLM": "gemma",
    "Gemma2ForCausalLM": "gemma2",
    "Gemma3ForCausalLM": "gemma3",
    "Phi3ForCausalLM": "phi3",
    "Qwen2ForCausalLM": "qwen2",
    "CohereForCausalLM": "command-r",
}
_ADAPTED = ("llama", "gemma2")

Converted = Generator[dict[str, Any], None, tuple[Layer, Header]]


class ConversionError(Exception):
    """The safetensors can't be converted."""

    def __init__(self, message: str, status: int = 500) -> None:
        super().__init__(message)
        self.status = status


def convert_model(models: Store, behaviour: Behaviour, files: dict[str, str]) -> Converted:
    """Stand for the conversion of a base model. Raises ConversionError."""
    if not behaviour.converts:
        raise ConversionError("MLX is not available on this server", 503)
    yield {"status": "converting model"}
    config = _read_json(models, files, "config.json")
    names = config.get("architectures") or []
    if not names:
        raise ConversionError("unknown architecture")
    if names[0] not in _ARCHITECTURES:
        raise ConversionError(f'unsupported architecture "{names[0]}"')
    _check_weights(models, files)
    texts = {"general.architecture": _ARCHITECTURES[names[0]]}
    return _add(models, store.MODEL, texts, {"general.file_type": 1})


def convert_adapter(models: Store, files: dict[str, str], base: Header) -> Converted:
    """Stand for the conversion of an adapter for `base`. Raises ConversionError."""
    yield {"status": "converting adapter"}
    _read_json(models, files, "adapter_config.json")
    if base.architecture not in _ADAPTED:
        raise ConversionError("unsupported architecture")
    _check_weights(models, files)
    texts = {"general.architecture": base.architecture, "general.type": "adapter"}
    return _add(models, store.ADAPTER, texts | {"adapter.type": "lora"}, {})


def _read_json(models: Store, files: dict[str, str], name: str) -> dict[str, Any]:
    try:
        content = models.blob_path(files[name]).read_bytes()
    except (KeyError, OSError):
        raise ConversionError(f"open {name}: no such file or directory") from None
    try:
        document = json.loads(content)
    except ValueError:
        raise ConversionError(f"parse {name}: unexpected end of JSON input") from None
    return document if isinstance(document, dict) else {}


def _check_weights(models: Store, files: dict[str, str]) -> None:
    for name, digest in files.items():
        if name.endswith(".safetensors") and not models.blob_path(digest).is_file():
            raise ConversionError(f"open {name}: no such file or directory")


def _add(
    models: Store, media_type: str, texts: dict[str, str], numbers: dict[str, int]
) -> tuple[Layer, Header]:
    with models.temporary() as path:
        with path.open("wb") as file:
            write_minimal(file, texts, numbers)
        with path.open("rb") as file:
            layer = models.add(file.read, media_type)
    return layer, read_header(models.blob_path(layer.digest), check_bounds=True)

"""An adapter merged into a model: each tensor that it changes gets other rows."""

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from app.formats import gguf, safetensors
from app.formats.adapter_config import AdapterConfig, AdapterConfigError, read_adapter_config
from app.formats.gguf import GGUFError
from app.formats.safetensors import SafetensorsError
from app.formats.tensor_types import STRING
from app.weights.adapters.lora_gguf import apply_lora_gguf
from app.weights.model import Model, Value, WeightsError

CONFIG = "adapter_config.json"
NOTE_KEY = "model_handler.merged"
ADAPTERS_KEY = "model_handler.adapters"
"""The sha256 (hex) of the adapters that were merged into a model, with commas between."""
CONFIG_BYTES = 2**20


def apply_adapter(model: Model, files: Sequence[Path], scale: float = 1.0) -> Model:
    """The model with the adapter in `files` merged into it.

    They are a LoRA GGUF, or the config and weights of PEFT's or mlx-lm's, with the tokenizer's
    files beside them, if any. `scale` multiplies alpha; what an adapter replaces as a whole isn't
    scaled. Changed tensors keep their types, where those can be written. Only headers are read.
    Raises WeightsError, which names the tensor or the key, and OSError.
    """
    by_name = {path.name: path for path in files}
    weights = [path for path in files if path.suffix in (".safetensors", ".gguf")]
    (path,) = weights or [next(path for path in files if path.suffix != ".json")]
    model = _marked(model, path)
    try:
        if not any(name.endswith(".json") for name in by_name):
            return apply_lora_gguf(model, path, gguf.open_header(path), scale)
        config_path = by_name.get(CONFIG) or next(file for file in files if file.suffix == ".json")
        config = _read_config(config_path)
        header = safetensors.open_header(path)
    except (GGUFError, SafetensorsError) as error:
        raise WeightsError(f"{path.name} {error}.") from error
    from app.weights.adapters.peft import apply_peft  # which a LoRA GGUF doesn't need

    beside = {name: file for name, file in by_name.items() if file not in (path, config_path)}
    return apply_peft(model, path, config, header, beside, scale)


def _read_config(path: Path) -> AdapterConfig:
    if path.stat().st_size > CONFIG_BYTES:
        raise WeightsError(f"{path.name} is too large for its kind.")
    try:
        config = read_adapter_config(path.read_bytes())
    except AdapterConfigError as error:
        raise WeightsError(f"{path.name} {error}.", error.hint) from error
    if config.peft_type != "LORA":
        raise WeightsError(f"The adapter is {config.peft_type}; only LoRA can be merged.")
    return config


def named_as_merged(model: Model, base: str, adapter: Sequence[str]) -> Model:
    """The model, saying in its metadata what it was merged with."""
    names = [name for name in adapter if name.endswith((".safetensors", ".gguf"))]
    weights = (names or [name for name in adapter if not name.endswith(".json")])[0]
    note = f"merged with {Path(weights).name}"
    name = model.metadata.get("general.name")
    known = name.content if name and isinstance(name.content, str) else Path(base).stem
    own = {"general.name": f"{known} ({note})", NOTE_KEY: note}
    kept = {key: value for key, value in model.metadata.items() if key not in own}
    texts = {key: Value(STRING, text) for key, text in own.items()}
    return replace(model, metadata={**kept, **texts})


def _marked(model: Model, adapter: Path) -> Model:
    """The model, which now says what was merged into it. Raises WeightsError for a second time."""
    digest = sha256()
    with adapter.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    merged = model.metadata.get(ADAPTERS_KEY)
    known = merged.content.split(",") if merged and isinstance(merged.content, str) else []
    if digest.hexdigest() in known:
        raise WeightsError(
            f"The base is the merged model of {adapter.name} already.",
            "Send it without the adapter, or send the model that the adapter was trained on.",
        )
    value = Value(STRING, ",".join([*known[-63:], digest.hexdigest()]))
    return replace(model, metadata={**model.metadata, ADAPTERS_KEY: value})

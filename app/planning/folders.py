"""Folders in Hugging Face's and MLX's layout: models and adapters in safetensors."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

from app.formats import safetensors
from app.formats.adapter_config import read_adapter_config
from app.formats.files import ModelFile
from app.modelfile.templates import Chat
from app.planning.parts import SafetensorsAdapter, SafetensorsModel
from app.planning.unusable import Unusable

TEXT_BYTES = 8 * 2**20
ADAPTER_CONFIG, MODEL_CONFIG = "adapter_config.json", "config.json"
CONFIGS = (ADAPTER_CONFIG, MODEL_CONFIG)
_TOKENIZER_FILES = frozenset(
    ("tokenizer.json", "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json")
)
_ONLY_OTHERS_READ = frozenset(("merges.txt", "vocab.txt", "spiece.model"))
_MLX_WEIGHTS = "adapters.safetensors"
_MLX_CHECKPOINT = re.compile(r"\d+_adapters\.safetensors")
_METHODS = {
    "bitsandbytes": "bitsandbytes",
    "gptq": "GPTQ",
    "awq": "AWQ",
    "fp8": "FP8",
    "fbgemm_fp8": "FP8",
    "compressed-tensors": "compressed-tensors",
}
# Tensors that only quantized weights have, by the ends of their names.
_TENSORS = {
    ".quant_state.bitsandbytes__nf4": "bitsandbytes",
    ".quant_state.bitsandbytes__fp4": "bitsandbytes",
    ".SCB": "bitsandbytes",
    ".qzeros": "GPTQ",
    ".weight_packed": "compressed-tensors",
    ".weight_scale_inv": "FP8",
}


def read_text(file: ModelFile) -> bytes:
    """The content of a small file. Raises Unusable where it is too large for what it is."""
    if file.size > TEXT_BYTES:
        raise Unusable(
            f"{file.name} has {file.size} bytes; a file of its kind can have {TEXT_BYTES} at most."
        )
    with file.open() as stream:
        return stream.read(TEXT_BYTES)


def safetensors_parts(
    files: Mapping[str, ModelFile],
) -> tuple[list[SafetensorsModel], list[SafetensorsAdapter]]:
    """The models and adapters, each in a folder of its own. Raises Unusable for broken ones."""
    folders: dict[str, list[str]] = defaultdict(list)
    for name in files:
        if name.lower().endswith(".safetensors"):
            folders[str(PurePosixPath(name).parent)].append(name)
    models, adapters = [], []
    for folder, weights in sorted(folders.items()):
        of_adapter = [name for name in weights if is_adapter_name(PurePosixPath(name).name)]
        beside = {config for config in CONFIGS if str(PurePosixPath(folder, config)) in files}
        if beside == {ADAPTER_CONFIG} and len(weights) == 1:
            of_adapter = weights  # whatever its owner calls it
        of_model = [name for name in weights if name not in of_adapter]
        if of_adapter:
            adapters.append(_adapter(folder, of_adapter, files))
        if of_model:
            models.append(_model(folder, of_model, files))
    return models, adapters


def is_adapter_name(name: str) -> bool:
    """Whether PEFT or MLX calls an adapter's weights so."""
    return name.startswith("adapter_") or name == _MLX_WEIGHTS or bool(_MLX_CHECKPOINT.match(name))


def _adapter(folder: str, weights: list[str], files: Mapping[str, ModelFile]) -> SafetensorsAdapter:
    config_name = str(PurePosixPath(folder, ADAPTER_CONFIG))
    if config_name not in files:
        raise Unusable(
            f"{weights[0]} has no adapter_config.json beside it.",
            "Zip the whole folder that PEFT's save_pretrained wrote.",
        )
    mlx = str(PurePosixPath(folder, _MLX_WEIGHTS))
    if mlx in weights:  # the others are earlier states of it
        weights = [name for name in weights if not _MLX_CHECKPOINT.match(PurePosixPath(name).name)]
    if len(weights) > 1:
        raise Unusable(f"The folder {folder!r} holds several adapters: {', '.join(weights[:5])}.")
    try:
        config = read_adapter_config(read_text(files[config_name]))
    except safetensors.SafetensorsError as error:
        raise Unusable(f"{config_name} {error}.", getattr(error, "hint", None)) from error
    return SafetensorsAdapter(
        folder=folder,
        files=(files[config_name], files[weights[0]]),
        config=config,
        header=_header(files[weights[0]]),
        beside=tuple(
            file
            for name, file in files.items()
            if str(PurePosixPath(name).parent) == folder
            and PurePosixPath(name).name in _TOKENIZER_FILES
        ),
    )


def _model(folder: str, weights: list[str], files: Mapping[str, ModelFile]) -> SafetensorsModel:
    config_name = str(PurePosixPath(folder, MODEL_CONFIG))
    if config_name not in files:
        raise Unusable(
            f"{weights[0]} has no config.json beside it.",
            "Zip the whole folder that save_pretrained wrote, tokenizer files included.",
        )
    config = _json_object(files[config_name])
    if config is None:
        raise Unusable(f"{config_name} isn't the JSON object of a model's config.")
    headers = [_header(files[name]) for name in weights]
    class_names = config.get("architectures")
    class_name = class_names[0] if isinstance(class_names, list) and class_names else None
    in_folder = [name for name in files if str(PurePosixPath(name).parent) == folder]
    along = [name for name in in_folder if _goes_along(PurePosixPath(name).name)]
    others = [name for name in in_folder if PurePosixPath(name).name in _ONLY_OTHERS_READ]
    return SafetensorsModel(
        folder=folder,
        files=tuple(files[name] for name in (*sorted(weights), *sorted(along))),
        class_name=class_name if isinstance(class_name, str) else None,
        tensor_parameters=sum(header.parameter_count for header in headers),
        how_it_chats=_chat(folder, files),
        quantized_by=_quantized_by(config, headers),
        beside=tuple(files[name] for name in sorted(others)),
    )


def _goes_along(name: str) -> bool:
    """Whether Ollama's own client sends a file of that name beside a model's weights.

    Source: Ollama, parser/parser.go, filesForModel.
    """
    if name.startswith("adapter_"):
        return False
    return name.endswith(".json") or name in ("tokenizer.model", "chat_template.jinja")


def _quantized_by(config: Mapping[str, Any], headers: Iterable[safetensors.Header]) -> str | None:
    """Who has quantized the weights, where their layout isn't that of 16 or 32 bit."""
    stated = config.get("quantization_config")
    if isinstance(stated, dict):
        method = _METHODS.get(str(stated.get("quant_method")).lower())
        if method is not None:
            return method
    of_mlx = config.get("quantization")
    if isinstance(of_mlx, dict) and {"group_size", "bits"} <= of_mlx.keys():
        return "MLX"
    for header in headers:
        for name in header.tensors:
            for ending, method in _TENSORS.items():
                if name.endswith(ending):
                    return method
    return None


def _chat(folder: str, files: Mapping[str, ModelFile]) -> Chat:
    """What the tokenizer's config tells of how the model chats."""
    jinja = files.get(str(PurePosixPath(folder, "chat_template.jinja")))
    config_file = files.get(str(PurePosixPath(folder, "tokenizer_config.json")))
    config = (_json_object(config_file) if config_file else None) or {}
    template = config.get("chat_template")
    if jinja is not None:
        template = read_text(jinja).decode(errors="replace")
    tokens = config.get("added_tokens_decoder")
    added = [
        token.get("content")
        for token in (tokens.values() if isinstance(tokens, dict) else ())
        if isinstance(token, dict)
    ]
    end = config.get("eos_token")
    end = end.get("content") if isinstance(end, dict) else end
    return Chat(
        has_template=bool(template),
        knows_tools="tools" in str(template or ""),
        special_tokens=frozenset(token for token in added if isinstance(token, str)),
        end_tokens=(end,) if isinstance(end, str) else (),
    )


def _json_object(file: ModelFile) -> dict[str, Any] | None:
    """The file's JSON object; None where it is anything else."""
    try:
        value = json.loads(read_text(file))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _header(file: ModelFile) -> safetensors.Header:
    try:
        with file.open() as stream:
            return safetensors.read_header(stream, file.size)
    except safetensors.SafetensorsError as error:
        raise Unusable(f"{file.name} {error}.") from error

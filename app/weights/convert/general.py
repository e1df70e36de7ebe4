"""GGUF's `general.*` metadata: name, size, licence and descent of a model, from its folder's name,
README.md's front matter, config.json and generation_config.json.

What is made of these is the `gguf` package's choice, which llama.cpp's converter uses too.
"""

from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import yaml
from gguf import GGUFWriter
from gguf.metadata import Metadata
from gguf.utility import size_label

from app.weights.convert.config import read_json
from app.weights.convert.keys import Keys, text, whole
from app.weights.model import Tensor, Value
from app.weights.quants import QUANTIZATION_VERSION

README_BYTES = 64 * 2**10
TEXT = 1024
TEXTS = 1000
_LISTS = ("tags", "pipeline_tag", "language", "languages", "license")
_LISTS_OF_MODELS = ("base_model", "base_models", "datasets", "dataset")
_TEXTS = (
    *("name", "author", "version", "organization", "description", "finetune", "basename"),
    *("model_name", "model_creator", "model_type", "license_name", "license_link", "url", "doi"),
)
_SAMPLING = {
    "top_k": ("sampling_top_k", int),
    "top_p": ("sampling_top_p", float),
    "min_p": ("sampling_min_p", float),
    "temperature": ("sampling_temp", float),
}


def general_keys(
    name: str, config: Mapping[str, Any], files: Mapping[str, Path], tensors: Iterable[Tensor]
) -> Keys:
    """The metadata, `general.architecture` and `general.file_type` excepted. `name` is the model's,
    as its folder is called; `files` are those in it, by name. Raises WeightsError."""
    total, label = _size(tensors)
    card = _card(files.get("README.md"))
    source = config.get("_name_or_path")
    known = {"_name_or_path": source[:TEXT]} if isinstance(source, str) and source else {}
    metadata = Metadata()
    try:
        Metadata.apply_metadata_heuristic(metadata, card, known, Path(name), total)
    except (AttributeError, IndexError, TypeError, ValueError):
        metadata = Metadata()
    metadata.name = metadata.name or name
    metadata.size_label = metadata.size_label or label
    generation = {}
    if "generation_config.json" in files:
        generation = read_json(files["generation_config.json"], "generation_config.json")
    for key, (attribute, kind) in _SAMPLING.items():
        value = generation.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**31:
            setattr(metadata, attribute, kind(value))
    writer = GGUFWriter(None, "")
    metadata.set_gguf_meta_model(writer)
    keys = {
        key: Value(value.type.value, value.value, _items(value.value))
        for key, value in writer.kv_data[0].items()
        if key != "general.architecture"
    }
    return {
        "general.type": text("model"),
        **keys,
        "general.quantization_version": whole(QUANTIZATION_VERSION),
    }


def _items(content: object) -> int | None:
    return 8 if isinstance(content, list) else None


def _size(tensors: Iterable[Tensor]) -> tuple[int, str]:
    """How many parameters there are, and the label that names as many (`1.2B`, `8x7B`)."""
    shared = each = total = stacks = stacked = 0
    for tensor in tensors:
        count = prod(tensor.shape)
        total += count
        if "_exps." in tensor.name and len(tensor.shape) > 2:
            stacks, stacked = stacks + 1, stacked + tensor.shape[2]
            each += count // tensor.shape[2]
        else:
            shared += count
    return total, size_label(total, shared, each, stacked // stacks if stacks else 0)


def _card(readme: Path | None) -> dict[str, Any]:
    """README.md's front matter, so far as it has texts and lists of texts under the known keys."""
    if readme is None:
        return {}
    with readme.open("rb") as file:
        lines = file.read(README_BYTES).decode(errors="replace").splitlines()
    if not lines or lines[0] != "---" or "---" not in lines[1:]:
        return {}
    front = "\n".join(lines[1 : lines.index("---", 1)]).replace("\t", "  ")
    try:
        # BaseLoader makes texts only: `- no`, the language, is no truth value.
        values = yaml.load(front, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError, ValueError):
        return {}
    if not isinstance(values, dict):
        return {}
    card: dict[str, Any] = {}
    for key in (*_TEXTS, *_LISTS, *_LISTS_OF_MODELS):
        value = values.get(key)
        if isinstance(value, str) and value:
            card[key] = value[:TEXT]
        elif isinstance(value, list) and key not in _TEXTS:
            card[key] = [item[:TEXT] for item in value[:TEXTS] if isinstance(item, str) and item]
    return card

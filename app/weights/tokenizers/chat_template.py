"""The chat template of a trainer's folder: one, or several by name."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from app.weights.tokenizers.files import json_object, text_file

TEMPLATE_BYTES = 2**20
TEMPLATES = 32
DEFAULT = "default"


def chat_templates(files: Mapping[str, Path]) -> dict[str, str]:
    """Chat templates by name; the one to use is named "default".

    transformers lets chat_template.jinja win over tokenizer_config.json, whose entry is a text or a
    list of named ones; chat_template.json is a processor's. Raises WeightsError.
    """
    found: dict[str, str] = {}
    for name in "chat_template.json", "tokenizer_config.json":
        entry = json_object(files, name).get("chat_template")
        listed = entry if isinstance(entry, list) else [{"name": DEFAULT, "template": entry}]
        for item in listed[:TEMPLATES]:
            if isinstance(item, dict) and isinstance(text := item.get("template"), str):
                found[str(item.get("name", DEFAULT))] = text
    for name in sorted(files):
        path = PurePosixPath(name)
        if name == "chat_template.jinja":
            key = DEFAULT
        elif path.parent == PurePosixPath("additional_chat_templates") and path.suffix == ".jinja":
            key = path.stem
        else:
            continue
        text = text_file(files, name, TEMPLATE_BYTES)
        if text is not None and (key in found or len(found) < TEMPLATES):
            found[key] = text
    return {key: text for key, text in found.items() if len(text) <= TEMPLATE_BYTES and text}

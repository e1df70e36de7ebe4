"""What of a quantised file is held against llama.cpp's own quantiser, and of which models."""

import hashlib
from pathlib import Path
from typing import Any

import gguf

from tests.gguf_files import write_base

Type = gguf.GGMLQuantizationType
CASES: dict[str, dict[str, Any]] = {
    "llama": {"arch": "llama", "width": 256, "blocks": 4, "dtype": Type.F16},
    "llama of short rows": {"arch": "llama", "width": 96, "blocks": 1, "dtype": Type.BF16},
    "qwen2": {"arch": "qwen2", "width": 256, "blocks": 1, "dtype": Type.F32},
    "gemma3": {"arch": "gemma3", "width": 320, "blocks": 1, "dtype": Type.BF16},
}


def source(case: str, folder: Path) -> Path:
    """The case's model, in 16 or 32 bit."""
    return write_base(folder / "source.gguf", **CASES[case])


def summary(path: Path) -> dict[str, str]:
    """Each tensor's type and the start of its bytes' SHA-256; the metadata that name the types."""
    reader = gguf.GGUFReader(path)
    found = {
        tensor.name: f"{tensor.tensor_type.name} "
        f"{hashlib.sha256(tensor.data.tobytes()).hexdigest()[:12]}"
        for tensor in reader.tensors
    }
    for key in ("general.file_type", "general.quantization_version"):
        field = reader.get_field(key)
        found[key] = str(field and field.contents())
    return dict(sorted(found.items()))

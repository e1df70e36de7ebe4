"""A case's folder, from what its fixture says of it: config.json and the tensors' shapes."""

import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

SIZES = {"F32": 4, "F16": 2, "BF16": 2}


def values(case: str, name: str, shape: tuple[int, ...]) -> "np.ndarray[Any, Any]":
    """The tensor's values, the same on every machine; they are multiples of 1/256 and so the same
    in every type."""
    random = np.random.default_rng(zlib.crc32(f"{case} {name}".encode()))
    spread = 1.0 / np.sqrt(shape[-1]) if len(shape) > 1 else 0.25
    mean = 0.0
    if "embed_tokens" in name:
        spread = 0.5
    elif "norm" in name and name.endswith(".weight"):
        offset = (
            case.startswith(("gemma2", "gemma3"))
            or case == "gemma"
            or (case == "qwen35" and "linear_attn" not in name)
        )
        mean = 0.0 if offset else 1.0
        if case.startswith("gemma4") and name.endswith(("q_norm.weight", "k_norm.weight")):
            mean = 0.25  # scores aren't divided by the root of a head's size
    drawn = random.normal(mean, spread, shape)
    return (np.round(drawn * 256) / 256).clip(-0.99 + mean, 0.99 + mean).astype(np.float32)


def encoded(array: "np.ndarray[Any, Any]", dtype: str) -> bytes:
    if dtype == "BF16":
        return (array.view(np.uint32) >> 16).astype("<u2").tobytes()
    return array.astype({"F32": "<f4", "F16": "<f2"}[dtype]).tobytes()


def write_safetensors(
    path: Path, tensors: Mapping[str, "np.ndarray[Any, Any]"], dtype: str
) -> Path:
    """A safetensors file of float32 arrays, each stored as `dtype`."""
    blobs = {name: encoded(array, dtype) for name, array in tensors.items()}
    table: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, blob in blobs.items():
        table[name] = {
            "dtype": dtype,
            "shape": list(tensors[name].shape),
            "data_offsets": [at, at + len(blob)],
        }
        at += len(blob)
    header = json.dumps(table).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"".join(blobs.values()))
    return path


def write_folder(
    folder: Path,
    case: str,
    config: Mapping[str, Any],
    shapes: Mapping[str, list[int]],
    dtype: str = "BF16",
    shards: int = 1,
) -> Path:
    """The case's folder, with `shards` safetensors files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    tensors = {name: values(case, name, tuple(shape)) for name, shape in shapes.items()}
    if shards == 1:
        write_safetensors(folder / "model.safetensors", tensors, dtype)
        return folder
    index = {}
    for number in range(shards):
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        part = dict(list(tensors.items())[number::shards])
        write_safetensors(folder / file, part, dtype)
        index |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": 0}, "weight_map": index})
    )
    return folder

"""Small models in memory and adapters on disk, for the tests of merging."""

import json
import struct
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from app.formats.tensor_types import ARRAY, STRING
from app.weights import quants
from app.weights.model import Model, Tensor, Value
from app.weights.rows import ArrayRows

Array = np.ndarray[Any, np.dtype[Any]]
HEADS, KV_HEADS, HEAD, FF, VOCABULARY = 4, 2, 8, 48, 20
WIDTH, KV = HEADS * HEAD, KV_HEADS * HEAD
BLOCK = {
    "attn_norm.weight": (WIDTH,),
    "attn_q.weight": (WIDTH, WIDTH),
    "attn_k.weight": (KV, WIDTH),
    "attn_v.weight": (KV, WIDTH),
    "attn_output.weight": (WIDTH, WIDTH),
    "ffn_norm.weight": (WIDTH,),
    "ffn_gate.weight": (FF, WIDTH),
    "ffn_up.weight": (FF, WIDTH),
    "ffn_down.weight": (WIDTH, FF),
}
BIASES = {"attn_q.bias": (WIDTH,), "attn_k.bias": (KV,), "attn_v.bias": (KV,)}


def dense(blocks: int = 2, *, tied: bool = False, bias: bool = False) -> dict[str, tuple[int, ...]]:
    """Shapes (rows first) of the tensors of a llama or one like it."""
    shapes = {"token_embd.weight": (VOCABULARY, WIDTH), "output_norm.weight": (WIDTH,)}
    if not tied:
        shapes["output.weight"] = (VOCABULARY, WIDTH)
    for number in range(blocks):
        for name, shape in (BLOCK | (BIASES if bias else {})).items():
            shapes[f"blk.{number}.{name}"] = shape
    return shapes


def random_model(
    architecture: str,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    seed: int = 0,
    tokens: int = VOCABULARY,
    **numbers: int,
) -> Model:
    """A model of F32 tensors with random values; `numbers` go into its metadata."""
    random = np.random.default_rng(seed)
    tensors = {}
    for name, shape in shapes.items():
        values = random.normal(0, 0.5, shape).astype(np.float32)
        rows = ArrayRows(values.reshape(-1, shape[-1]))
        tensors[name] = Tensor(name, shape[::-1], quants.F32, rows)
    known = {
        "block_count": 2,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
        **numbers,
    }
    metadata = {f"{architecture}.{key}": Value(4, value) for key, value in known.items()}
    texts = [f"t{number}" for number in range(tokens)]
    metadata["tokenizer.ggml.tokens"] = Value(ARRAY, texts, STRING)
    metadata["tokenizer.ggml.token_type"] = Value(ARRAY, [1] * tokens, 5)
    return Model(architecture, metadata, tensors)


def values_of(model: Model) -> dict[str, Array]:
    """All tensors in float64, rows first; read in two pieces, as a writer would."""
    found = {}
    for name, tensor in model.tensors.items():
        count = tensor.rows.count
        bounds = sorted({0, count // 2, count})
        pieces = [tensor.rows.read(*both) for both in pairwise(bounds)]
        joined = np.concatenate(pieces)
        found[name] = joined.astype(np.float64).reshape(tensor.shape[::-1])
    return found


def save(path: Path, tensors: Mapping[str, Array]) -> Path:
    """Write a safetensors file: float32 as F32, float16 as F16, float64 as F64, int8 as I8."""
    names = {"float32": "F32", "float16": "F16", "float64": "F64", "int8": "I8"}
    table, data = {}, b""
    for name, values in tensors.items():
        values = np.ascontiguousarray(values)
        end = len(data) + values.nbytes
        kind = names[str(values.dtype)]
        table[name] = {"dtype": kind, "shape": values.shape, "data_offsets": [len(data), end]}
        data += values.tobytes()
    text = json.dumps(table).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def adapter(
    folder: Path,
    tensors: Mapping[str, Array],
    settings: Mapping[str, Any] | None = None,
    *,
    mlx: bool = False,
) -> list[Path]:
    """An adapter's files in a folder: its config and its weights."""
    config = dict(settings or {})
    if not mlx:
        config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, **config}
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(config))
    name = "adapters.safetensors" if mlx else "adapter_model.safetensors"
    return [path, save(folder / name, tensors)]


def random_values(*shape: int, seed: int = 1) -> Array:
    return np.random.default_rng(seed).normal(0, 0.3, shape).astype(np.float32)


def to_gguf_order(weights: Array, heads: int) -> Array:
    """Rows of a llama's query or key projection from Hugging Face's order (a head's first halves,
    then its second) to GGUF's (pairs side by side), one row at a time."""
    result = np.empty_like(weights)
    size = len(weights) // heads
    for head in range(heads):
        for row in range(size // 2):
            result[head * size + 2 * row] = weights[head * size + row]
            result[head * size + 2 * row + 1] = weights[head * size + size // 2 + row]
    return result


def from_gguf_order(weights: Array, heads: int) -> Array:
    """The other way round."""
    numbers = to_gguf_order(np.arange(len(weights)), heads)
    result = np.empty_like(weights)
    result[numbers] = weights
    return result

"""Tiny but whole GGUF files, made when a test or the demo needs them.

The base models have every tensor and key that llama.cpp asks of their architecture, with random
weights; a real Ollama server loads them. An adapter has a pair for each of their linear layers.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any
from zipfile import ZIP_STORED, ZipFile

import gguf
import numpy as np

LLAMA_TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a"]
FILE_TYPES = {
    gguf.GGMLQuantizationType.F16: gguf.LlamaFileType.MOSTLY_F16,
    gguf.GGMLQuantizationType.BF16: gguf.LlamaFileType.MOSTLY_BF16,
    gguf.GGMLQuantizationType.Q8_0: gguf.LlamaFileType.MOSTLY_Q8_0,
}
REMEMBERED_WIDTH = 256
MOST_VALUES = 2**20
"""After as many, a tensor's random values come again."""
GPT2_TOKENS = [*map(chr, range(256)), "ab", "<|im_start|>", "<|im_end|>"]


def write_base(
    path: Path,
    arch: str = "llama",
    *,
    name: str = "tiny",
    width: int = 32,
    blocks: int = 1,
    dtype: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    chat_template: str | None = None,
    extra: Mapping[str, str | int | float | bool] | None = None,
    seed: int = 0,
) -> Path:
    """Write a base model of `arch` (llama, qwen2, gemma or gemma3) to `path` and return it.

    `dtype` is the type of the linear layers; norms stay F32. `extra` adds metadata.
    """
    given = (arch, name, width, blocks, dtype, chat_template, tuple((extra or {}).items()), seed)
    if width > REMEMBERED_WIDTH:
        _write_base(path, *given)
    else:
        path.write_bytes(_base(*given))
    return path


@cache
def _base(*given: Any) -> bytes:
    """What `_write_base` writes: the small ones are asked for again and again."""
    with NamedTemporaryFile(suffix=".gguf") as file:
        _write_base(Path(file.name), *given)
        return file.read()


def _write_base(
    path: Path,
    arch: str,
    name: str,
    width: int,
    blocks: int,
    dtype: gguf.GGMLQuantizationType,
    chat_template: str | None,
    extra: tuple[tuple[str, str | int | float | bool], ...],
    seed: int,
) -> None:
    writer = gguf.GGUFWriter(path, arch)
    writer.add_type("model")
    writer.add_name(name)
    writer.add_block_count(blocks)
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(2 * width)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // 2)
    if arch.startswith("gemma"):
        writer.add_key_length(width // 2)
        writer.add_value_length(width // 2)
    writer.add_file_type(FILE_TYPES.get(dtype, gguf.LlamaFileType.ALL_F32))
    _add_tokenizer(writer, arch)
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    for key, value in extra:
        _add_scalar(writer, key, value)
    random = np.random.default_rng(seed)
    for tensor, shape in base_tensors(arch, width, blocks):
        if len(shape) == 1:
            values = np.ones(shape, np.float32)
            writer.add_tensor(tensor, values)
        else:
            some = random.normal(0, 0.05, min(shape[0] * shape[1], MOST_VALUES))
            values = np.resize(some.astype(np.float32), shape)
            writer.add_tensor(tensor, gguf.quants.quantize(values, dtype), raw_dtype=dtype)
    finish(writer)


def write_lora(
    path: Path,
    arch: str = "llama",
    *,
    width: int = 32,
    blocks: int = 1,
    rank: int = 4,
    alpha: float | None = 8.0,
    scale: float = 0.5,
    base_name: str | None = None,
    seed: int = 1,
) -> Path:
    """Write an adapter for `write_base`'s model of the same shape; `scale` 0 changes nothing."""
    writer = gguf.GGUFWriter(path, arch)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    if alpha is not None:
        writer.add_float32("adapter.lora.alpha", alpha)
    if base_name is not None:
        writer.add_string("general.base_model.0.name", base_name)
        writer.add_uint32("general.base_model.count", 1)
    random = np.random.default_rng(seed)
    for tensor, shape in base_tensors(arch, width, blocks):
        if len(shape) == 2 and tensor.startswith("blk."):
            rows, columns = shape
            a = random.normal(0, 0.1, (rank, columns)).astype(np.float32)
            b = (scale * random.normal(0, 0.1, (rows, rank))).astype(np.float32)
            writer.add_tensor(f"{tensor}.lora_a", a)
            writer.add_tensor(f"{tensor}.lora_b", b)
    finish(writer)
    return path


def write_mmproj(path: Path) -> Path:
    """Write a projector of one tensor."""
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_type("mmproj")
    writer.add_tensor("v.weight", np.ones((2, 32), np.float32))
    finish(writer)
    return path


def base_tensors(arch: str, width: int, blocks: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape (rows first, as numpy has it) of each tensor of a base model."""
    vocabulary = len(GPT2_TOKENS if arch == "qwen2" else LLAMA_TOKENS)
    yield "token_embd.weight", (vocabulary, width)
    for block in range(blocks):
        yield f"blk.{block}.attn_norm.weight", (width,)
        for name in ("attn_q", "attn_k", "attn_v"):
            yield f"blk.{block}.{name}.weight", (width, width)
            if arch == "qwen2":
                yield f"blk.{block}.{name}.bias", (width,)
        yield f"blk.{block}.attn_output.weight", (width, width)
        yield f"blk.{block}.ffn_norm.weight", (width,)
        yield f"blk.{block}.ffn_gate.weight", (2 * width, width)
        yield f"blk.{block}.ffn_up.weight", (2 * width, width)
        yield f"blk.{block}.ffn_down.weight", (width, 2 * width)
    yield "output_norm.weight", (width,)
    if not arch.startswith("gemma"):
        yield "output.weight", (vocabulary, width)


def write_zip(path: Path, members: Mapping[str, Path | bytes], method: int = ZIP_STORED) -> Path:
    """Write a zip whose members are `members`: name in the zip to file or content."""
    with ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            if isinstance(content, bytes):
                archive.writestr(name, content)
            else:
                archive.write(content, name)
    return path


def _add_tokenizer(writer: gguf.GGUFWriter, arch: str) -> None:
    if arch == "qwen2":
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("qwen2")
        writer.add_token_list(GPT2_TOKENS)
        control = [gguf.TokenType.CONTROL] * 2
        writer.add_token_types([gguf.TokenType.NORMAL] * (len(GPT2_TOKENS) - 2) + control)
        writer.add_token_merges(["a b"])
        writer.add_bos_token_id(GPT2_TOKENS.index("<|im_start|>"))
        writer.add_eos_token_id(GPT2_TOKENS.index("<|im_end|>"))
        return
    writer.add_tokenizer_model("llama")
    writer.add_token_list(LLAMA_TOKENS)
    writer.add_token_scores([0.0] * len(LLAMA_TOKENS))
    kinds = [gguf.TokenType.UNKNOWN] + [gguf.TokenType.CONTROL] * 2
    kinds += [gguf.TokenType.BYTE] * 256 + [gguf.TokenType.NORMAL] * 2
    writer.add_token_types(kinds)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def _add_scalar(writer: gguf.GGUFWriter, key: str, value: str | int | float | bool) -> None:
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)


def finish(writer: gguf.GGUFWriter) -> None:
    """Write the file of a writer that has been told all."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

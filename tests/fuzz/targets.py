"""What is fuzzed: each target takes any bytes, and may raise nothing but its own error."""

import io
import json
import struct
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from app.archive.arrival import Arrival
from app.archive.headers import header_is_known
from app.archive.limits import ArchiveError, Limits
from app.formats import gguf, safetensors
from app.weights.adapters import apply_adapter
from app.weights.errors import WeightsError
from app.weights.tokenizers import added_tokens, tokenizer_metadata
from app.weights.tokenizers.splitting import BYTES, QWEN2
from app.weights.write import size_of
from tests import test_gguf, test_safetensors, test_tar, zip_defects
from tests.adapter_files import adapter, dense, random_model
from tests.small_tokenizers import byte_level, sentencepiece_json, sentencepiece_model

LLAMA = random_model("llama", dense())
LIMITS = Limits(entries=100, ratio_from=2**20)


def archive(content: bytes, filename: str = "m.zip") -> None:
    """An upload, in two pieces, gone on with in between; then read whole."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        folder, cut = Path(name), len(content) // 2
        try:
            arrival = Arrival(
                *(folder, LIMITS, lambda size: None),
                filename=filename,
                on_file=header_is_known,
                resumable=True,
            )
            try:
                arrival.write(content[:cut])
                arrival.checkpoint()
                arrival.close()
                arrival = Arrival.resume(folder, LIMITS, lambda size: None, filename=filename)
                arrival.write(content[cut:])
                arrival.finish()
            finally:
                arrival.close()
            with arrival.archive() as opened:
                for entry in opened.entries:
                    path = (folder / "target" / entry.name).resolve()
                    assert path.is_relative_to((folder / "target").resolve()), entry.name
                    opened.digest(entry)
        except ArchiveError:
            return


def gguf_header(content: bytes) -> None:
    """A GGUF file's header, and what is computed from it."""
    try:
        header = gguf.read_header(io.BytesIO(content), len(content))
    except gguf.GGUFError:
        return
    assert header.quantization
    assert header.parameter_count >= 0
    assert header.kind


def safetensors_header(content: bytes) -> None:
    """A safetensors file's header."""
    try:
        header = safetensors.read_header(io.BytesIO(content), len(content))
    except safetensors.SafetensorsError:
        return
    assert header.parameter_count >= 0


def peft(content: bytes) -> None:
    """An adapter's config and, after a NUL, its weights: merged into a small model, every row."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        config, weights = Path(name, "adapter_config.json"), Path(name, "adapter_model.safetensors")
        text, _, tensors = content.partition(b"\0")
        config.write_bytes(text)
        weights.write_bytes(tensors)
        try:
            merged = apply_adapter(LLAMA, [config, weights])
            for tensor in merged.tensors.values():
                tensor.rows.read(0, tensor.rows.count)
        except WeightsError:
            return
        assert size_of(merged) > 0


TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    "generation_config.json",
)


def tokenizer(content: bytes) -> None:
    """A trainer's tokenizer files, with NULs between; a tokenizer.model where there is none."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        pieces = content.split(b"\0", len(TOKENIZER_FILES) - 1)
        names = TOKENIZER_FILES if content.lstrip().startswith(b"{") else ("tokenizer.model",)
        files = {}
        for name, piece in zip(names, pieces if len(names) > 1 else [content], strict=False):
            files[name] = Path(folder, name)
            files[name].write_bytes(piece)
        for read in (
            lambda: tokenizer_metadata(files, {"model_type": "llama"}, 2000),
            lambda: added_tokens(files, 5),
        ):
            with suppress(WeightsError):
                read()


def _adapters() -> list[bytes]:
    """Configs that the tests of adapters know, each with the weights of one pair."""
    random = np.random.default_rng(0)
    module = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    pair = {
        module.format("A"): random.normal(0, 0.1, (4, 32)).astype(np.float32),
        module.format("B"): random.normal(0, 0.1, (32, 4)).astype(np.float32),
    }
    settings: list[dict[str, Any]] = [
        {},
        {"use_rslora": True, "use_dora": True, "fan_in_fan_out": True, "bias": "lora_only"},
        {"rank_pattern": {"q_proj": 4}, "alpha_pattern": {"layers.0.*": 16}},
        {"modules_to_save": ["lm_head"], "target_parameters": ["mlp.experts.gate_up_proj"]},
        {"trainable_token_indices": {"embed_tokens": [1, 2]}, "ensure_weight_tying": True},
        {"init_lora_weights": "pissa", "target_modules": ["q_proj"], "r": 0},
    ]
    of_mlx = {
        "model.layers.0.self_attn.q_proj.lora_a": np.ones((32, 4), np.float32),
        "model.layers.0.self_attn.q_proj.lora_b": np.ones((4, 32), np.float32),
    }
    mlx = {"fine_tune_type": "lora", "lora_parameters": {"rank": 4, "scale": 2.0, "keys": []}}
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for each, is_mlx in [*((one, False) for one in settings), (mlx, True)]:
            config, weights = adapter(Path(folder), of_mlx if is_mlx else pair, each, mlx=is_mlx)
            found.append(config.read_bytes() + b"\0" + weights.read_bytes())
    return found


def _tokenizers() -> list[bytes]:
    """A small one of each kind, with what stands beside it."""
    form = json.loads(byte_level((QWEN2, BYTES)).to_str())
    vocabulary = form["model"]["vocab"]
    form["model"]["vocab"] = {text: id_ for text, id_ in vocabulary.items() if id_ < 280}
    form["model"]["merges"] = form["model"]["merges"][:10]
    beside = b'{"eos_token": "</s>", "bos_token": {"content": "<s>"}, "chat_template": "{{ x }}"}'
    small = sentencepiece_model(vocab_size=500)
    return [
        b"\0".join((json.dumps(form).encode(), beside, beside, b'{"<x>": 281}', b"{}")),
        json.dumps(sentencepiece_json(small)).encode() + b"\0" + beside,
        b'{"model": {"type": "Unigram", "vocab": [["<unk>", 0], ["a", -1.5]], "unk_id": 0}}',
        small,
        sentencepiece_model("unigram", vocab_size=400),
    ]


def _zips() -> list[bytes]:
    stored = zip_defects.good("m/a.txt", "m/b.gguf", method=zipfile.ZIP_STORED)
    return [build() for build, _ in zip_defects.DEFECTS.values()] + [stored]


TARGETS: dict[str, tuple[Callable[[bytes], None], list[bytes]]] = {
    "zip": (archive, [seed for seed in _zips() if len(seed) < 5000]),
    "tar": (
        archive,
        [content for content, _ in test_tar.DEFECTS.values()]
        + [test_tar.tarred({"m/a": b"x" * 700}, kind) for kind in ("", "gz")],
    ),
    "gguf": (
        gguf_header,
        [test_gguf.WHOLE, *(data for data, _ in test_gguf.DEFECTS.values())],
    ),
    "peft": (peft, _adapters()),
    "tokenizer": (tokenizer, _tokenizers()),
    "safetensors": (
        safetensors_header,
        [data for data, _ in test_safetensors.DEFECTS.values() if len(data) < 5000]
        + [struct.pack("<Q", 2) + b"{}"],
    ),
}

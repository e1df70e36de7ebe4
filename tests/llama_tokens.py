"""llama.cpp's tokens for texts: `python -m tests.llama_tokens`, models and texts on its input.

A model of nothing but a vocabulary is made by `vocabulary_model`. A process of its own, for the
package logs to its standard output's descriptor.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import requests
from gguf import GGUFValueType, GGUFWriter

from app.weights.model import Value
from tests.gguf_files import finish

WIDTH = 32


def vocabulary_model(path: Path, metadata: Mapping[str, Value], name: str = "") -> Path:
    """Write a GGUF that llama.cpp loads: that tokenizer (no chat template), a block of zeros."""
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH)
    if name:
        writer.add_name(name)
    for key, value in metadata.items():
        if "chat_template" in key:
            continue
        kind = GGUFValueType(value.type)
        items = GGUFValueType(value.items) if value.items is not None else None
        writer.add_key_value(key, value.content, kind, items)
    rows = len(metadata["tokenizer.ggml.tokens"].content)
    square = np.zeros((WIDTH, WIDTH), np.float32)
    writer.add_tensor("token_embd.weight", np.zeros((rows, WIDTH), np.float16))
    writer.add_tensor("output_norm.weight", square[0])
    for part in "attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_gate", "ffn_down":
        writer.add_tensor(f"blk.0.{part}.weight", square)
    for part in "attn_norm", "ffn_norm":
        writer.add_tensor(f"blk.0.{part}.weight", square[0])
    finish(writer)
    return path


def tokens(models: Mapping[Path, Sequence[str]], special: bool = False) -> list[list[list[int]]]:
    """The ids of each text of each model; with `special`, bos and eos as llama.cpp adds them."""
    asked = {str(model): list(texts) for model, texts in models.items()}
    done = subprocess.run(
        [sys.executable, "-m", "tests.llama_tokens"],
        input=json.dumps({"models": asked, "special": special}),
        capture_output=True,
        text=True,
        timeout=600,
    )
    answer = next((line for line in done.stdout.splitlines() if line.startswith('{"ids"')), None)
    assert answer is not None, f"{done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    found: list[list[list[int]]] = json.loads(answer)["ids"]
    return found


def main() -> None:
    asked = json.loads(sys.stdin.read())
    with requests.Session() as session:
        ids = [
            _tokens(session, model, texts, asked["special"])
            for model, texts in asked["models"].items()
        ]
    print("\n" + json.dumps({"ids": ids}), flush=True)


def _tokens(
    session: requests.Session, model: str, texts: Sequence[str], special: bool
) -> list[list[int]]:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_ctx = 64
    params.n_parallel = 1
    params.warmup = False
    params.cpuparams.n_threads = 1
    server = xllamacpp.Server(params)
    found = []
    for text in texts:
        answer = session.post(
            f"{server.listening_address}/tokenize",
            json={"content": text, "add_special": special, "parse_special": True},
            timeout=60,
        )
        found.append(answer.json()["tokens"])
    return found


if __name__ == "__main__":
    main()

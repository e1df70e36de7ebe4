"""Merging an adapter into a 1 GB base: time and memory against the work that can't be avoided.

`python -m benchmarks.merge [--gigabytes 1.0]`. The base is Q4_K with Q6_K in the places where a
Q4_K_M has it, the adapter changes every linear layer. The floor is copying the file plus decoding
and quantising the changed tensors, on as many processes.
"""

import argparse
import multiprocessing
import os
import resource
import shutil
import tempfile
import time
from pathlib import Path

import gguf
import libgguf
import numpy as np

from app.formats import gguf as headers
from app.weights import quants
from app.weights.job import Job, run

WIDTH, HIDDEN, RANK = 2048, 5632, 16
SHAPES = {
    "attn_q": (WIDTH, WIDTH),
    "attn_k": (WIDTH, WIDTH),
    "attn_v": (WIDTH, WIDTH),
    "attn_output": (WIDTH, WIDTH),
    "ffn_gate": (HIDDEN, WIDTH),
    "ffn_up": (HIDDEN, WIDTH),
    "ffn_down": (WIDTH, HIDDEN),
}
Q4_K, Q6_K = gguf.GGMLQuantizationType.Q4_K, gguf.GGMLQuantizationType.Q6_K
LARGER = ("attn_v", "ffn_down")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    gigabytes = parser.parse_args().gigabytes
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base, lora = _build(folder, gigabytes)
        size = base.stat().st_size / 1e9
        seconds, peak = _merge(base, lora, folder / "merged.gguf")
        floor = _floor(base, folder / "copy.gguf")
        print(f"base {size:.2f} GB, {os.cpu_count()} processors")
        print(f"floor (copy + re-quantise)   {floor:7.1f} s   {floor / size:6.1f} s/GB")
        print(f"merge, hashed and synced     {seconds:7.1f} s   {seconds / size:6.1f} s/GB")
        print(f"merge / floor                {seconds / floor:7.2f}     aim: at most 3")
        print(f"largest process's peak       {peak:7.0f} MB   aim: under 400 MB")


def _build(folder: Path, gigabytes: float) -> tuple[Path, Path]:
    """A base of about that size, and an adapter for each of its linear layers."""
    random = np.random.default_rng(0)
    layers = {}
    for name, shape in SHAPES.items():
        kind = Q6_K if name in LARGER else Q4_K
        values = random.normal(0, 0.05, shape).astype(np.float32)
        layers[name] = (libgguf.quantize_rows(values, kind), kind)
    block_bytes = sum(data.nbytes for data, _ in layers.values())
    base = gguf.GGUFWriter(folder / "base.gguf", "llama")
    lora = gguf.GGUFWriter(folder / "lora.gguf", "llama")
    lora.add_type("adapter")
    lora.add_string("adapter.type", "lora")
    lora.add_float32("adapter.lora.alpha", 2.0 * RANK)
    for block in range(max(1, round(gigabytes * 1e9 / block_bytes))):
        for name, (data, kind) in layers.items():
            rows, columns = SHAPES[name]
            tensor = f"blk.{block}.{name}.weight"
            base.add_tensor(tensor, data, raw_dtype=kind)
            a = random.normal(0, 0.02, (RANK, columns)).astype(np.float32)
            b = random.normal(0, 0.02, (rows, RANK)).astype(np.float32)
            lora.add_tensor(f"{tensor}.lora_a", a)
            lora.add_tensor(f"{tensor}.lora_b", b)
    for writer in (base, lora):
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return folder / "base.gguf", folder / "lora.gguf"


def _floor(base: Path, copy: Path) -> float:
    started = time.monotonic()
    shutil.copyfile(base, copy)
    tensors = list(headers.open_header(base).tensors.values())
    with multiprocessing.get_context("fork").Pool(os.cpu_count()) as pool:
        pool.starmap(_requantise, [(base, tensor) for tensor in tensors], chunksize=1)
    return time.monotonic() - started


def _requantise(path: Path, tensor: headers.Tensor) -> None:
    with path.open("rb") as file:
        data = os.pread(file.fileno(), tensor.nbytes, tensor.offset)
    quants.encode(tensor.type, quants.decode(tensor.type, data, tensor.shape[0]))


def _merge(base: Path, lora: Path, target: Path) -> tuple[float, float]:
    """Seconds, and the peak memory of the process in MB, of the service's own work."""
    started = time.monotonic()
    run(Job((str(base),), (str(lora),)), target, lambda progress: None)
    seconds = time.monotonic() - started
    return seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000


if __name__ == "__main__":
    main()

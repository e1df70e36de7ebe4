"""A LoRA adapter merged into its base model: two GGUF files become one.

Run as a process of its own, `python -m app.weights.merge`, which takes a job as JSON on its
standard input and writes its progress and its result as JSON lines: quantising holds the
interpreter's lock for seconds, and memory that numpy takes would stay with the web server.
"""

import hashlib
import json
import multiprocessing
import os
import struct
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from app.formats import gguf, safetensors
from app.formats.adapter_config import read_adapter_config
from app.formats.gguf import GGUFError, Header, Tensor
from app.formats.safetensors import SafetensorsError
from app.formats.tensor_types import STRING
from app.weights import quants
from app.weights.model import Floats, WeightsError

SLAB_BYTES = 8 * 2**20
COPY_BYTES = 8 * 2**20
NOTE_KEY = "model_handler.merged"


MergeError = WeightsError


@dataclass(frozen=True)
class Pair:
    """A low-rank change of one base tensor: `factor` * B @ A is added to it.

    `load` gives A, of shape (experts, rank, columns), and B, of shape (experts, rows, rank); a
    tensor of two dimensions counts as one expert.
    """

    load: Callable[[], tuple[Floats, Floats]]
    factor: float


@dataclass(frozen=True)
class Merged:
    """What a merge made: the file's sha256 (hex), how many tensors were changed, and those whose
    type has no encoder, so that they were written in a larger one."""

    sha256: str
    tensors: int
    recoded: tuple[str, ...]


@dataclass(frozen=True)
class _Part:
    """A tensor of the result: where it comes from, what changes it, and its place in the file."""

    source: Path
    tensor: Tensor
    pair: Pair | None
    type: int
    offset: int
    nbytes: int

    @property
    def columns(self) -> int:
        return self.tensor.shape[0]

    @property
    def rows(self) -> int:
        return self.tensor.elements // self.columns


def gguf_pairs(path: Path, header: Header) -> dict[str, Pair]:
    """The pairs of a LoRA GGUF, by the base tensor's name; see gguf.check_adapter_fits.

    The scale is alpha / rank, the rank being the pair's own: llama.cpp, src/llama-adapter.h.
    """
    alpha = header.lora_alpha
    assert alpha is not None
    pairs = {}
    for name, a in header.tensors.items():
        if not name.endswith(".lora_a"):
            continue
        stem = name.removesuffix(".lora_a")
        b = header.tensors[f"{stem}.lora_b"]
        flipped = stem == "token_embd.weight"
        rank = a.shape[0] if flipped else a.shape[1]
        pairs[stem] = Pair(_loader(path, a, b, flipped), alpha / rank)
    return pairs


def _loader(path: Path, a: Tensor, b: Tensor, flipped: bool) -> Callable[[], tuple[Floats, Floats]]:
    def load() -> tuple[Floats, Floats]:
        one, other = _read_tensor(path, a), _read_tensor(path, b)
        # Of an embedding, A has a row for each token and B one for each column.
        return (other.transpose(0, 2, 1), one) if flipped else (one, other)

    return load


def _read_tensor(path: Path, tensor: Tensor) -> Floats:
    with path.open("rb") as file:
        data = os.pread(file.fileno(), tensor.nbytes, tensor.offset)
    values = quants.decode(tensor.type, data, tensor.shape[0])
    return values.reshape(-1, tensor.shape[1], tensor.shape[0])


def merge(
    base: Sequence[Path],
    pairs: Mapping[str, Pair],
    target: Path,
    *,
    note: str,
    scale: float = 1.0,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Merged:
    """Write the base model (one file, or its shards in order) with `pairs` added to `target`.

    What no pair changes is copied byte for byte. A changed tensor goes back to its own type, or
    where that has no encoder, to the one that quants.writable_type says. Metadata is the base's,
    with a name and a note. `report` gets the bytes written and to write. Memory stays at a few
    slabs of rows a processor, whatever the model's size. Raises MergeError where a result isn't
    finite, and OSError.
    """
    headers = {path: gguf.open_header(path) for path in base}
    pairs = {name: pair for name, pair in pairs.items() if pair.factor * scale != 0}
    parts = _parts(headers, pairs)
    with target.open("xb+", buffering=0) as file:
        start = _write_header(file, base[0], headers, parts, note)
        parts = [_moved(part, start) for part in parts]
        total = parts[-1].offset + parts[-1].nbytes
        file.truncate(total)
        with _pool(parts, target, scale) as results, _Hasher(target, total) as hasher:
            for part in parts:
                hasher.advance(part.offset)
                for written in _write(part, file, results):
                    hasher.advance(written)
                    report(written, total)
            digest = hasher.result()
        os.fsync(file.fileno())
    changed = [part for part in parts if part.pair is not None]
    recoded = tuple(part.tensor.name for part in changed if part.type != part.tensor.type)
    return Merged(digest, len(changed), recoded)


def _parts(headers: Mapping[Path, Header], pairs: Mapping[str, Pair]) -> list[_Part]:
    """The result's tensors, with offsets from the start of the tensor data."""
    alignment = next(iter(headers.values())).alignment
    parts, offset = [], 0
    for path, header in headers.items():
        for tensor in header.tensors.values():
            pair, number = pairs.get(tensor.name), tensor.type
            if pair is not None:
                number = quants.writable_type(number, tensor.shape[0])
            rows = tensor.elements // tensor.shape[0]
            nbytes = rows * quants.row_bytes(number, tensor.shape[0])
            parts.append(_Part(path, tensor, pair, number, offset, nbytes))
            offset += -(-nbytes // alignment) * alignment
    return parts


def _moved(part: _Part, start: int) -> _Part:
    return _Part(part.source, part.tensor, part.pair, part.type, part.offset + start, part.nbytes)


def _write_header(
    file: BinaryIO, first: Path, headers: Mapping[Path, Header], parts: Sequence[_Part], note: str
) -> int:
    """Write all before the tensor data; where that begins. Source: ggml, docs/gguf.md."""
    header = headers[first]
    own = {"general.name": f"{header.name or first.stem} ({note})", NOTE_KEY: note}
    kept = [key for key in header.spans if key not in own and not key.startswith("split.")]
    file.write(struct.pack("<4sIQQ", b"GGUF", 3, len(parts), len(kept) + len(own)))
    with first.open("rb") as source:
        for key in kept:
            begin, end = header.spans[key]
            _copy(source, begin, file, file.tell(), end - begin)
            file.seek(0, os.SEEK_END)
    for key, text in own.items():
        file.write(_packed(key) + struct.pack("<I", STRING) + _packed(text))
    for part in parts:
        shape = part.tensor.shape
        file.write(_packed(part.tensor.name) + struct.pack("<I", len(shape)))
        file.write(struct.pack(f"<{len(shape)}QIQ", *shape, part.type, part.offset))
    return -(-file.tell() // header.alignment) * header.alignment


def _packed(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _write(part: _Part, file: BinaryIO, results: Iterator[None]) -> Iterator[int]:
    """Write a tensor; yields how far the file is written."""
    if part.pair is None:
        with part.source.open("rb") as source:
            for at in range(0, part.nbytes, COPY_BYTES):
                count = min(COPY_BYTES, part.nbytes - at)
                _copy(source, part.tensor.offset + at, file, part.offset + at, count)
                yield part.offset + at + count
        return
    for _, count in _slabs(part):
        next(results)
        yield part.offset + count * quants.row_bytes(part.type, part.columns)


def _copy(source: BinaryIO, start: int, target: BinaryIO, at: int, count: int) -> None:
    """Have the kernel copy `count` bytes from one place to another."""
    while count:
        copied = os.copy_file_range(source.fileno(), target.fileno(), count, start, at)
        if not copied:
            raise OSError("The base model's file became shorter while it was merged.")
        start, at, count = start + copied, at + copied, count - copied


def _slabs(part: _Part) -> Iterator[tuple[int, int]]:
    """First row, and row after the last, of each piece of a tensor that is changed at once; a
    slab lies within one expert."""
    per_expert = part.tensor.shape[1] if len(part.tensor.shape) > 1 else 1
    step = max(1, SLAB_BYTES // (4 * part.columns))
    for expert in range(part.rows // per_expert):
        for row in range(0, per_expert, step):
            first = expert * per_expert + row
            yield first, expert * per_expert + min(row + step, per_expert)


class _pool:
    """Worker processes that change the slabs of `parts` in `target`; iterates once a slab, in
    order, as each is written."""

    def __init__(self, parts: Sequence[_Part], target: Path, scale: float) -> None:
        # The workers inherit the parts, which hold functions.
        _Worker.parts, _Worker.target, _Worker.scale = parts, target, scale
        self._tasks = [
            (number, first, last)
            for number, part in enumerate(parts)
            if part.pair is not None
            for first, last in _slabs(part)
        ]
        self._pool = multiprocessing.get_context("fork").Pool(os.cpu_count())

    def __enter__(self) -> Iterator[None]:
        return self._pool.imap(_Worker.change, self._tasks)

    def __exit__(self, *_: object) -> None:
        self._pool.terminate()
        self._pool.join()


class _Worker:
    """What a worker process knows and does."""

    parts: Sequence[_Part] = ()
    target: Path
    scale: float

    @classmethod
    def change(cls, task: tuple[int, int, int]) -> None:
        """Read some rows of a tensor, add their change, and write them where they belong."""
        number, first, last = task
        part = cls.parts[number]
        width = quants.row_bytes(part.tensor.type, part.columns)
        with part.source.open("rb") as source:
            offset = part.tensor.offset + first * width
            data = os.pread(source.fileno(), (last - first) * width, offset)
        a, b = cls.load(number)
        per_expert = part.rows // len(a)
        expert, row = divmod(first, per_expert)
        assert part.pair is not None
        change = b[expert, row : row + last - first] @ a[expert]
        try:
            rows = quants.decode(part.tensor.type, data, part.columns)
        except quants.NoDecoder as error:
            raise MergeError(f"{part.tensor.name} can't be changed: {error}.") from error
        rows = rows + np.float32(part.pair.factor * cls.scale) * change
        encoded = quants.encode(part.type, rows)
        if not _is_finite(part, rows, encoded):
            raise MergeError(f"{part.tensor.name} isn't finite once the adapter is merged into it.")
        width = quants.row_bytes(part.type, part.columns)
        with cls.target.open("rb+", buffering=0) as target:
            os.pwrite(target.fileno(), encoded.data, part.offset + first * width)

    @staticmethod
    @lru_cache(maxsize=1)
    def load(number: int) -> tuple[Floats, Floats]:
        pair = _Worker.parts[number].pair
        assert pair is not None
        return pair.load()


def _is_finite(part: _Part, rows: Floats, encoded: quants.Bytes) -> bool:
    return bool(np.isfinite(rows).all()) and quants.is_finite(part.type, encoded)


class _Hasher(threading.Thread):
    """Hashes a file while it is written, behind whoever writes it."""

    def __init__(self, path: Path, total: int) -> None:
        super().__init__(name="hasher", daemon=True)
        self._path, self._total = path, total
        self._written = self._hashed = 0
        self._stopped = False
        self._changed = threading.Condition()
        self._digest = hashlib.sha256()

    def advance(self, written: int) -> None:
        """The file is final up to that byte."""
        with self._changed:
            self._written = written
            self._changed.notify()

    def result(self) -> str:
        """Wait for all bytes to be hashed; their sha256 (hex)."""
        self.advance(self._total)
        self.join()
        return self._digest.hexdigest()

    def run(self) -> None:
        with self._path.open("rb", buffering=0) as file:
            while self._hashed < self._total:
                with self._changed:
                    self._changed.wait_for(lambda: self._written > self._hashed or self._stopped)
                    until = self._written
                    if self._stopped:
                        return
                while self._hashed < until:
                    block = file.read(min(2**20, until - self._hashed))
                    self._digest.update(block)
                    self._hashed += len(block)

    def __enter__(self) -> "_Hasher":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self.join()


def main() -> None:
    """Do the job on standard input; say {"done", "total"}, then {"merged"} or {"error"}."""
    job = json.load(sys.stdin)

    def say(line: Mapping[str, Any]) -> None:
        print(json.dumps(line), flush=True)

    try:
        base, adapter = [Path(path) for path in job["base"]], Path(job["adapter"])
        pairs = _job_pairs(adapter, job.get("config"), base)
        merged = merge(
            base,
            pairs,
            Path(job["target"]),
            note=job["note"],
            scale=job["scale"],
            report=lambda done, total: say({"done": done, "total": total}),
        )
    except (MergeError, GGUFError, SafetensorsError) as error:
        say({"error": str(error)})
    except OSError as error:
        say({"errno": error.errno})
    else:
        say({"merged": asdict(merged)})


def _job_pairs(adapter: Path, config: str | None, base: Sequence[Path]) -> dict[str, Pair]:
    if config is None:
        return gguf_pairs(adapter, gguf.open_header(adapter))
    from app.weights.peft import peft_pairs  # which needs this module

    settings = read_adapter_config(Path(config).read_bytes())
    headers = [gguf.open_header(path) for path in base]
    return peft_pairs(adapter, safetensors.open_header(adapter), settings, headers)


if __name__ == "__main__":
    main()

"""The GGUF header reader: against the `gguf` package, and against whatever else may come."""

import io
import struct
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gguf as oracle
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.formats import gguf
from app.formats import tensor_types as gguf_types
from app.formats.gguf import GGUFError, Header, open_header, read_header
from app.formats.lora_gguf import check_adapter_fits
from tests.gguf_files import finish, write_base, write_lora

PEAK_BYTES = 64 * 2**20


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def pair(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def tensor(name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    shape_bytes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + shape_bytes + struct.pack("<IQ", kind, offset)


ONE_TENSOR = (tensor("x", (4,)),)


def build(
    pairs: Sequence[bytes] = (),
    tensors: Sequence[bytes] = ONE_TENSOR,
    *,
    version: int = 3,
    data: int = 256,
    counts: tuple[int, int] | None = None,
) -> bytes:
    """A GGUF file by hand: its pairs and tensor infos as bytes, and zeros as data."""
    count, keys = counts or (len(tensors), len(pairs))
    head = struct.pack("<4sIQQ", b"GGUF", version, count, keys) + b"".join([*pairs, *tensors])
    return head + bytes(-len(head) % 32) + bytes(data)


def read(data: bytes) -> Header:
    return read_header(io.BytesIO(data), len(data))


@pytest.mark.parametrize("arch", ["llama", "qwen2", "gemma"])
@pytest.mark.parametrize("write", [write_base, write_lora])
def test_agrees_with_the_gguf_package(
    tmp_path: Path, arch: str, write: Callable[..., Path]
) -> None:
    path = write(tmp_path / "file.gguf", arch)
    ours, theirs = open_header(path), oracle.GGUFReader(path)
    fields = {key: value for key, value in theirs.fields.items() if not key.startswith("GGUF.")}
    assert list(ours.metadata) == list(fields)
    for key, value in ours.metadata.items():
        if isinstance(value, gguf.Array):
            assert value.length == len(fields[key].data)
        else:
            assert value == fields[key].contents()
    assert ours.alignment == theirs.alignment
    assert ours.data_offset == theirs.data_offset
    assert [
        (each.name, each.shape, each.type, each.offset, each.nbytes)
        for each in ours.tensors.values()
    ] == [
        (each.name, tuple(map(int, each.shape)), each.tensor_type, each.data_offset, each.n_bytes)
        for each in theirs.tensors
    ]


def test_every_type_is_known_as_the_gguf_package_knows_it() -> None:
    assert {int(kind): (kind.name, *sizes) for kind, sizes in oracle.GGML_QUANT_SIZES.items()} == {
        number: tuple(kind) for number, kind in gguf_types.TENSOR_TYPES.items()
    }
    names = {int(kind): kind.name for kind in oracle.LlamaFileType if kind.name != "GUESSED"}
    assert {
        number: name.removeprefix("MOSTLY_").removeprefix("ALL_") for number, name in names.items()
    } == gguf_types.FILE_TYPES


FACTS: dict[str, tuple[bytes, str, object]] = {
    "version 2": (build(version=2), "version", 2),
    "a model by default": (build(), "kind", "model"),
    "which it doesn't declare": (build(), "declares_kind", False),
    "a declared adapter": (build([pair("general.type", 8, text("adapter"))]), "kind", "adapter"),
    "an adapter by its type": (build([pair("adapter.type", 8, text("lora"))]), "kind", "adapter"),
    "an adapter by its tensors": (build([], [tensor("x.lora_a", (4,))]), "kind", "adapter"),
    "a projector": (build([pair("general.architecture", 8, text("clip"))]), "kind", "mmproj"),
    "its file type": (
        build([pair("general.file_type", 4, b"\x0f\0\0\0")]),
        "quantization",
        "Q4_K_M",
    ),
    "a guessed file type": (
        build([pair("general.file_type", 4, b"\x0f\4\0\0")]),
        *("quantization", "Q4_K_M"),
    ),
    "most of its bytes": (
        build([], [tensor("x", (4,)), tensor("y", (64,), 8, 32)]),
        *("quantization", "Q8_0"),
    ),
    "a shard": (
        build([pair("split.no", 2, b"\1\0"), pair("split.count", 2, b"\3\0")]),
        *("shard", (1, 3)),
    ),
    "its alignment": (build([pair("general.alignment", 4, b"\x40\0\0\0")]), "alignment", 64),
    "its base": (
        build([pair("general.base_model.0.name", 8, text("Tiny"))]),
        *("base_model", "Tiny"),
    ),
    "special tokens": (
        build(
            [
                pair(
                    "tokenizer.ggml.tokens",
                    9,
                    struct.pack("<IQ", 8, 3) + text("a") + text("<|im_end|>") + text("[INST]"),
                )
            ]
        ),
        *("special_tokens", {"<|im_end|>": 1, "[INST]": 2}),
    ),
}


@pytest.mark.parametrize("name", FACTS)
def test_facts(name: str) -> None:
    data, attribute, value = FACTS[name]
    assert getattr(read(data), attribute) == value


HUGE = 2**62
DEFECTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "text": (b"hello world", "isn't a GGUF file: it doesn't begin with GGUF"),
    "Git LFS": (
        b"version https://git-lfs.github.com/spec/v1",
        "isn't a GGUF file but a Git LFS pointer; run `git lfs pull` and zip again",
    ),
    "HTML": (b"<!DOCTYPE html>", "isn't a GGUF file but an HTML page; the download went wrong"),
    "a zip": (
        b"PK\3\4" + bytes(30),
        "isn't a GGUF file but a zip or a PyTorch file; convert the model to GGUF",
    ),
    "more keys than any model": (
        build(counts=(1, 16_385)),
        "says that it has 1 tensors and 16385 metadata keys",
    ),
    "more tensors than any model": (
        build(counts=(32_769, 0)),
        "says that it has 32769 tensors and 0 metadata keys",
    ),
    "version 1": (
        build(version=1),
        "is GGUF version 1; versions 2 and 3 can be used. Convert it again",
    ),
    "big-endian": (
        build(version=3 << 24),
        "is a big-endian GGUF file; convert the model again, little-endian",
    ),
    "cut in the counts": (build()[:20], "is cut off within its header"),
    "cut in the tensors": (build()[:40], "is cut off within its header"),
    "cut in the data": (
        build()[:70],
        "is cut off: x should end at byte 80, but the file has 70. Copy it again",
    ),
    "many tensors": (
        build(counts=(HUGE, 0)),
        f"says that it has {HUGE} tensors and 0 metadata keys",
    ),
    "many keys": (build(counts=(0, HUGE)), f"says that it has 0 tensors and {HUGE} metadata keys"),
    "a long key": (build([struct.pack("<Q", HUGE)]), f"has a metadata key of {HUGE} bytes"),
    "a long text": (
        build([pair("x", 8, struct.pack("<Q", HUGE))]),
        "is cut off within its header",
    ),
    "a long array": (
        build([pair("x", 9, struct.pack("<IQ", 4, HUGE))]),
        "is cut off within its header",
    ),
    "an array of many texts": (
        build([pair("x", 9, struct.pack("<IQ", 8, HUGE))]),
        "has more than 2000000 texts in its metadata",
    ),
    "a nested array": (
        build([pair("x", 9, struct.pack("<IQ", 9, 1))]),
        "has an array of unknown or nested type 9 under x",
    ),
    "an unknown value type": (
        build([pair("x", 13, b"")]),
        "has a value of unknown type 13 under x",
    ),
    "a key twice": (
        build([pair("x", 7, b"\1"), pair("x", 7, b"\0")]),
        "has the metadata key x twice",
    ),
    "a key that isn't UTF-8": (
        build([struct.pack("<Q", 1) + b"\xff" + struct.pack("<I", 7) + b"\1"]),
        "has a metadata key that isn't UTF-8",
    ),
    "an odd alignment": (
        build([pair("general.alignment", 4, b"\x30\0\0\0")]),
        "has a general.alignment that isn't a power of two",
    ),
    "an alignment that pads beyond reason": (
        build([pair("general.alignment", 10, struct.pack("<Q", 2**36))]),
        "has a general.alignment of 68719476736; it can be 65536 at most",
    ),
    "an infinite number": (
        build([pair("llama.rope.freq_base", 6, struct.pack("<f", float("inf")))]),
        "has inf under llama.rope.freq_base, where a finite number belongs",
    ),
    "not a number": (
        build([pair("adapter.lora.alpha", 12, struct.pack("<d", float("nan")))]),
        "has nan under adapter.lora.alpha, where a finite number belongs",
    ),
    "a name that writes to a terminal": (
        build([], [tensor("\x1b[2Jx", (4,))]),
        r"has a tensor name that can't be printed: '\x1b[2Jx'",
    ),
    "a key of two lines": (
        build([pair("a\nb", 7, b"\1")]),
        r"has a metadata key that can't be printed: 'a\nb'",
    ),
    "gzip": (b"\x1f\x8b" + bytes(30), "isn't a GGUF file but a gzip file; unpack it first"),
    "no tensors": (build([], []), "holds no tensors; it may be a vocabulary alone"),
    "a tensor twice": (
        build([], [tensor("x", (4,)), tensor("x", (4,), 0, 32)]),
        "has the tensor x twice",
    ),
    "five dimensions": (
        build([], [tensor("x", (1, 1, 1, 1, 1))]),
        "has 5 dimensions in x; there can be 1 to 4",
    ),
    "an empty dimension": (
        build([], [tensor("x", (4, 0))]),
        "has an impossible shape in x: 4x0 of F32",
    ),
    "more elements than numbers": (
        build([], [tensor("x", (HUGE, 4))]),
        f"has an impossible shape in x: {HUGE}x4 of F32",
    ),
    "half a block": (
        build([], [tensor("x", (48,), 8)]),
        "has an impossible shape in x: 48 of Q8_0",
    ),
    "an unknown tensor type": (
        build([], [tensor("x", (4,), 4)]),
        "has the tensor type 4 in x, which llama.cpp has given up",
    ),
    "out of line": (
        build([], [tensor("x", (4,), 0, 8)]),
        "has x at 8, which isn't aligned to 32 bytes",
    ),
    "overlapping": (
        build([], [tensor("x", (16,)), tensor("y", (4,), 0, 32)]),
        "has y overlapping x",
    ),
}


def test_a_newer_tensor_type_is_no_defect() -> None:
    data = build([], [tensor("x", (4,), 99), tensor("y", (4,), 0, 32)])
    header = read(data)
    assert (header.unknown_types, header.tensors["x"].type) == ({99}, 99)
    with pytest.raises(GGUFError, match="cut off"):
        read(data[:-240])


@pytest.mark.parametrize("name", DEFECTS)
def test_defects(name: str) -> None:
    data, message = DEFECTS[name]
    with pytest.raises(GGUFError) as refusal:
        read(data)
    assert str(refusal.value) == message


class Trickle(io.RawIOBase):
    """A stream that gives a few bytes at a time and can't seek."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def read(self, size: int = -1) -> bytes:
        piece = self._data[self._at : self._at + min(size, 7)]
        self._at += len(piece)
        return piece

    def seek(self, *_: object) -> int:
        raise AssertionError("headers are read forward only")


def test_reads_forward_whatever_comes_at_a_time(tmp_path: Path) -> None:
    data = write_base(tmp_path / "base.gguf", "qwen2").read_bytes()
    stream: Any = Trickle(data)
    assert read_header(stream, len(data)) == read(data)


def test_a_large_vocabulary_is_passed_over(tmp_path: Path) -> None:
    writer = oracle.GGUFWriter(tmp_path / "large.gguf", "llama")
    writer.add_token_list([f"token {number}" for number in range(100_000)] + ["<|eot_id|>"])
    writer.add_array("tokenizer.ggml.scores", [0.0] * 100_001)
    writer.add_tensor("x", np.ones((2, 32), np.float32))
    finish(writer)
    tracemalloc.start()
    try:
        header = open_header(tmp_path / "large.gguf")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert header.special_tokens == {"<|eot_id|>": 100_000}
    assert header.metadata["tokenizer.ggml.tokens"] == gguf.Array(8, 100_001, None)
    assert peak < 4 * 2**20


def test_a_beginning_says_that_more_is_needed() -> None:
    data = build([pair("x", 8, text("long " * 9))])
    for cut in (10, 40, 100):
        with pytest.raises(gguf.Truncated):
            read_header(io.BytesIO(data[:cut]), len(data))


def survives(data: bytes) -> None:
    """A header or a clean error, in bounded memory."""
    tracemalloc.start()
    try:
        read(data)
    except GGUFError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < PEAK_BYTES


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes(data: bytes) -> None:
    survives(data)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400), st.integers(0, 3), st.integers(0, 3))
def test_any_bytes_behind_a_good_start(data: bytes, tensors: int, keys: int) -> None:
    survives(struct.pack("<4sIQQ", b"GGUF", 3, tensors, keys) + data)


WHOLE = build(
    [
        pair("general.architecture", 8, text("llama")),
        pair("tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, 2) + text("a") + text("b")),
        pair("numbers", 9, struct.pack("<IQ3I", 4, 3, 1, 2, 3)),
    ],
    [tensor("x", (4, 2)), tensor("y", (64,), 8, 32)],
)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(WHOLE) - 1), st.binary(min_size=1, max_size=8))
def test_a_file_with_some_bytes_changed(at: int, change: bytes) -> None:
    survives(WHOLE[:at] + change + WHOLE[at + len(change) :])


def adapter(*tensors: bytes, alpha: float | None = 4.0, arch: str = "llama") -> Header:
    pairs = [pair("general.architecture", 8, text(arch))]
    if alpha is not None:
        pairs.append(pair("adapter.lora.alpha", 6, struct.pack("<f", alpha)))
    return read(build(pairs, list(tensors), data=4096))


BASE = read(
    build(
        [pair("general.architecture", 8, text("llama"))],
        [
            tensor("w.weight", (8, 4)),
            tensor("token_embd.weight", (8, 16), 0, 128),
            tensor("experts.weight", (8, 4, 2), 0, 640),
        ],
        data=4096,
    )
)
FITS = {
    "a layer": adapter(tensor("w.weight.lora_a", (8, 2)), tensor("w.weight.lora_b", (2, 4), 0, 64)),
    "an embedding, flipped": adapter(
        tensor("token_embd.weight.lora_a", (2, 16)),
        tensor("token_embd.weight.lora_b", (2, 8), 0, 128),
    ),
    "experts": adapter(
        tensor("experts.weight.lora_a", (8, 2, 2)),
        tensor("experts.weight.lora_b", (2, 4, 2), 0, 128),
    ),
}
MISFITS = {
    "another architecture": (
        adapter(tensor("w.weight.lora_a", (8, 2)), arch="qwen2"),
        "is for qwen2, but the base model is llama",
    ),
    "no alpha": (
        adapter(tensor("w.weight.lora_a", (8, 2)), alpha=None),
        "has no usable adapter.lora.alpha; convert the adapter again",
    ),
    "half a pair": (
        adapter(tensor("w.weight.lora_a", (8, 2))),
        "has w.weight.lora_a without the other half of its pair",
    ),
    "no pair at all": (
        adapter(tensor("w.weight", (8, 2))),
        "has the tensor w.weight, which is no half of a LoRA pair",
    ),
    "an unknown tensor": (
        adapter(tensor("v.weight.lora_a", (8, 2)), tensor("v.weight.lora_b", (2, 4), 0, 64)),
        "changes v.weight, which the base model doesn't have",
    ),
    "other sides": (
        adapter(tensor("w.weight.lora_a", (4, 2)), tensor("w.weight.lora_b", (2, 8), 0, 32)),
        "doesn't fit w.weight: lora_a is 4x2 and lora_b 2x8 where the base has 8x4",
    ),
    "ranks that differ": (
        adapter(tensor("w.weight.lora_a", (8, 2)), tensor("w.weight.lora_b", (3, 4), 0, 64)),
        "doesn't fit w.weight: lora_a is 8x2 and lora_b 3x4 where the base has 8x4",
    ),
    "an embedding that isn't flipped": (
        adapter(
            tensor("token_embd.weight.lora_a", (8, 2)),
            tensor("token_embd.weight.lora_b", (2, 16), 0, 64),
        ),
        "doesn't fit token_embd.weight: lora_a is 8x2 and lora_b 2x16 where the base has 8x16",
    ),
    "fewer experts": (
        adapter(
            tensor("experts.weight.lora_a", (8, 2, 1)),
            tensor("experts.weight.lora_b", (2, 4, 1), 0, 64),
        ),
        "doesn't fit experts.weight: lora_a is 8x2x1 and lora_b 2x4x1 where the base has 8x4x2",
    ),
}


@pytest.mark.parametrize("name", FITS)
def test_adapters_that_fit(name: str) -> None:
    check_adapter_fits([BASE], FITS[name])


@pytest.mark.parametrize("name", MISFITS)
def test_adapters_that_don_t_fit(name: str) -> None:
    header, message = MISFITS[name]
    with pytest.raises(GGUFError) as refusal:
        check_adapter_fits([BASE], header)
    assert str(refusal.value) == message


def test_a_header_beyond_its_bound_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = write_base(tmp_path / "base.gguf")
    open_header(base)
    monkeypatch.setattr("app.formats.gguf_values.HEADER_BYTES", 1000)
    with pytest.raises(GGUFError, match="a header of more than 1000 bytes"):
        open_header(base)

"""The safetensors header reader."""

import io
import json
import struct
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.formats.safetensors import (
    SafetensorsError,
    Tensor,
    Truncated,
    read_header,
)

PEAK_BYTES = 64 * 2**20


def build(table: object, data: int = 0, *, length: int | None = None) -> bytes:
    """A safetensors file by hand: its table, and zeros as data."""
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(data)


def info(shape: list[Any], start: Any, end: Any, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def test_a_good_file() -> None:
    table = {
        "__metadata__": {"format": "pt"},
        "b": info([2, 3], 8, 20, "F16"),
        "a": info([2], 0, 8),
        "empty": info([0, 4], 20, 20),
    }
    data = build(table, 20)
    header = read_header(io.BytesIO(data), len(data))
    start = len(data) - 20
    assert header.metadata == {"format": "pt"}
    assert header.parameter_count == 8
    assert header.tensors == {
        "b": Tensor("b", "F16", (2, 3), start + 8, 12),
        "a": Tensor("a", "F32", (2,), start, 8),
        "empty": Tensor("empty", "F32", (0, 4), start + 20, 0),
    }


@pytest.mark.parametrize("beyond", [0, 1])
def test_a_header_has_at_most_8_mib(beyond: int) -> None:
    data = build(json.dumps({"a": info([1], 0, 4)}).encode().ljust(8 * 2**20 + beyond), 4)
    if beyond:
        with pytest.raises(SafetensorsError, match="or is cut off within its header"):
            read_header(io.BytesIO(data), len(data))
    else:
        assert read_header(io.BytesIO(data), len(data)).tensors


DEFECTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "isn't a safetensors file: it is too short"),
    "Git LFS": (
        b"version https://git-lfs.github.com/spec/v1",
        "is a Git LFS pointer; run `git lfs pull` and zip again",
    ),
    "a header longer than the file": (
        build({}, length=2**40),
        "isn't a safetensors file, or is cut off within its header",
    ),
    "no JSON": (build(b"nonsense"), "has a header that isn't a JSON object"),
    "a list": (build([]), "has a header that isn't a JSON object"),
    "deep JSON": (build(b"[" * 100_000), "has a header that isn't a JSON object"),
    "a name twice": (
        build(b'{"a": {"x": 1}, "a": {"x": 1}}'),
        "has a header that isn't a JSON object",
    ),
    "metadata that isn't an object": (
        build({"__metadata__": 1}),
        "has a __metadata__ that isn't a JSON object of texts",
    ),
    "metadata of objects": (
        build({"__metadata__": {"a": {"b": 1}}}),
        "has a __metadata__ that isn't a JSON object of texts",
    ),
    "a text that would be multiplied": (
        build({"a": info(["a", 1_500_000_000], 0, 4)}, 4),
        "has an impossible shape or place of a",
    ),
    "four million factors": (
        build(
            b'{"a": {"dtype": "F32", "data_offsets": [0, 4], "shape": [%s9]}}' % (b"9," * 4_000_000)
        ),
        "has a header of more tensors than any model has",
    ),
    "as many as there may be": (
        build(
            b'{"a": {"dtype": "F32", "data_offsets": [0, 4], "shape": [%s9]}}' % (b"9," * 790_000)
        ),
        "has an impossible shape or place of a",
    ),
    "a number of 400 digits": (
        build({"a": info([10**400], 0, 4)}, 4),
        "has an impossible shape or place of a",
    ),
    "a number of a million digits": (
        build(b'{"a": {"dtype": "F32", "shape": [%s]}}' % (b"9" * 1_000_000)),
        "has a header that isn't a JSON object",
    ),
    "more elements than numbers": (
        build({"a": info([2**62, 2**62], 0, 4)}, 4),
        "has an impossible shape or place of a",
    ),
    "a truth value as a side": (
        build({"a": info([True], 0, 4)}, 4),
        "has an impossible shape or place of a",
    ),
    "a shape that is a text": (
        build({"a": {**info([], 0, 4), "shape": "abc"}}, 4),
        "has an impossible shape or place of a",
    ),
    "a shape that is an object": (
        build({"a": {**info([], 0, 4), "shape": {}}}, 4),
        "has an impossible shape or place of a",
    ),
    "a name that writes to a terminal": (
        build({"\x1b[2J": info([1], 0, 4)}, 4),
        r"has a tensor name that is too long or can't be printed: '\x1b[2J'",
    ),
    "a name of a megabyte": (
        build({"x" * 2**20: info([1], 0, 4)}, 4),
        f"has a tensor name that is too long or can't be printed: '{'x' * 79}",
    ),
    "a GGUF file": (
        b"GGUF" + bytes(30) + b"\1" * 600,
        "is a GGUF file; send it by itself, as <model>.gguf, or in a zip",
    ),
    "HTML": (b"<!DOCTYPE html>", "is an HTML page; the download went wrong"),
    "an unknown type": (
        build({"a": info([1], 0, 4, "F13")}, 4),
        "has an unknown or incomplete description of a",
    ),
    "no offsets": (
        build({"a": {"dtype": "F32", "shape": [1]}}, 4),
        "has an unknown or incomplete description of a",
    ),
    "a negative side": (
        build({"a": info([-1], 0, 4)}, 4),
        "has an impossible shape or place of a",
    ),
    "half a side": (build({"a": info([0.5], 0, 2)}, 4), "has an impossible shape or place of a"),
    "too few bytes": (build({"a": info([2], 0, 4)}, 4), "gives a 4 bytes where it needs 8"),
    "overlapping": (
        build({"a": info([2], 0, 8), "b": info([2], 4, 12)}, 12),
        "has a gap or an overlap before b",
    ),
    "a gap": (
        build({"a": info([1], 0, 4), "b": info([1], 8, 12)}, 12),
        "has a gap or an overlap before b",
    ),
    "cut off": (
        build({"a": info([4], 0, 16)}, 10),
        "is cut off: it should have 86 bytes, but has 80. Copy it again",
    ),
    "more at the end": (build({"a": info([1], 0, 4)}, 5), "has other data after its tensors"),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_defects(name: str) -> None:
    data, message = DEFECTS[name]
    tracemalloc.start()
    try:
        with pytest.raises(SafetensorsError) as refusal:
            read_header(io.BytesIO(data), len(data))
        assert tracemalloc.get_traced_memory()[1] < PEAK_BYTES
    finally:
        tracemalloc.stop()
    assert str(refusal.value) == message


def test_a_beginning_says_that_more_is_needed() -> None:
    data = build({"a": info([1], 0, 4)}, 4)
    for cut in (4, 8, 30):
        with pytest.raises(Truncated):
            read_header(io.BytesIO(data[:cut]), len(data))


def survives(data: bytes) -> None:
    """A header or a clean error, in bounded memory."""
    tracemalloc.start()
    try:
        read_header(io.BytesIO(data), len(data))
    except SafetensorsError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < PEAK_BYTES


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    survives(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
INFO = st.fixed_dictionaries(
    {}, optional={"dtype": st.sampled_from(["F32", "F4", "X"]) | JSON, "shape": JSON}
    | {"data_offsets": st.lists(st.integers(-9, 99), max_size=3) | JSON},
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(max_size=8), INFO | JSON, max_size=3), st.integers(0, 64))
def test_any_table(table: dict[str, Any], data: int) -> None:
    survives(build(table, data))

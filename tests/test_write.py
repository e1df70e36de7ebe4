"""Models read from GGUF files and written again: the same bytes, in every type that can be."""

import hashlib
import os
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from app.formats.tensor_types import TENSOR_TYPES
from app.weights import quants
from app.weights.job import Progress
from app.weights.model import Floats, Model, Tensor, Value, WeightsError
from app.weights.read_gguf import read_gguf
from app.weights.rows import (
    ArrayRows,
    ChangedRows,
    JoinedRows,
    PickedColumns,
    PickedRows,
    ReshapedRows,
    SlicedRows,
    StoredRows,
    TransposedRows,
    shifted,
)
from app.weights.write import size_of, write_gguf
from tests.gguf_files import write_base

RANDOM = np.random.default_rng(0)
WITHOUT_REFERENCE = (9, 15, *range(24, 29), 41)  # Q8_1, Q8_K, integers and F64, Q1_0
WITH_REFERENCE = [number for number in TENSOR_TYPES if number not in WITHOUT_REFERENCE]


def matrix(rows: int, columns: int) -> Floats:
    return RANDOM.normal(0, 0.1, (rows, columns)).astype(np.float32)


def test_what_is_unchanged_is_written_as_it_was(tmp_path: Path) -> None:
    source = write_base(tmp_path / "base.gguf", extra={"general.finetune": "x" * 70_000})
    target, seen = tmp_path / "again.gguf", []
    written = write_gguf(read_gguf([source]), target, seen.append)
    assert target.read_bytes() == source.read_bytes()
    assert written.sha256 == hashlib.sha256(target.read_bytes()).hexdigest()
    assert written.size == target.stat().st_size == size_of(read_gguf([source]))
    assert seen[-1] == Progress(written.size, written.size, len(read_gguf([source]).tensors))


def test_what_is_written_is_on_the_disk_before_it_is_called_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.fstat(fd).st_size), fsync(fd)))
    written = write_gguf(read_gguf([write_base(tmp_path / "base.gguf")]), tmp_path / "again.gguf")
    assert synced == [written.size]


@pytest.mark.parametrize("number", WITH_REFERENCE, ids=lambda number: TENSOR_TYPES[number].name)
def test_decoding_is_the_reference_s(number: int) -> None:
    """Of any bytes: each code of each type is among them."""
    packed = RANDOM.integers(0, 256, (64, quants.row_bytes(number, 512)), np.uint8)
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(packed, gguf.GGMLQuantizationType(number))
    finite = np.isfinite(expected).all(axis=1)
    if number in quants.FLOATS:
        finite, expected = np.full(64, True), np.nan_to_num(expected)
    assert finite.sum() > 10
    decoded = quants.decode(number, packed[finite].tobytes(), 512)
    np.testing.assert_allclose(np.nan_to_num(decoded), expected[finite], 1e-6, 1e-7)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (lambda m: SlicedRows(m, 3, 4), lambda a: a[3:7]),
        (lambda m: JoinedRows((m, SlicedRows(m, 1, 2), m)), lambda a: np.vstack([a, a[1:3], a])),
        (lambda m: PickedRows(m, lambda index: 9 - index, 10), lambda a: a[::-1]),
        (lambda m: PickedRows(m, lambda index: 2 * index + 1, 5), lambda a: a[1::2]),
        (lambda m: PickedColumns(m, np.arange(1, 8, 3)), lambda a: a[:, 1::3]),
        (
            lambda m: PickedRows(m, lambda index: index ^ 1, 10),
            lambda a: a.reshape(5, 2, 8)[:, ::-1],
        ),
        (lambda m: shifted(m, 1), lambda a: a + 1),
        (lambda m: ChangedRows(m, lambda values, first: values * (first + 1)), None),
        (lambda m: TransposedRows(m), lambda a: a.T),
        (lambda m: TransposedRows(m, 2), lambda a: np.vstack([a[:5].T, a[5:].T])),
        (lambda m: ReshapedRows(m, 4), lambda a: a.reshape(20, 4)),
        (lambda m: ReshapedRows(m, 16), lambda a: a.reshape(5, 16)),
    ],
)
def test_rows_made_of_others(rows, expected) -> None:  # type: ignore[no-untyped-def]
    array = matrix(10, 8)
    made = rows(ArrayRows(array))
    whole = made.read(0, made.count)
    if expected is not None:
        wanted = expected(array).reshape(whole.shape)
        np.testing.assert_array_equal(whole, wanted.astype(np.float32))
        for first, last in [(0, 1), (1, 4), (made.count - 1, made.count)]:
            np.testing.assert_array_equal(made.read(first, last), wanted[first:last])
    else:
        np.testing.assert_array_equal(made.read(2, 4), array[2:4] * 3)
    np.testing.assert_array_equal(array, array.copy())


def test_rows_far_apart_are_not_read_along() -> None:
    class Counted(ArrayRows):
        most = 0

        def read(self, first: int, last: int) -> Floats:
            Counted.most = max(Counted.most, last - first)
            return super().read(first, last)

    array = np.arange(20_000, dtype=np.float32).reshape(-1, 1)
    rows = PickedRows(Counted(array), lambda index: index * 9_999 % 20_000, 20_000)
    np.testing.assert_array_equal(rows.read(1, 4).ravel(), [9_999, 19_998, 9_997])
    assert Counted.most == 1


def one_tensor(rows: Floats, number: int, alignment: int = 32) -> Model:
    tensor = Tensor("a.weight", rows.shape[::-1], number, ArrayRows(rows))
    return Model(
        "llama", {"general.architecture": Value(8, "llama")}, {tensor.name: tensor}, alignment
    )


@pytest.mark.parametrize(
    ("number", "value"),
    [
        *((number, np.inf) for number in (quants.F32, quants.F16, quants.BF16, quants.Q8_0, 12)),
        *((number, np.nan) for number in (quants.F32, quants.F16, quants.BF16, quants.Q8_0, 12)),
        (quants.F16, 7e4),
        (quants.BF16, 3.4e38),
        *((number, 1e10) for number in (quants.Q8_0, 2, 6, 12, 14, 20)),
    ],
)
def test_what_isn_t_finite_is_refused_by_name(tmp_path: Path, number: int, value: float) -> None:
    rows = matrix(3, 256)
    rows[1, 7] = value
    with pytest.raises(WeightsError, match=r"^a\.weight isn't finite"):
        write_gguf(one_tensor(rows, number), tmp_path / "out.gguf")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [quants.F32, quants.F16, quants.BF16, quants.Q8_0])
def test_what_isn_t_finite_isn_t_copied_either(tmp_path: Path, number: int) -> None:
    packed = quants.encode(number, matrix(3, 256))
    packed[-34:] = 0xFF
    (tmp_path / "rows").write_bytes(packed.tobytes())
    tensor = Tensor(
        "a.weight", (256, 3), number, StoredRows(str(tmp_path / "rows"), 0, number, 256, 3)
    )
    with pytest.raises(WeightsError, match=r"^a\.weight isn't finite"):
        write_gguf(Model("llama", {}, {"a.weight": tensor}), tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


def test_an_absurd_alignment_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="alignment"):
        write_gguf(one_tensor(matrix(1, 8), quants.F32, 2**36), tmp_path / "out.gguf")
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out.gguf").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        write_gguf(one_tensor(matrix(1, 8), quants.F32), tmp_path / "out.gguf")
    assert (tmp_path / "out.gguf").read_bytes() == b"mine"


def test_every_kind_of_metadata_comes_back(tmp_path: Path) -> None:
    values = {
        "general.architecture": Value(8, "llama"),
        "a.u8": Value(0, 200),
        "a.i64": Value(11, -(2**40)),
        "a.f32": Value(6, 0.5),
        "a.truth": Value(7, True),
        "a.texts": Value(9, ["", "ü", "日本"], 8),
        "a.numbers": Value(9, [1, -2], 5),
        "a.floats": Value(9, [0.25], 6),
        "a.none": Value(9, [], 8),
    }
    model = one_tensor(matrix(2, 8), quants.F32)
    write_gguf(Model("llama", values, model.tensors), tmp_path / "out.gguf")
    fields = gguf.GGUFReader(tmp_path / "out.gguf").fields
    assert {key: fields[key].contents() for key in values} == {
        key: value.content for key, value in values.items()
    }
    again = read_gguf([tmp_path / "out.gguf"])
    assert [(v.type, v.items) for v in again.metadata.values()] == [
        (v.type, v.items) for v in values.values()
    ]
    begin = again.metadata["a.u8"].span
    assert begin is not None
    assert struct.unpack_from("<B", (tmp_path / "out.gguf").read_bytes(), begin[1]) == (200,)

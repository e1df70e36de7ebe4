"""Quantised models: the types that llama-quantize chooses, ggml's own bytes, imatrix files."""

import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import libgguf
import numpy as np
import pytest

from app.formats.tensor_types import QUANTIZATIONS, TENSOR_TYPES
from app.weights.imatrix import importance_of, read_imatrix
from app.weights.model import Floats, Model, Tensor, Value, WeightsError
from app.weights.quantize import choose_types, quantize
from app.weights.read_gguf import read_gguf
from app.weights.rows import ArrayRows
from app.weights.write import write_gguf
from tests.gguf_files import finish, write_base
from tests.llama_cpp import generate
from tests.oracles.quantized import CASES, source, summary

TABLE = json.loads(Path(__file__).with_name("tensor-types.json").read_bytes())
"""What a real llama-quantize (b10488) chose, with F16 matrices; shapes as GGUF has them."""
RECORDED = json.loads((Path(__file__).parent / "oracles/fixtures/quantized.json").read_bytes())
RANDOM = np.random.default_rng(0)
Type = gguf.GGMLQuantizationType


def model_of(shape: dict[str, Any], head: int = 32) -> Model:
    """A model of the table's shape, without weights."""
    arch, shapes = shape["architecture"], shape["shapes"]
    if "blk.N.attn_qkv.weight" in shapes:
        width, fused = shapes["blk.N.attn_output.weight"][0], shapes["blk.N.attn_qkv.weight"][1]
        queries, keys = width, (fused - width) // 2
    else:
        queries, keys = (shapes[f"blk.N.attn_{part}.weight"][1] for part in "qk")
    numbers = {
        "block_count": shape["blocks"],
        "attention.head_count": queries // head,
        "attention.head_count_kv": keys // head,
        "expert_count": shapes.get("blk.N.ffn_gate_inp.weight", (0, 0))[1],
    }
    tensors = {}
    for name, sides in shapes.items():
        for block in range(shape["blocks"] if "blk.N" in name else 1):
            full = name.replace(".N.", f".{block}.")
            kind = Type.F16 if len(sides) > 1 else Type.F32
            tensors[full] = Tensor(
                full, tuple(sides), kind, ArrayRows(np.empty((0, 0), np.float32))
            )
    return Model(arch, {f"{arch}.{key}": Value(4, n) for key, n in numbers.items()}, tensors)


@pytest.mark.parametrize("shape", TABLE)
@pytest.mark.parametrize("name", sorted({*QUANTIZATIONS} - {"F32"}))
def test_each_tensor_gets_the_type_that_llama_quantize_gives_it(shape: str, name: str) -> None:
    model = model_of(TABLE[shape])
    chosen = {key: TENSOR_TYPES[number].name for key, number in choose_types(model, name).items()}
    expected = {}
    for key in model.tensors:
        pattern, row = key, TABLE[shape]["types"][name]
        if key.startswith("blk."):
            block = key.split(".")[1]
            pattern = key.replace(f".{block}.", ".N.", 1)
        kind = row.get(pattern, "F32")
        expected[key] = kind if isinstance(kind, str) else kind[int(block)]
    assert chosen == expected


@pytest.mark.parametrize("case", CASES)
def test_the_file_is_what_llama_cpp_s_own_quantiser_makes(case: str, tmp_path: Path) -> None:
    model = read_gguf([source(case, tmp_path)])
    for name in QUANTIZATIONS:
        made = tmp_path / f"{name}.gguf"
        write_gguf(quantize(model, name), made, lambda progress: None)
        assert summary(made) == RECORDED[case][name], name


def test_the_order_of_tensors_in_the_file_does_not_matter() -> None:
    model = model_of(TABLE["llama-32-gqa4"])
    turned = replace(model, tensors=dict(reversed(model.tensors.items())))
    assert choose_types(turned, "Q4_K_M") == choose_types(model, "Q4_K_M")


def test_rows_that_come_in_no_blocks_at_all_become_f16() -> None:
    tensor = Tensor(
        "blk.0.attn_q.weight", (40, 8), Type.F32, ArrayRows(np.empty((0, 0), np.float32))
    )
    chosen = choose_types(Model("llama", {}, {tensor.name: tensor}), "Q4_0")
    assert chosen == {tensor.name: Type.F16}


def matrix_model(rows: Floats, kind: int = Type.F32, name: str = "blk.0.attn_q.weight") -> Model:
    shape = rows.shape[::-1]
    tensor = Tensor(name, shape, kind, ArrayRows(rows.reshape(-1, rows.shape[-1])))
    metadata = {"general.architecture": Value(8, "llama"), "llama.block_count": Value(4, 8)}
    return Model("llama", metadata, {name: tensor})


@pytest.mark.parametrize("name", QUANTIZATIONS)
@pytest.mark.parametrize("source", ["F32", "F16", "BF16"])
def test_the_bytes_are_ggml_s_own(tmp_path: Path, name: str, source: str) -> None:
    base = write_base(tmp_path / "base.gguf", width=256, dtype=Type[source])
    write_gguf(quantize(read_gguf([base]), name), tmp_path / "out.gguf")
    reader = gguf.GGUFReader(tmp_path / "out.gguf")
    before = {tensor.name: tensor for tensor in gguf.GGUFReader(base).tensors}
    for tensor in reader.tensors:
        old = before[tensor.name]
        rows = gguf.quants.dequantize(old.data, old.tensor_type).astype(np.float32)
        if tensor.tensor_type in (Type.F32, Type.F16, Type.BF16):
            expected = gguf.quants.quantize(rows, tensor.tensor_type)
        else:
            expected = libgguf.quantize_rows(rows, tensor.tensor_type)
        assert bytes(tensor.data) == expected.tobytes(), tensor.name
    file_type = gguf.LlamaFileType[f"{'ALL' if name == 'F32' else 'MOSTLY'}_{name}"]
    assert reader.fields["general.file_type"].contents() == file_type
    assert reader.fields["general.quantization_version"].contents() == gguf.GGML_QUANT_VERSION


@pytest.mark.parametrize("name", ["Q8_0", "Q4_K_M", "IQ4_XS"])
def test_llama_cpp_loads_it(tmp_path: Path, name: str) -> None:
    base = write_base(tmp_path / "base.gguf", width=256, blocks=2)
    write_gguf(quantize(read_gguf([base]), name), tmp_path / "out.gguf")
    assert generate(tmp_path / "out.gguf")


def test_what_is_quantised_already_is_refused(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base.gguf", width=256, dtype=Type.Q8_0)
    with pytest.raises(
        WeightsError, match=r"quantised already \(token_embd\.weight is Q8_0\)"
    ) as error:
        quantize(read_gguf([base]), "Q4_K_M")
    assert "F16" in str(error.value.hint)


@pytest.mark.parametrize("name", ["IQ2_XS", "q4_k_m", "", "x" * 1000])
def test_unknown_quantisations_are_refused(name: str) -> None:
    with pytest.raises(WeightsError, match="can't be quantised to") as error:
        quantize(matrix_model(np.ones((2, 256), np.float32)), name)
    assert "Q4_K_M" in str(error.value.hint)


def write_gguf_imatrix(path: Path, sums: Floats, counts: list[int], name: str) -> Path:
    writer = gguf.GGUFWriter(path, "")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["wiki.txt", "other.txt"])
    writer.add_uint32("imatrix.chunk_count", 7)
    writer.add_tensor(f"{name}.in_sum2", sums)
    writer.add_tensor(f"{name}.counts", np.array(counts, np.float32).reshape(-1, 1))
    finish(writer)
    return path


def write_dat_imatrix(path: Path, sums: Floats, calls: int, name: str) -> Path:
    values = sums.ravel()
    entry = struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", calls, values.size)
    end = struct.pack("<ii", 7, 8) + b"wiki.txt"
    path.write_bytes(struct.pack("<i", 1) + entry + values.tobytes() + end)
    return path


@pytest.mark.parametrize("form", ["gguf", "dat"])
@pytest.mark.parametrize("name", ["Q4_K_M", "IQ4_XS", "Q2_K"])
def test_an_imatrix_is_used(tmp_path: Path, form: str, name: str) -> None:
    rows = RANDOM.normal(0, 0.1, (3, 8, 512)).astype(np.float32)
    sums = RANDOM.uniform(0.1, 9, (3, 512)).astype(np.float32)
    tensor = "blk.0.ffn_gate_exps.weight"
    if form == "gguf":
        path = write_gguf_imatrix(tmp_path / "imatrix.gguf", sums, [4, 0, 2], tensor)
        means = np.stack([sums[0] / 4, np.ones(512), sums[2] / 2]).astype(np.float32)
    else:
        path = write_dat_imatrix(tmp_path / "imatrix.dat", sums, 4, tensor)
        means = sums / 4
    model = quantize(matrix_model(rows, name=tensor), name, read_imatrix(path))
    write_gguf(model, tmp_path / "out.gguf")
    reader = gguf.GGUFReader(tmp_path / "out.gguf")
    kind = reader.tensors[0].tensor_type
    expected = b"".join(
        libgguf.quantize_rows(one, kind, mean).tobytes()
        for one, mean in zip(rows, means, strict=True)
    )
    assert bytes(reader.tensors[0].data) == expected
    plain = b"".join(libgguf.quantize_rows(one, kind).tobytes() for one in rows)
    assert expected != plain
    said = {
        key: field.contents()
        for key, field in reader.fields.items()
        if key.startswith("quantize.imatrix.")
    }
    assert said == {
        "quantize.imatrix.file": path.name,
        "quantize.imatrix.dataset": "wiki.txt",
        "quantize.imatrix.entries_count": 1,
        "quantize.imatrix.chunks_count": 7,
    }


@pytest.mark.parametrize(
    ("name", "tensor", "expected"),
    [
        ("Q4_0", "blk.0.ffn_down.weight", Type.Q4_1),
        ("Q5_0", "blk.0.ffn_down.weight", Type.Q5_1),
        ("IQ4_XS", "blk.0.ffn_down.weight", Type.IQ4_XS),
    ],
)
def test_types_that_an_imatrix_changes(name: str, tensor: str, expected: Type) -> None:
    model = matrix_model(np.ones((2, 256), np.float32), name=tensor)
    assert choose_types(model, name, has_imatrix=True) == {tensor: expected}


def test_an_imatrix_of_another_model_is_refused(tmp_path: Path) -> None:
    model = matrix_model(np.ones((2, 256), np.float32))
    sums = np.ones((1, 512), np.float32)
    path = write_gguf_imatrix(tmp_path / "i.gguf", sums, [1], "blk.0.attn_q.weight")
    with pytest.raises(WeightsError, match=r"512 values for blk\.0\.attn_q\.weight"):
        importance_of(read_imatrix(path), model)
    path = write_dat_imatrix(tmp_path / "i.dat", sums, 1, "blk.99.attn_q.weight")
    with pytest.raises(WeightsError, match="knows none of the model's tensors"):
        importance_of(read_imatrix(path), model)


def test_an_imatrix_that_isn_t_finite_is_refused(tmp_path: Path) -> None:
    model = matrix_model(np.ones((2, 256), np.float32))
    sums = np.full((1, 256), np.nan, np.float32)
    path = write_dat_imatrix(tmp_path / "i.dat", sums, 1, "blk.0.attn_q.weight")
    with pytest.raises(WeightsError, match=r"^i\.dat holds infinity or NaN for blk\.0\.attn_q"):
        write_gguf(quantize(model, "Q4_0", read_imatrix(path)), tmp_path / "out.gguf")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GG",
        b"GGUF",
        struct.pack("<i", -1),
        struct.pack("<i", 2**31 - 1),
        struct.pack("<ii", 1, 2**30),
        struct.pack("<ii2sii", 1, 2, b"ab", 1, 2**30),
        struct.pack("<ii2sii", 1, 2, b"\xff\xfe", 1, 1) + bytes(4),
        struct.pack("<ii2sii", 1, 2, b"ab", 1, 0),
        struct.pack("<ii2si", 1, 2, b"ab", 1),
    ],
)
def test_broken_imatrix_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "imatrix.dat"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"^imatrix\.dat "):
        read_imatrix(path)

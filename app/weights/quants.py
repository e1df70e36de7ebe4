"""Rows of tensors to float32 and back, for every type of ggml that can be read or written.

The arithmetic is ggml's own: its library, prebuilt in the package `libggml-python`, is called
through ctypes, which releases the interpreter's lock, so that threads use all processors.
"""

import ctypes
from functools import cache
from pathlib import Path

import libggml
import numpy as np

from app.formats.tensor_types import TENSOR_TYPES
from app.weights.model import Floats

F32, F16, Q8_0, BF16 = 0, 1, 8, 30
FLOATS = frozenset((F32, F16, BF16))
DTYPES = {"F32": F32, "F16": F16, "BF16": BF16}
"""The types of weights by what safetensors files call them."""

QUANTIZATION_VERSION = 2
"""ggml.h's GGML_QNT_VERSION: what blocks of the quantised types look like."""

Bytes = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]


class NoDecoder(ValueError):
    """Tensors of that type hold no weights that could be changed."""


def row_bytes(number: int, columns: int) -> int:
    """Bytes of a row of `columns` elements of tensor type `number`."""
    kind = TENSOR_TYPES[number]
    return columns // kind.block * kind.size


def requires_importance(number: int) -> bool:
    """Whether type `number` can only be written with an importance matrix."""
    return bool(_ggml().ggml_quantize_requires_imatrix(ctypes.c_int(number)))


def writable_type(number: int, columns: int) -> int:
    """The type that changed rows of type `number` are written in: itself where it has an encoder
    that needs no importance matrix, else Q8_0 (F16 where `columns` don't come in blocks of 32)."""
    if number in FLOATS or (_has_encoder(number) and not requires_importance(number)):
        return number
    return F16 if columns % TENSOR_TYPES[Q8_0].block else Q8_0


def decode(number: int, data: bytes | Bytes, columns: int) -> Floats:
    """Rows of type `number` as float32, of shape (rows, columns). Raises NoDecoder."""
    packed = np.frombuffer(data, np.uint8)
    if number == F32:
        return packed.view("<f4").reshape(-1, columns)
    kind = TENSOR_TYPES[number]
    convert = getattr(_ggml(), _decoder(number), None)
    if convert is None:
        raise NoDecoder(f"{kind.name} can't be decoded")
    count = packed.size // kind.size * kind.block
    rows = np.empty(count, np.float32)
    convert(_address(packed), _address(rows), ctypes.c_int64(count))
    return rows.reshape(-1, columns)


def encode(number: int, rows: Floats, importance: Floats | None = None) -> Bytes:
    """float32 rows of shape (rows, columns) as type `number`; what overflows becomes infinite.

    `importance` says for each column how much its values matter (an imatrix).
    """
    rows = np.ascontiguousarray(rows, np.float32)
    count, columns = rows.shape
    if number == F32:
        return rows.view(np.uint8).reshape(-1)
    packed = np.empty(count * row_bytes(number, columns), np.uint8)
    if number in FLOATS:
        convert = _ggml().ggml_fp32_to_fp16_row if number == F16 else _ggml().ggml_fp32_to_bf16_row
        convert(_address(rows), _address(packed), ctypes.c_int64(rows.size))
        return packed
    weights = None
    if importance is not None:
        importance = np.ascontiguousarray(importance, np.float32)
        weights = _address(importance)
    sizes = map(ctypes.c_int64, (0, count, columns))
    _ggml().ggml_quantize_chunk(
        ctypes.c_int(number), _address(rows), _address(packed), *sizes, weights
    )
    return packed


def is_finite(number: int, data: Bytes) -> bool:
    """Whether no value, or scale of a block, is infinite or not a number."""
    valid = _ggml().ggml_validate_row_data
    return bool(valid(ctypes.c_int(number), _address(data), ctypes.c_size_t(data.nbytes)))


@cache
def _ggml() -> ctypes.CDLL:
    (path,) = Path(libggml.__file__).parent.glob("lib*/libggml-base.so")
    library = ctypes.CDLL(str(path))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_requires_imatrix.restype = ctypes.c_bool
    library.ggml_validate_row_data.restype = ctypes.c_bool
    return library


def _decoder(number: int) -> str:
    if number in FLOATS:
        return {F16: "ggml_fp16_to_fp32_row", BF16: "ggml_bf16_to_fp32_row"}[number]
    return f"dequantize_row_{_symbol(number)}"


def _has_encoder(number: int) -> bool:
    return hasattr(_ggml(), f"quantize_{_symbol(number)}")


def _symbol(number: int) -> str:
    """A type's name as it is part of ggml's function names: Q4_K is q4_K, IQ4_XS is iq4_xs."""
    return TENSOR_TYPES[number].name.lower().replace("_k", "_K")


def _address(array: Floats | Bytes) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)

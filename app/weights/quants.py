"""Rows of tensors to float32 and back, for every type of ggml that can be written.

Quantisation is the reference one of ggml, through the package `libgguf`.
"""

from typing import Any

import libgguf
import numpy as np

from app.formats.tensor_types import TENSOR_TYPES

F32, F16, Q8_0, BF16 = 0, 1, 8, 30
Floats = np.ndarray[Any, np.dtype[np.float32]]


class NoDecoder(ValueError):
    """Tensors of that type hold no weights that could be changed."""


def row_bytes(number: int, columns: int) -> int:
    """Bytes of a row of `columns` elements of tensor type `number`."""
    kind = TENSOR_TYPES[number]
    return columns // kind.block * kind.size


def writable_type(number: int, columns: int) -> int:
    """The type that changed rows of type `number` are written in: itself where it has an encoder
    that needs no importance matrix, else Q8_0 (F16 where `columns` don't come in blocks of 32)."""
    if number in (F32, F16, BF16) or not libgguf.quantize_requires_imatrix(number):
        return number
    return F16 if columns % TENSOR_TYPES[Q8_0].block else Q8_0


def decode(number: int, data: bytes, columns: int) -> Floats:
    """Rows of type `number` as float32, of shape (rows, columns). Raises NoDecoder."""
    if number == F32:
        values = np.frombuffer(data, "<f4")
    elif number == F16:
        values = np.frombuffer(data, "<f2").astype(np.float32)
    elif number == BF16:
        values = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        packed = np.frombuffer(data, np.uint8).reshape(-1, row_bytes(number, columns))
        try:
            values = libgguf.dequantize_rows(packed, number)
        except ValueError as error:
            raise NoDecoder(f"{TENSOR_TYPES[number].name} can't be decoded") from error
    return values.reshape(-1, columns)


def encode(number: int, rows: Floats) -> bytes:
    """float32 rows of shape (rows, columns) as type `number`; what overflows becomes infinite."""
    if number == F32:
        return rows.astype("<f4", copy=False).tobytes()
    if number == F16:
        with np.errstate(over="ignore"):
            return rows.astype("<f2").tobytes()
    if number == BF16:
        bits = rows.view(np.uint32)
        nearest_even = bits + 0x7FFF + ((bits >> 16) & 1)
        return (nearest_even >> 16).astype("<u2").tobytes()
    return bytes(libgguf.quantize_rows(np.ascontiguousarray(rows), number).tobytes())

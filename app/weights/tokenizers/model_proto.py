"""tokenizer.model: SentencePiece's ModelProto, as far as llama.cpp uses it.

A message of protocol buffers (encoding: https://protobuf.dev/programming-guides/encoding/) with the
fields of sentencepiece_model.proto. Three kinds of field in two levels are all there is to read, so
this needs neither the package `sentencepiece` nor `protobuf`, and is bounded by the file's size.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from app.weights.model import WeightsError

PIECES = 2_000_000
NAME = "tokenizer.model"

UNIGRAM, BPE = 1, 2
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of text, how likely it is (or, for BPE, how late it was merged), and its type."""

    text: str
    score: float
    type: int


@dataclass(frozen=True)
class SentencePieceModel:
    """What a tokenizer.model says; `kind` is UNIGRAM, BPE or another of TrainerSpec.ModelType."""

    pieces: tuple[Piece, ...]
    kind: int
    adds_space_prefix: bool
    removes_extra_spaces: bool
    character_map: bytes
    ids: dict[str, int]
    """Ids of unk, bos, eos and pad; those below 0 are left out."""


def read(content: bytes) -> SentencePieceModel:
    """The model in a tokenizer.model's bytes. Raises WeightsError."""
    pieces: list[Piece] = []
    trainer: dict[int, int] = {}
    normalizer: dict[int, int] = {}
    character_map = b""
    for number, value in _fields(content):
        if number == 1 and isinstance(value, bytes):
            if len(pieces) == PIECES:
                raise WeightsError(f"{NAME} has more than {PIECES} pieces.")
            pieces.append(_piece(value))
        elif number == 2 and isinstance(value, bytes):
            trainer = {n: v for n, v in _fields(value) if isinstance(v, int)}
        elif number == 3 and isinstance(value, bytes):
            fields = list(_fields(value))
            normalizer = {n: v for n, v in fields if isinstance(v, int)}
            character_map = next((v for n, v in fields if n == 2 and isinstance(v, bytes)), b"")
    if not pieces:
        raise _broken("has no pieces")
    ids = {
        "unk": _signed(trainer.get(40, 0)),
        "bos": _signed(trainer.get(41, 1)),
        "eos": _signed(trainer.get(42, 2)),
        "pad": _signed(trainer.get(43, -1)),
    }
    return SentencePieceModel(
        pieces=tuple(pieces),
        kind=trainer.get(3, UNIGRAM),
        adds_space_prefix=bool(normalizer.get(3, 1)),
        removes_extra_spaces=bool(normalizer.get(4, 1)),
        character_map=character_map,
        ids={name: number for name, number in ids.items() if 0 <= number < len(pieces)},
    )


def _piece(content: bytes) -> Piece:
    text, score, kind = "", 0.0, NORMAL
    for number, value in _fields(content):
        if number == 1 and isinstance(value, bytes):
            try:
                text = value.decode()
            except UnicodeDecodeError:
                raise _broken("has a piece that isn't UTF-8") from None
        elif number == 2 and isinstance(value, float):
            score = value
        elif number == 3 and isinstance(value, int):
            kind = value
    if not NORMAL <= kind <= BYTE:
        raise _broken(f"has a piece of the unknown type {kind}")
    return Piece(text, score, kind)


def _fields(content: bytes) -> Iterator[tuple[int, int | float | bytes]]:
    """The fields of a message: their numbers, and their values by their wire type."""
    at = 0
    while at < len(content):
        tag, at = _varint(content, at)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, at = _varint(content, at)
            yield number, value
            continue
        length = {_FIXED64: 8, _FIXED32: 4}.get(kind)
        if kind == _BYTES:
            length, at = _varint(content, at)
        if length is None or length > len(content) - at:
            raise _broken("is cut off, or no SentencePiece model")
        taken = content[at : at + length]
        at += length
        yield number, struct.unpack("<f", taken)[0] if kind == _FIXED32 else taken


def _varint(content: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(content):
            break
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _broken("is cut off, or no SentencePiece model")


def _signed(number: int) -> int:
    """A number as an int32 of protocol buffers, which are written as 64 bits."""
    return number - 2**64 if number >= 2**63 else number


def _broken(reason: str) -> WeightsError:
    return WeightsError(f"{NAME} {reason}.", "Save the tokenizer again with its save_pretrained().")

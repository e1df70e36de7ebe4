"""A trainer's tokenizer files, read within bounds: size, nesting, count of texts, numbers."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from app.weights.model import WeightsError

TOKENIZER_BYTES = 64 * 2**20
CONFIG_BYTES = 16 * 2**20
TEXTS = 4_000_000
"""The largest tokenizers known have 1.3 million texts: two for a merge, one for a token."""
LISTS = 1_500_000
OBJECTS = 500_000
LONGEST_TOKEN = 2**16
"""Bytes of UTF-8 of one token."""

TokenId = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
Decoded = TypeVar("Decoded")


class AddedToken(msgspec.Struct, frozen=True):
    """A token beside the model's own vocabulary, taken out of a text before that is split."""

    id: TokenId
    content: str
    special: bool = False


class SubwordModel(msgspec.Struct, frozen=True):
    """The `model` of tokenizer.json: byte pairs (ids by text) or unigrams (texts and scores)."""

    type: str | None = None
    vocab: dict[str, TokenId] | list[tuple[str, float]] = msgspec.field(default_factory=dict)
    merges: list[str | tuple[str, str]] | None = None
    ignore_merges: bool = False
    byte_fallback: bool = False
    unk_token: str | None = None
    continuing_subword_prefix: str | None = None
    end_of_word_suffix: str | None = None


class TokenizerJson(msgspec.Struct, frozen=True):
    """The file tokenizer.json of the package `tokenizers`."""

    model: SubwordModel
    added_tokens: list[AddedToken] = msgspec.field(default_factory=list)
    normalizer: dict[str, Any] | None = None
    pre_tokenizer: dict[str, Any] | None = None
    post_processor: dict[str, Any] | None = None


def tokenizer_json(files: Mapping[str, Path]) -> TokenizerJson | None:
    """tokenizer.json, None where there is none. Raises WeightsError."""
    text = _bytes(files, "tokenizer.json", TOKENIZER_BYTES)
    return None if text is None else _decoded(text, TokenizerJson, "tokenizer.json")


def json_object(files: Mapping[str, Path], name: str) -> dict[str, Any]:
    """A JSON file that must be one object; empty where there is no such file.

    Raises WeightsError.
    """
    text = _bytes(files, name, CONFIG_BYTES)
    return {} if text is None else _decoded(text, dict[str, Any], name)


def text_file(files: Mapping[str, Path], name: str, limit: int) -> str | None:
    """A file of at most `limit` bytes of UTF-8. Raises WeightsError."""
    content = _bytes(files, name, limit)
    try:
        return None if content is None else content.decode()
    except UnicodeDecodeError:
        raise WeightsError(f"{name} isn't UTF-8 text.") from None


def model_file(files: Mapping[str, Path]) -> bytes | None:
    """tokenizer.model as it is, None where there is none. Raises WeightsError."""
    return _bytes(files, "tokenizer.model", TOKENIZER_BYTES)


def _bytes(files: Mapping[str, Path], name: str, limit: int) -> bytes | None:
    path = files.get(name)
    if path is None:
        return None
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise WeightsError(f"{name} has more than {limit // 2**20} MiB, too much for its kind.")
        return file.read(size)


def _decoded(text: bytes, kind: type[Decoded], name: str) -> Decoded:
    counts = (text.count(b'"') // 2, TEXTS), (text.count(b"["), LISTS), (text.count(b"{"), OBJECTS)
    if any(count > limit for count, limit in counts):
        raise WeightsError(f"{name} has more texts, lists or objects than any tokenizer needs.")
    try:
        return msgspec.json.decode(text.removeprefix(b"\xef\xbb\xbf"), type=kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise WeightsError(
            f"{name} can't be used: {str(error)[:200]}.",
            "Save the tokenizer again with its save_pretrained().",
        ) from None

"""The model's tokens where an adapter brings more of them: rows of its own for new ones."""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gguf import TokenType

from app.formats.tensor_types import SCALARS, STRING
from app.weights.model import Model, Value, WeightsError
from app.weights.tokenizers import added_tokens

TOKENS, TYPES, SCORES = (f"tokenizer.ggml.{each}" for each in ("tokens", "token_type", "scores"))
SHOWN = 10


def with_rows_for(model: Model, rows: int, files: Mapping[str, Path]) -> Model:
    """The model with as many tokens as its embedding has rows now; the new ones are named by the
    tokenizer beside the adapter, `files` by name.

    Raises WeightsError where nothing names them.
    """
    known = len(_items(model, TOKENS) or ())
    if rows <= known or known == 0:
        return model
    found = {token.id: token for token in added_tokens(files, known) if token.id < rows}
    if not any(name.startswith(("tokenizer", "added_tokens")) for name in files):
        raise WeightsError(
            f"The adapter's embedding has {rows} rows, but the base model has {known} tokens.",
            "Add the tokenizer's files that the trainer saved beside the adapter: tokenizer.json,"
            " tokenizer_config.json.",
        )
    texts, types, scores = [], [], []
    for number in range(known, rows):
        token = found.get(number)
        texts.append(token.text if token else f"[PAD{number}]")
        types.append(int(token.type if token else TokenType.UNUSED))
        scores.append(float(token.score) if token else 0.0)
    metadata = dict(model.metadata)
    for key, more in ((TOKENS, texts), (TYPES, types), (SCORES, scores)):
        items = _items(model, key)
        if items is not None:
            value = metadata[key]
            metadata[key] = Value(value.type, [*items, *more], value.items)
    size = f"{model.architecture}.vocab_size"
    if size in metadata:
        metadata[size] = replace(metadata[size], content=rows, span=None)
    return replace(model, metadata=metadata, notes=(*model.notes, _note(rows - known, found)))


def _note(count: int, found: Mapping[int, Any]) -> str:
    named = [repr(token.text) for _, token in sorted(found.items())]
    shown = ", ".join(named[:SHOWN]) + (f" and {len(named) - SHOWN} more" if named[SHOWN:] else "")
    if not named:
        return f"The adapter adds {count} rows to the vocabulary, none of which is a token."
    rest = f"; {count - len(named)} rows are no tokens" if count > len(named) else ""
    return f"The adapter adds {len(named)} tokens to the vocabulary: {shown}{rest}."


def _items(model: Model, key: str) -> Sequence[Any] | None:
    """All items of an array, from where they lie if they aren't kept; None where there is none."""
    value = model.metadata.get(key)
    if value is None or value.items is None:
        return None
    if value.span is None:
        return list(value.content)
    path, begin, end = value.span
    with Path(path).open("rb") as file:
        file.seek(begin)
        data = file.read(end - begin)
    kind, length = struct.unpack_from("<IQ", data)
    if kind != STRING:
        return struct.unpack_from(f"<{length}{SCALARS[kind]}", data, 12)
    texts, at = [], 12
    for _ in range(length):
        (size,) = struct.unpack_from("<Q", data, at)
        texts.append(data[at + 8 : at + 8 + size].decode(errors="surrogateescape"))
        at += 8 + size
    return texts

"""SentencePiece vocabularies, from tokenizer.model or in the form of tokenizer.json.

llama.cpp joins neighbours whose text is a token, best score first. So a tokenizer.json has its
scores in its merges: the earlier a token is made, the better; and every way to make it must be one.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gguf import TokenType

from app.weights.model import WeightsError
from app.weights.tokenizers import model_proto, splitting
from app.weights.tokenizers.byte_level import (
    NAME,
    check_model,
    merges,
    normalizers,
    pairs,
    take_tokens,
)
from app.weights.tokenizers.files import TokenizerJson, json_object
from app.weights.tokenizers.model_proto import SentencePieceModel
from app.weights.tokenizers.vocabulary import Token, Vocabulary, added_token

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_BYTES = [f"<0x{number:02X}>" for number in range(256)]
# Special, but read by those who read what the model says. Source: llama.cpp, conversion/gemma.py.
_SPOKEN_BY_GEMMA_4 = frozenset(
    ("<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|tool_response>")
    + ("<tool_response|>", '<|"|>')
)
_TYPES = {
    model_proto.NORMAL: TokenType.NORMAL,
    model_proto.UNKNOWN: TokenType.UNKNOWN,
    model_proto.CONTROL: TokenType.CONTROL,
    model_proto.USER_DEFINED: TokenType.USER_DEFINED,
    model_proto.UNUSED: TokenType.UNUSED,
    model_proto.BYTE: TokenType.BYTE,
}


def from_model(model: SentencePieceModel, files: Mapping[str, Path]) -> Vocabulary:
    """The vocabulary of a tokenizer.model and of what was added beside it. Raises WeightsError."""
    found = Vocabulary("llama", "default", scored=True)
    for id_, piece in enumerate(model.pieces):
        token = Token(id_, piece.text, _TYPES[piece.type], piece.score)
        if token.type == TokenType.USER_DEFINED:
            token = replace(added_token(id_, piece.text, special=False), score=piece.score)
        found.add(token)
    found.adds_space_prefix = model.adds_space_prefix
    given = json_object(files, "tokenizer_config.json").get("add_prefix_space")
    if isinstance(given, bool):
        found.adds_space_prefix = given
    if model.kind == model_proto.UNIGRAM:
        found.model, found.character_map = "t5", model.character_map
        found.removes_extra_spaces = model.removes_extra_spaces
        if any(piece.type == model_proto.BYTE for piece in model.pieces):
            raise WeightsError(
                f"{model_proto.NAME} is a unigram model with byte fallback, which llama.cpp can't."
            )
        return found
    if model.kind != model_proto.BPE:
        raise WeightsError(
            f"{model_proto.NAME} is of a kind that llama.cpp can't: words or letters."
        )
    if model.character_map:
        found.notes.append("The tokenizer brings text into a normal form first; llama.cpp doesn't.")
    _check_bytes(found, model_proto.NAME)
    return found


def is_sentencepiece(tokenizer: TokenizerJson) -> bool:
    """Whether tokenizer.json is a SentencePiece vocabulary: spaces as ▁, bytes as <0xFF>."""
    return tokenizer.model.byte_fallback and not splitting.is_byte_level(tokenizer)


def from_json(tokenizer: TokenizerJson, model_type: str | None) -> Vocabulary:
    """The vocabulary of a tokenizer.json in SentencePiece's manner. Raises WeightsError."""
    check_model(tokenizer.model)
    found = Vocabulary("llama", "default", scored=True)
    found.adds_space_prefix = _space_prefix(tokenizer)
    take_tokens(found, tokenizer, TokenType.NORMAL)
    _check_bytes(found, NAME)
    if (model_type or "").startswith("gemma4"):
        found.model, found.pre, found.merges = "gemma4", None, merges(tokenizer.model)
        for token in found.tokens.values():
            if token.text in _SPOKEN_BY_GEMMA_4:
                found.add(replace(token, type=TokenType.USER_DEFINED))
    scores = {} if found.merges else _scores(tokenizer)
    unknown = tokenizer.model.unk_token
    for id_, token in found.tokens.items():
        kind, score = token.type, token.score
        if _BYTE.fullmatch(token.text):
            kind = TokenType.BYTE
        elif token.text == unknown:
            kind = TokenType.UNKNOWN
        if kind in (TokenType.NORMAL, TokenType.BYTE, TokenType.UNKNOWN):
            score = scores.get(token.text, 0.0)
        found.tokens[id_] = Token(id_, token.text, kind, score)
    return found


def same_pieces(model: SentencePieceModel, tokenizer: TokenizerJson) -> bool:
    """Whether tokenizer.json has the pieces of tokenizer.model under the same ids."""
    vocab = tokenizer.model.vocab
    return isinstance(vocab, dict) and all(
        vocab.get(piece.text) == id_ for id_, piece in enumerate(model.pieces)
    )


def add_tokens(
    found: Vocabulary, tokenizer: TokenizerJson | None, files: Mapping[str, Path]
) -> None:
    """Put what was added beside tokenizer.model into `found`, the surest file last."""
    for text, id_ in json_object(files, "added_tokens.json").items():
        if isinstance(id_, int) and id_ >= 0:
            found.add(added_token(id_, text, special=False))
    listed = json_object(files, "tokenizer_config.json").get("added_tokens_decoder")
    for key, entry in listed.items() if isinstance(listed, dict) else ():
        content = entry.get("content") if isinstance(entry, dict) else None
        if key.isdecimal() and len(key) < 10 and isinstance(content, str):
            _replace(found, int(key), content, entry.get("special") is True)
    for added in tokenizer.added_tokens if tokenizer else ():
        _replace(found, added.id, added.content, added.special)


def _replace(found: Vocabulary, id_: int, text: str, special: bool) -> None:
    kept = found.tokens.get(id_)
    if kept is None or kept.type not in (TokenType.BYTE, TokenType.UNKNOWN):
        found.add(added_token(id_, text, special))


def _space_prefix(tokenizer: TokenizerJson) -> bool:
    """Whether a space is put before the text. Raises WeightsError for what isn't SentencePiece."""
    forms = list(normalizers(tokenizer.normalizer))
    parts = splitting.parts_of(tokenizer.pre_tokenizer)
    metaspace = [part for part in parts if part.get("type") == "Metaspace"]
    others = [
        part
        for part in parts
        if part.get("type") not in ("Metaspace",)
        and not (part.get("type") == "Split" and part.get("pattern") == {"String": " "})
    ]
    if others or not set(forms) <= {"Prepend", "Replace", "NFC"}:
        raise splitting.unknown(tokenizer)
    if any(part.get("split") is not False for part in metaspace) and _has_inner_space(tokenizer):
        raise splitting.unknown(tokenizer)
    schemes = [part.get("prepend_scheme", "always") for part in metaspace]
    return "Prepend" in forms or any(scheme in ("always", "first") for scheme in schemes)


def _has_inner_space(tokenizer: TokenizerJson) -> bool:
    vocab: dict[str, Any] = dict(tokenizer.model.vocab)
    return any("▁" in text[1:] for text in vocab)


def _scores(tokenizer: TokenizerJson) -> dict[str, float]:
    """The score of each token that merges make: 0 for the first made, and down.

    Raises WeightsError where llama.cpp would join what this tokenizer doesn't.
    """
    vocab = tokenizer.model.vocab
    added = {token.content for token in tokenizer.added_tokens}
    made: dict[str, float] = {}
    joined = set()
    for left, right in pairs(tokenizer.model):
        made.setdefault(left + right, -float(len(made)))
        joined.add((left, right))
    for text in vocab:
        assert isinstance(text, str)
        if text in added or _BYTE.fullmatch(text):
            continue
        for at in range(1, len(text)):
            left, right = text[:at], text[at:]
            parts = left in vocab and right in vocab and left not in added and right not in added
            if parts and (left, right) not in joined:
                raise WeightsError(
                    f"{NAME} doesn't make {text[:40]!r} of {left[:40]!r} and {right[:40]!r}, but "
                    "llama.cpp would: its merges weren't made by SentencePiece.",
                    splitting.NEWER,
                )
    return made


def _check_bytes(found: Vocabulary, name: str) -> None:
    texts = {token.text for token in found.tokens.values()}
    for number, text in enumerate(_BYTES):
        if text not in texts and not (number < 0x80 and chr(number) in texts):
            raise WeightsError(
                f"{name} has no token for the byte {text}: llama.cpp ends itself at text that it "
                "has no token for.",
                splitting.NEWER,
            )

"""Byte-level BPE: tokenizer.json's vocabulary and merges, as GGUF's model `gpt2` has them."""

from collections.abc import Iterator, Mapping
from typing import Any

from gguf import TokenType

from app.weights.model import WeightsError
from app.weights.tokenizers import splitting
from app.weights.tokenizers.files import SubwordModel, TokenizerJson
from app.weights.tokenizers.vocabulary import Token, Vocabulary, added_token

NAME = "tokenizer.json"
_HARMLESS_NORMALIZERS = frozenset(("NFC", "NFKC", "NFD", "NFKD"))
_SPACE_AS_BYTE = chr(ord(" ") + 256)


def vocabulary(tokenizer: TokenizerJson, model_type: str | None) -> Vocabulary:
    """The vocabulary of a byte-level tokenizer.json. Raises WeightsError."""
    check_model(tokenizer.model)
    forms = list(normalizers(tokenizer.normalizer))
    if changing := [form for form in forms if form not in _HARMLESS_NORMALIZERS]:
        raise WeightsError(
            f"{NAME} changes text before it is split ({', '.join(changing)[:80]}), "
            "which llama.cpp can't.",
            splitting.NEWER,
        )
    found = Vocabulary("gpt2", splitting.name_of(tokenizer, model_type))
    if compatible := [form for form in forms if form != "NFC"]:
        found.notes.append(
            f"The tokenizer brings text into the form {compatible[0]} first; llama.cpp doesn't."
        )
    if splitting.prefixes_space(tokenizer):
        found.notes.append("The tokenizer puts a space before each text; llama.cpp doesn't.")
    take_tokens(found, tokenizer, TokenType.NORMAL)
    found.merges = merges(tokenizer.model)
    return found


def check_model(model: SubwordModel) -> None:
    """Raises WeightsError unless the model is BPE that llama.cpp can do."""
    if model.type not in ("BPE", None) or not isinstance(model.vocab, dict):
        raise WeightsError(
            f"{NAME} has a model of type {str(model.type)[:40]!r}; language models for llama.cpp "
            "have BPE or SentencePiece.",
            splitting.NEWER,
        )
    if not model.vocab or not model.merges:
        raise WeightsError(f"{NAME} has no {'merges' if model.vocab else 'vocabulary'}.")
    if model.continuing_subword_prefix or model.end_of_word_suffix:
        raise WeightsError(f"{NAME} marks the parts of words, which llama.cpp can't.")


def take_tokens(found: Vocabulary, tokenizer: TokenizerJson, type_: TokenType) -> None:
    """Put the vocabulary's tokens, all of one type, and the added ones into `found`."""
    vocab = tokenizer.model.vocab
    assert isinstance(vocab, dict)
    for text, id_ in vocab.items():
        found.add(Token(id_, text, type_))
    for added in tokenizer.added_tokens:
        id_ = vocab.get(added.content, added.id)
        found.add(added_token(id_, added.content, added.special))


def normalizers(normalizer: Mapping[str, Any] | None) -> Iterator[str]:
    """The types of a normalizer and of what it is made of."""
    waiting: list[Any] = [normalizer]
    while waiting:
        part = waiting.pop()
        if not isinstance(part, dict):
            continue
        if part.get("type") != "Sequence":
            yield str(part.get("type"))
        elif isinstance(parts := part.get("normalizers"), list):
            waiting.extend(reversed(parts))


def pairs(model: SubwordModel) -> Iterator[tuple[str, str]]:
    """The merges in their order. Raises WeightsError."""
    for merge in model.merges or ():
        if isinstance(merge, str):
            left, _, right = merge[1:].partition(" ")
            merge = merge[:1] + left, right
        if not merge[0] or not merge[1]:
            raise WeightsError(f"{NAME} has a merge that isn't of two texts: {merge!r:.80}.")
        yield merge


def merges(model: SubwordModel) -> list[str]:
    """The merges as GGUF has them: a space between two parts, one within a part as a byte."""
    return [" ".join(part.replace(" ", _SPACE_AS_BYTE) for part in pair) for pair in pairs(model)]

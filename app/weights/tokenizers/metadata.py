"""GGUF's `tokenizer.*` keys, put together from a trainer's files."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gguf import GGUFValueType, Keys

from app.weights.model import Value, WeightsError
from app.weights.tokenizers import byte_level, model_proto, sentencepiece, splitting
from app.weights.tokenizers.chat_template import DEFAULT, chat_templates
from app.weights.tokenizers.files import TokenizerJson, model_file, tokenizer_json
from app.weights.tokenizers.special import Special, special_tokens
from app.weights.tokenizers.vocabulary import Token, Vocabulary

_ID_KEYS = {
    "bos": Keys.Tokenizer.BOS_ID,
    "eos": Keys.Tokenizer.EOS_ID,
    "eot": Keys.Tokenizer.EOT_ID,
    "eom": Keys.Tokenizer.EOM_ID,
    "unk": Keys.Tokenizer.UNK_ID,
    "sep": Keys.Tokenizer.SEP_ID,
    "pad": Keys.Tokenizer.PAD_ID,
    "mask": Keys.Tokenizer.MASK_ID,
}
_ENDS = "tokenizer.ggml.eos_token_ids"
"""Ollama's own key for several ends; llama.cpp passes it over."""


def tokenizer_metadata(
    files: Mapping[str, Path], config: Mapping[str, Any], rows: int
) -> tuple[dict[str, Value], tuple[str, ...]]:
    """The tokenizer's metadata for a GGUF, by key, and sentences on what became of it.

    `files` are the model folder's by their names in it, `config` is its config.json, `rows` counts
    the rows of the embedding. Raises WeightsError: no tokenizer, one that llama.cpp can't do, more
    tokens than rows, a file that is broken or too large.
    """
    tokenizer = tokenizer_json(files)
    found, fallback = _vocabulary(files, tokenizer, _model_type(config))
    special = special_tokens(found, tokenizer, files, config, fallback)
    templates = chat_templates(files)
    found.drop_doubles()
    found.fit(rows, "".join(templates.values()))
    special.ids = {kind: number for kind, number in special.ids.items() if number < rows}
    return {
        **_vocabulary_values(found, rows),
        **_special_values(special, rows),
        **_template_values(templates),
    }, tuple(found.notes)


def added_tokens(files: Mapping[str, Path], base_tokens: int) -> tuple[Token, ...]:
    """The tokens that a trainer added to a base of `base_tokens` tokens, by number.

    `files` are those beside the adapter, by name; where it has no tokenizer there are none. They
    are what an embedding with more rows than the base's has rows for. Raises WeightsError.
    """
    found = Vocabulary("", None)
    sentencepiece.add_tokens(found, tokenizer_json(files), files)
    return tuple(token for id_, token in sorted(found.tokens.items()) if id_ >= base_tokens)


def _vocabulary(
    files: Mapping[str, Path], tokenizer: TokenizerJson | None, model_type: str | None
) -> tuple[Vocabulary, Mapping[str, int]]:
    """The vocabulary, and the ids of special tokens that it has of itself."""
    if tokenizer and splitting.is_byte_level(tokenizer):
        return byte_level.vocabulary(tokenizer, model_type), {}
    pieces = model_file(files)
    model = model_proto.read(pieces) if pieces is not None else None
    if model and (tokenizer is None or _same(model, tokenizer)):
        found = sentencepiece.from_model(model, files)
        sentencepiece.add_tokens(found, tokenizer, files)
        return found, model.ids
    if tokenizer is None:
        raise WeightsError(
            "The folder has no tokenizer: neither tokenizer.json nor tokenizer.model.",
            "Save it into the model's folder with tokenizer.save_pretrained().",
        )
    if sentencepiece.is_sentencepiece(tokenizer):
        return sentencepiece.from_json(tokenizer, model_type), {}
    byte_level.check_model(tokenizer.model)
    raise splitting.unknown(tokenizer)


def _same(model: model_proto.SentencePieceModel, tokenizer: TokenizerJson) -> bool:
    return sentencepiece.is_sentencepiece(tokenizer) and sentencepiece.same_pieces(model, tokenizer)


def _model_type(config: Mapping[str, Any]) -> str | None:
    value = config.get("model_type")
    return value if isinstance(value, str) else None


def _vocabulary_values(found: Vocabulary, rows: int) -> dict[str, Value]:
    tokens = [found.tokens[id_] for id_ in range(rows)]
    values = {Keys.Tokenizer.MODEL: _text(found.model)}
    if found.pre is not None:
        values[Keys.Tokenizer.PRE] = _text(found.pre)
    values[Keys.Tokenizer.LIST] = _list([t.text for t in tokens], GGUFValueType.STRING)
    if found.scored:
        values[Keys.Tokenizer.SCORES] = _list([t.score for t in tokens], GGUFValueType.FLOAT32)
    values[Keys.Tokenizer.TOKEN_TYPE] = _list([int(t.type) for t in tokens], GGUFValueType.INT32)
    if found.merges is not None:
        values[Keys.Tokenizer.MERGES] = _list(found.merges, GGUFValueType.STRING)
    if found.adds_space_prefix is not None:
        values[Keys.Tokenizer.ADD_PREFIX] = _flag(found.adds_space_prefix)
    if found.removes_extra_spaces is not None:
        values[Keys.Tokenizer.REMOVE_EXTRA_WS] = _flag(found.removes_extra_spaces)
    if found.character_map:
        content = list(found.character_map)
        values[Keys.Tokenizer.PRECOMPILED_CHARSMAP] = _list(content, GGUFValueType.UINT8)
    return values


def _special_values(special: Special, rows: int) -> dict[str, Value]:
    values = {
        key: Value(GGUFValueType.UINT32, special.ids[kind])
        for kind, key in _ID_KEYS.items()
        if kind in special.ids
    }
    if special.add_bos is not None:
        values[Keys.Tokenizer.ADD_BOS] = _flag(special.add_bos)
    if special.add_eos is not None:
        values[Keys.Tokenizer.ADD_EOS] = _flag(special.add_eos)
    if len(ends := [number for number in special.ends if number < rows]) > 1:
        values[_ENDS] = _list(ends, GGUFValueType.INT32)
    return values


def _template_values(templates: Mapping[str, str]) -> dict[str, Value]:
    values = {}
    named = {re.sub("[^A-Za-z0-9]", "_", n): t for n, t in templates.items() if n != DEFAULT}
    if named:
        values[Keys.Tokenizer.CHAT_TEMPLATES] = _list(sorted(named), GGUFValueType.STRING)
    for name, text in named.items():
        values[Keys.Tokenizer.CHAT_TEMPLATE_N.format(name=name)] = _text(text)
    if DEFAULT in templates:
        values[Keys.Tokenizer.CHAT_TEMPLATE] = _text(templates[DEFAULT])
    return values


def _text(content: str) -> Value:
    return Value(GGUFValueType.STRING, content)


def _flag(content: bool) -> Value:
    return Value(GGUFValueType.BOOL, content)


def _list(content: list[Any], items: GGUFValueType) -> Value:
    return Value(GGUFValueType.ARRAY, content, items)

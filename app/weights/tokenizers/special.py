"""Special tokens: which of the tokens begin a text, end an answer or a turn, pad.

Their texts come from tokenizer_config.json, special_tokens_map.json and the post-processor of
tokenizer.json; their numbers, where no text is given, from config.json and generation_config.json.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gguf import TokenType

from app.weights.tokenizers.files import TokenizerJson, json_object
from app.weights.tokenizers.vocabulary import Token, Vocabulary

KINDS = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")

_TURN_ENDS = ("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<turn|>")
_MESSAGE_ENDS = ("<|eom_id|>",)
_BOS_BY_DEFAULT = frozenset(("llama-bpe", "tekken"))
_MOST_ENDS = 64


@dataclass
class Special:
    """Ids by kind (bos, eos, eot, ...), whether bos and eos are put around a text (None: as
    llama.cpp does by itself), and all ids that end an answer."""

    ids: dict[str, int] = field(default_factory=dict)
    add_bos: bool | None = None
    add_eos: bool | None = None
    ends: list[int] = field(default_factory=list)


def special_tokens(
    found: Vocabulary,
    tokenizer: TokenizerJson | None,
    files: Mapping[str, Path],
    config: Mapping[str, Any],
    fallback: Mapping[str, int],
) -> Special:
    """The special tokens of a vocabulary, marked as such in it. Raises WeightsError.

    `fallback` has ids that the vocabulary itself gives, for kinds that nothing else names.
    """
    given = {
        **json_object(files, "special_tokens_map.json"),
        **json_object(files, "tokenizer_config.json"),
    }
    generation = json_object(files, "generation_config.json")
    ids = found.ids()
    before, after = _around(tokenizer)
    texts = _texts(given, before, after)
    special = Special({kind: ids[text] for kind, text in texts.items() if text in ids})
    nested = config.get("text_config")
    sources = (config, nested if isinstance(nested, Mapping) else {}, generation)
    for numbers in (*map(_numbers, sources), fallback):
        for kind in KINDS:
            number = _first_number(numbers, kind)
            if number is not None and number in found.tokens:
                special.ids.setdefault(kind, number)
    special.add_bos = _flag(given.get("add_bos_token"))
    special.add_eos = _flag(given.get("add_eos_token"))
    if special.add_bos is None and before:
        special.add_bos = before in (texts.get("bos"), texts.get("cls"))
    if special.add_eos is None and after:
        special.add_eos = True
    if special.add_bos is None and found.pre in _BOS_BY_DEFAULT:
        special.add_bos = False
    if "bos" not in special.ids and found.model in ("gpt2", "gemma4"):
        special.add_bos = None if found.model == "gemma4" else False
    _ends(found, special, [*_list(generation, "eos"), *_list(config, "eos")], ids)
    for number in special.ids.values():
        _mark(found, number)
    return special


def _texts(given: Mapping[str, Any], before: str | None, after: str | None) -> dict[str, str]:
    """The special tokens' texts by kind, as they are named or put around a text."""
    texts = {kind: text for kind in KINDS if (text := _text(given.get(f"{kind}_token")))}
    if before and before not in (texts.get("bos"), texts.get("cls")) and "bos" not in texts:
        texts["bos"] = before
    if after and after != texts.get("eos"):
        if "eos" in texts:
            texts["eot"] = texts["eos"]
        texts["eos"] = after
    return texts


def _ends(found: Vocabulary, special: Special, more: list[int], ids: Mapping[str, int]) -> None:
    """Find the ends of turn and message beside eos."""
    eos = special.ids.get("eos")
    ends = [number for number in dict.fromkeys(more) if number in found.tokens]
    special.ends = list(dict.fromkeys([*([] if eos is None else [eos]), *ends]))
    spare = [number for number in special.ends if number != eos]
    for kind, known in ("eot", _TURN_ENDS), ("eom", _MESSAGE_ENDS):
        named = [ids[text] for text in known if text in ids and ids[text] != eos]
        added = [n for n in named if found.tokens[n].type != TokenType.NORMAL]
        if added:
            special.ids.setdefault(kind, added[0])
    taken = {special.ids.get("eot"), special.ids.get("eom")}
    spare = [number for number in spare if number not in taken]
    for kind in ("eot", "eom"):
        if spare and kind not in special.ids:
            special.ids[kind] = spare.pop(0)


def _mark(found: Vocabulary, number: int) -> None:
    """Let a special token be one that is never shown, nor found in a text as it stands."""
    token = found.tokens.get(number)
    if token is not None and token.type == TokenType.USER_DEFINED:
        found.add(Token(token.id, token.text, TokenType.CONTROL, token.score))


def _around(tokenizer: TokenizerJson | None) -> tuple[str | None, str | None]:
    """The tokens that tokenizer.json's post-processor puts before and after a text."""
    processor = tokenizer.post_processor if tokenizer else None
    if processor is None:
        return None, None
    inner = processor.get("processors")
    for part in inner if isinstance(inner, list) else [processor]:
        if not isinstance(part, dict):
            continue
        if part.get("type") in ("RobertaProcessing", "BertProcessing"):
            return _first(part.get("cls")), _first(part.get("sep"))
        single = part.get("single")
        if part.get("type") == "TemplateProcessing" and isinstance(single, list) and single[1:]:
            return _special_of(single[0]), _special_of(single[-1])
    return None, None


def _special_of(item: Any) -> str | None:
    special = item.get("SpecialToken") if isinstance(item, dict) else None
    text = special.get("id") if isinstance(special, dict) else None
    return text if isinstance(text, str) else None


def _first(pair: Any) -> str | None:
    return pair[0] if isinstance(pair, list) and pair and isinstance(pair[0], str) else None


def _text(entry: Any) -> str | None:
    text = entry.get("content") if isinstance(entry, dict) else entry
    return text if isinstance(text, str) and text else None


def _flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _numbers(source: Mapping[str, Any]) -> dict[str, Any]:
    return {kind: source.get(f"{kind}_token_id") for kind in KINDS}


def _first_number(source: Mapping[str, Any], kind: str) -> int | None:
    value = source.get(kind)
    if isinstance(value, list) and value:
        value = value[0]
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _list(source: Mapping[str, Any], kind: str) -> list[int]:
    value = source.get(f"{kind}_token_id")
    listed = value if isinstance(value, list) else [value]
    return [n for n in listed[:_MOST_ENDS] if isinstance(n, int) and not isinstance(n, bool)]

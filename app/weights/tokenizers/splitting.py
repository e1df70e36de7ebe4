# ruff: noqa: RUF001 - the patterns are as the tokenizers have them
"""llama.cpp's name for how a byte-level tokenizer splits text, found by its own patterns.

What is compared is the pre-tokenizer of tokenizer.json, step by step, in one spelling. Names of one
line split alike in llama.cpp; the first is used unless the model's type has its own. Facts from
llama.cpp's src/llama-vocab.cpp and Ollama's convert/tokenizer.go.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.weights.model import WeightsError
from app.weights.tokenizers.files import TokenizerJson

BYTES = "bytes"
DIGITS = "each digit"
NUMBERS = "runs of digits"

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_REST_WITH_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_BEFORE = r"[^\r\n\p{L}\p{N}]?"
_PUNCTUATED = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
).replace(r"\"", '"')

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = rf"{_CONTRACTIONS}|{_BEFORE}\p{{L}}+|\p{{N}}{{1,3}}|{_REST}"
QWEN2 = rf"{_CONTRACTIONS}|{_BEFORE}\p{{L}}+|\p{{N}}|{_REST}"
QWEN35 = (
    rf"{_CONTRACTIONS}|{_BEFORE}[\p{{L}}\p{{M}}]+|\p{{N}}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = rf"{_BEFORE}{_UPPER}*{_LOWER}+|{_BEFORE}{_UPPER}+{_LOWER}*|\p{{N}}|{_REST_WITH_SLASH}"
GPT4O = (
    rf"{_BEFORE}{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|{_BEFORE}{_UPPER}+{_LOWER}*{_CONTRACTIONS}?"
    rf"|\p{{N}}{{1,3}}|{_REST_WITH_SLASH}"
)
SEED_CODER = (
    rf"{_CONTRACTIONS}|{_BEFORE}\p{{L}}+|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
EXAONE_MOE = (
    rf"{_CONTRACTIONS}|{_BEFORE}(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]+|\s+(?!\S)|\s+"
)
JAIS2 = (
    rf"{_CONTRACTIONS}|{_BEFORE}\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+"
    r"|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)"
    r"|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}"
)
BLOOM = r" ?[^(\s|[.,!?…。，、।۔،])]+"
_CHINESE = "[一-龥ࠀ-一가-퟿]+"
_CHINESE_AND_KANA = "[一-龥぀-ゟ゠-ヿ]+"
_DEEPSEEK_LETTERS = (
    r"\s?"
    "[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ"
    "-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ"
    "-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+"
)


@dataclass(frozen=True)
class Splitting:
    """How a text is split: llama.cpp's name for that, and its steps in tokenizer.json.

    `whole_words` is what llama.cpp does with a word that is a token as it stands: takes it without
    merging (tokenizer.json's `ignore_merges`); None where both go by this name. `of_types` are
    names that it has for the same in models of a type.
    """

    name: str
    steps: tuple[str, ...]
    whole_words: bool | None = None
    of_types: Mapping[str, str] = field(default_factory=dict)


SPLITTINGS = (
    Splitting(
        "gpt-2", (GPT2, BYTES), None, {"olmo": "olmo", "mpt": "mpt", "phi": "phi-2", "jais": "jais"}
    ),
    Splitting(
        "starcoder",
        (DIGITS, GPT2, BYTES),
        None,
        {
            **dict.fromkeys(("granite", "granitemoe", "granitemoeshared", "gpt_refact"), "refact"),
            **dict.fromkeys(("cohere", "cohere2"), "command-r"),
            **dict.fromkeys(("llama", "smollm3", "idefics3"), "smollm"),
            "exaone": "exaone",
        },
    ),
    Splitting("llama-bpe", (LLAMA3, BYTES), True),
    Splitting("dbrx", (LLAMA3, BYTES), False, dict.fromkeys(("glm", "glm4", "glm4_moe"), "glm4")),
    Splitting("qwen2", (QWEN2, BYTES), None, {"stablelm": "stablelm2"}),
    Splitting("qwen35", (QWEN35, BYTES)),
    Splitting("tekken", (TEKKEN, BYTES)),
    Splitting("gpt-4o", (GPT4O, BYTES), None, {"llama4": "llama4", "llama4_text": "llama4"}),
    Splitting("deepseek-v3", (r"\p{N}{1,3}", _CHINESE_AND_KANA, _PUNCTUATED, BYTES)),
    Splitting(
        "deepseek-llm",
        (
            r"[\r\n]",
            _DEEPSEEK_LETTERS,
            r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
            r"\s+$",
            _CHINESE,
            NUMBERS,
            BYTES,
        ),
    ),
    Splitting("deepseek-coder", (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CHINESE, DIGITS, BYTES)),
    Splitting("seed-coder", (SEED_CODER, BYTES)),
    Splitting("exaone-moe", (EXAONE_MOE, BYTES)),
    Splitting("jais-2", (JAIS2, BYTES)),
    Splitting("minicpm5", (r"\p{N}{1,3}", LLAMA3.replace("{1,3}", "+"), BYTES)),
    Splitting("falcon", ("punctuation Contiguous", GPT2, BYTES, NUMBERS, "[0-9][0-9][0-9]")),
    Splitting("bloom", (BLOOM, BYTES)),
    Splitting("viking", (BLOOM, DIGITS, BYTES)),
)

_SPELLINGS = (
    ("\r", r"\r"),
    ("\n", r"\n"),
    ("\t", r"\t"),
    ("(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])", _CONTRACTIONS),
    ("'(?i:[sdmt]|ll|ve|re)", _CONTRACTIONS),
    (r"[^\r\n\p{L}\p{N}]?+", _BEFORE),
    (r"[^\s\p{L}\p{N}]++", r"[^\s\p{L}\p{N}]+"),
    (r"\s*[\r\n]|\s+(?!\S)", r"\s*[\r\n]+|\s+(?!\S)"),
)
"""Other spellings of the same, the first as they are read, the second as they are compared."""

NEWER = (
    "Convert the folder with a newer llama.cpp (convert_hf_to_gguf.py, or MODEL_HANDLER_CONVERTER) "
    "and upload the GGUF."
)


def name_of(tokenizer: TokenizerJson, model_type: str | None) -> str:
    """llama.cpp's name for the pre-tokenizer of a byte-level tokenizer.json.

    `model_type` is config.json's. Raises WeightsError, showing the pattern, where none is known.
    """
    steps = steps_of(tokenizer.pre_tokenizer)
    whole_words = tokenizer.model.ignore_merges
    for known in SPLITTINGS:
        if known.steps == steps and known.whole_words in (None, whole_words):
            return known.of_types.get(model_type or "", known.name)
    raise unknown(tokenizer)


def unknown(tokenizer: TokenizerJson) -> WeightsError:
    """The refusal of a pre-tokenizer, showing it."""
    steps = [step for step in steps_of(tokenizer.pre_tokenizer) if step != BYTES]
    shown = " then ".join(steps) or "no splitting at all"
    return WeightsError(
        f"tokenizer.json splits text in a way that llama.cpp isn't known to have: {shown[:400]}",
        NEWER,
    )


def is_byte_level(tokenizer: TokenizerJson) -> bool:
    """Whether the vocabulary is written in GPT-2's letters for bytes."""
    return BYTES in steps_of(tokenizer.pre_tokenizer)


def prefixes_space(tokenizer: TokenizerJson) -> bool:
    """Whether a byte-level tokenizer puts a space before the text, which llama.cpp can't."""
    parts = parts_of(tokenizer.pre_tokenizer)
    return any(p.get("type") == "ByteLevel" and p.get("add_prefix_space") is True for p in parts)


def steps_of(pre_tokenizer: Mapping[str, Any] | None) -> tuple[str, ...]:
    """The steps of a pre-tokenizer, each a regular expression or some words, in one spelling."""
    return tuple(step for part in parts_of(pre_tokenizer) for step in _steps(part))


def parts_of(pre_tokenizer: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """A pre-tokenizer's parts, those of sequences in their places."""
    found: list[dict[str, Any]] = []
    waiting: list[Any] = [pre_tokenizer]
    while waiting:
        part = waiting.pop()
        if not isinstance(part, dict):
            continue
        if part.get("type") != "Sequence":
            found.append(part)
        elif isinstance(parts := part.get("pretokenizers"), list):
            waiting.extend(reversed(parts))
    return found


def _steps(part: Mapping[str, Any]) -> Iterator[str]:
    kind = part.get("type")
    if kind == "Split":
        yield _split(part)
    elif kind == "Digits":
        yield DIGITS if part.get("individual_digits") is True else NUMBERS
    elif kind == "Punctuation":
        yield f"punctuation {part.get('behavior', 'Isolated')}"
    elif kind == "ByteLevel":
        if part.get("use_regex", True) is not False:
            yield GPT2
        yield BYTES
    else:
        yield str(kind)[:80]


def _split(part: Mapping[str, Any]) -> str:
    pattern = part.get("pattern")
    regex = pattern.get("Regex") if isinstance(pattern, dict) else None
    how = part.get("behavior"), part.get("invert")
    if not isinstance(regex, str):
        return f"Split at {str(pattern)[:80]} ({how[0]})"
    for read, compared in _SPELLINGS:
        regex = regex.replace(read, compared)
    leaves_nothing = regex.endswith(r"|\s+")
    isolated = how[0] == "Isolated" or (leaves_nothing and how == ("Removed", True))
    return regex if isolated else f"{regex} ({how[0]})"

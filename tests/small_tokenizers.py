# ruff: noqa: RUF001 - texts of many scripts
"""Small tokenizers of each kind, trained by the packages `tokenizers` and `sentencepiece`."""

import io
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import Tokenizer, pre_tokenizers, trainers

from app.weights.tokenizers.splitting import BYTES, DIGITS, GPT2, NUMBERS

SPECIAL = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")

TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "I've been told he's there, 'RE you sure? WE'LL see; don't, can't, DON'T",
    "  two  spaces,   three    and a trailing one ",
    "\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \nx",
    "3 33 333 3333 33333 333333 3.3 3..3 12:30 1,000,000 ½ ²",
    "def f(x):\n    return x**2  # comment\n\n\nclass A(B):\r\n\tpass\r\n",
    'printf("%d\\n", a->b[3]); /* path */ //foo/bar\n\n',
    '{"key": [1, 2.5, null], \'a\': "b"}',
    "Größe, naïve café, ÀÉÎ ñandú, Ærøskøbing, straße",
    "нещо на Български и русский ТЕКСТ",
    "Ελληνικά κείμενα με τόνους",
    "我想在apple工作1314151天～ 中文，标点。「引号」",
    "日本語のテキスト、カタカナとひらがな。ー",
    "한국어 문장입니다. 가나다",
    "العربية نص قصير، وعلامات؟",
    "עברית טקסט",
    "🚀 (normal) ✅ 🦙🦙 👍🏽 🇨🇦",
    '``````` """" ...... !!!!!! ?????? ------======= __init__ $x += 1; <tag/>',
    "camelCaseWords HTTPServer snake_case kebab-case iPhone15Pro",
    "https://example.org/a/b?c=d&e=f#g user@example.org",
    "<|im_start|>user\nhello<|im_end|>\n",
    "a\u00a0b\u3000c\u2003d",
    "\ufeffmark\u200bzero\u00adsoft",
    "",
)

MARKED = ("हिन्दी में एक वाक्य है", "ภาษาไทยไม่มีช่องว่าง", "🤦🏽‍♂️ 😶‍🌫️", "Zalgo e\u0301\u0302")
"""Texts with marks that combine with letters, which some of llama.cpp's patterns take apart."""

TAKE_MARKS_APART = ("tekken", "gpt-4o")
"""Pre-tokenizers of llama.cpp that do, where the tokenizers of that name don't."""


def byte_level(steps: Sequence[str], **model: Any) -> Tokenizer:
    """Byte-level BPE trained on TEXTS that splits text in these steps, as `splitting` has them;
    `model` sets keys of its model."""
    plain = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": list(map(_step, _joined(steps)))},
        "decoder": None,
        "model": {"type": "BPE", "vocab": {}, "merges": [], **model},
    }
    tokenizer = Tokenizer.from_str(json.dumps(plain))
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    return tokenizer


@cache
def sentencepiece_model(kind: str = "bpe", **options: Any) -> bytes:
    """A tokenizer.model trained on TEXTS, without a normal form, as Llama's."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for text in _corpus() for line in text.splitlines() if line]),
        model_writer=written,
        model_type=kind,
        vocab_size=options.pop("vocab_size", 700),
        hard_vocab_limit=False,
        user_defined_symbols=["<|im_start|>", "<|im_end|>"],
        minloglevel=2,
        **{
            "byte_fallback": kind == "bpe",
            "normalization_rule_name": "identity",
            "remove_extra_whitespaces": False,
            "split_digits": True,
            "allow_whitespace_only_pieces": True,
            "character_coverage": 0.98,
            **options,
        },
    )
    return written.getvalue()


def sentencepiece_json(content: bytes) -> dict[str, Any]:
    """The tokenizer.json of a tokenizer.model, as transformers makes one of Llama's or Gemma's:
    each way to join two pieces into a third is a merge, the better scored first."""
    model = sentencepiece.SentencePieceProcessor(model_proto=content)
    vocab = {model.id_to_piece(number): number for number in range(len(model))}
    special = [n for n in range(len(model)) if model.is_control(n) or model.is_unknown(n)]
    defined = [vocab[text] for text in ("<|im_start|>", "<|im_end|>")]
    joined = []
    for text, number in vocab.items():
        if number in (*special, *defined) or model.is_byte(number):
            continue
        parts = [(text[:at], text[at:]) for at in range(1, len(text))]
        parts = [(left, right) for left, right in parts if left in vocab and right in vocab]
        parts.sort(key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))
        joined += [(-model.get_score(number), [left, right]) for left, right in parts]
    joined.sort(key=lambda entry: entry[0])
    prefixed = model.encode("a", out_type=str)[0].startswith("▁")
    steps: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    ]
    if prefixed:
        steps.insert(0, {"type": "Prepend", "prepend": "▁"})
    return {
        "version": "1.0",
        "added_tokens": [
            {
                "id": number,
                "content": model.id_to_piece(number),
                "special": number in special,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
            }
            for number in (*special, *defined)
        ],
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": vocab,
            "merges": [pair for _, pair in joined],
        },
    }


def save(folder: Path, contents: Mapping[str, Any]) -> dict[str, Path]:
    """Write files into a folder; the mapping of their names that the reader takes."""
    found = {}
    for name, content in contents.items():
        path = found[name] = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Tokenizer):
            content.save(str(path))
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
    return found


def _corpus() -> list[str]:
    return [*TEXTS, *MARKED] * 3


def _joined(steps: Sequence[str]) -> list[str]:
    """Steps as tokenizer.json has them: ByteLevel splits in GPT-2's way by itself."""
    text = "\0".join(steps).replace(f"{GPT2}\0{BYTES}", "gpt2 bytes")
    return text.split("\0")


def _step(step: str) -> dict[str, Any]:
    if step in (BYTES, "gpt2 bytes"):
        return {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": step != BYTES,
        }
    if step in (DIGITS, NUMBERS):
        return {"type": "Digits", "individual_digits": step == DIGITS}
    if step.startswith("punctuation "):
        return {"type": "Punctuation", "behavior": step.removeprefix("punctuation ")}
    return {"type": "Split", "pattern": {"Regex": step}, "behavior": "Isolated", "invert": False}

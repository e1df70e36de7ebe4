"""SentencePiece tokenizers: llama.cpp's tokens against SentencePiece's own and tokenizer.json's."""

import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from gguf import TokenType
from tokenizers import Tokenizer

from app.weights.model import WeightsError
from app.weights.tokenizers import model_proto as reader
from app.weights.tokenizers import tokenizer_metadata

from . import llama_tokens
from .small_tokenizers import MARKED, TEXTS, save, sentencepiece_json, sentencepiece_model

KINDS = {
    "llama": {"add_dummy_prefix": True},
    "gemma": {"add_dummy_prefix": False},
}
PLAIN = [text for text in (*TEXTS, *MARKED) if "<|" not in text and "\r" not in text]


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest) -> bytes:
    return sentencepiece_model(**KINDS[request.param])


def test_tokenizer_model_is_read_as_sentencepiece_reads_it(model: bytes) -> None:
    theirs = sentencepiece.SentencePieceProcessor(model_proto=model)
    ours = reader.read(model)
    assert [(p.text, p.score) for p in ours.pieces] == [
        (theirs.id_to_piece(n), theirs.get_score(n)) for n in range(len(theirs))
    ]
    for number, piece in enumerate(ours.pieces):
        assert (piece.type == reader.BYTE) == theirs.is_byte(number)
        assert (piece.type == reader.CONTROL) == theirs.is_control(number)
        assert (piece.type == reader.UNKNOWN) == theirs.is_unknown(number)
    ids = {"unk": theirs.unk_id(), "bos": theirs.bos_id(), "eos": theirs.eos_id()}
    assert ours.ids == ids


def test_llama_cpp_takes_tokenizer_model_and_its_json_form_as_they_do(
    model: bytes, tmp_path: Path
) -> None:
    theirs = sentencepiece.SentencePieceProcessor(model_proto=model)
    form = sentencepiece_json(model)
    given: dict[str, dict[str, Any]] = {
        "model": {"tokenizer.model": model},
        "json": {"tokenizer.json": form},
        "both": {"tokenizer.model": model, "tokenizer.json": form},
    }
    asked = {}
    for name, contents in given.items():
        files = save(tmp_path / name, contents)
        metadata, _ = tokenizer_metadata(files, {}, len(theirs))
        assert metadata["tokenizer.ggml.model"].content == "llama"
        asked[llama_tokens.vocabulary_model(tmp_path / f"{name}.gguf", metadata)] = PLAIN
    by_model, by_json, by_both = llama_tokens.tokens(asked)
    as_json = Tokenizer.from_str(json.dumps(form))
    for text, *got in zip(PLAIN, by_model, by_json, by_both, strict=True):
        assert got == [theirs.encode(text)] * 3, text
        assert as_json.encode(text, add_special_tokens=False).ids == theirs.encode(text)


def test_llama_cpp_joins_gemma_4_s_tokens_as_its_json_does(tmp_path: Path) -> None:
    form = sentencepiece_json(sentencepiece_model(add_dummy_prefix=False))
    spoken = ("<|channel>", "<channel|>", "<|tool_call>", "<|turn>")
    count = len(form["model"]["vocab"])
    plainly = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    form["added_tokens"] += [
        {"id": count + n, "content": text, "special": True, **plainly}
        for n, text in enumerate(spoken)
    ]
    rows = count + len(spoken)
    files = save(tmp_path, {"tokenizer.json": form})
    metadata, _ = tokenizer_metadata(files, {"model_type": "gemma4_text"}, rows)
    assert metadata["tokenizer.ggml.model"].content == "gemma4"
    types = metadata["tokenizer.ggml.token_type"].content[count:]
    visible, hidden = TokenType.USER_DEFINED, TokenType.CONTROL
    assert types == [visible, visible, visible, hidden]
    model = llama_tokens.vocabulary_model(tmp_path / "gemma4.gguf", metadata)
    asked = [text for text in PLAIN if text]
    (got,) = llama_tokens.tokens({model: asked})
    theirs = Tokenizer.from_str(json.dumps(form))
    for text, ids in zip(asked, got, strict=True):
        assert ids == theirs.encode(text, add_special_tokens=False).ids, text


def test_types_and_added_tokens(tmp_path: Path) -> None:
    model = sentencepiece_model()
    count = len(reader.read(model).pieces)
    files = save(
        tmp_path,
        {
            "tokenizer.model": model,
            "added_tokens.json": {"<tool>": count, "<|turn|>": count + 1},
            "tokenizer_config.json": {
                "bos_token": "<s>",
                "eos_token": {"content": "</s>"},
                "add_bos_token": True,
                "added_tokens_decoder": {str(count + 2): {"content": "[X]", "special": True}},
            },
        },
    )
    metadata, notes = tokenizer_metadata(files, {}, count + 5)
    tokens = metadata["tokenizer.ggml.tokens"].content
    types = dict(zip(tokens, metadata["tokenizer.ggml.token_type"].content, strict=True))
    expected = {
        "<unk>": TokenType.UNKNOWN,
        "<s>": TokenType.CONTROL,
        "<0x0A>": TokenType.BYTE,
        "<|im_start|>": TokenType.CONTROL,
        "<tool>": TokenType.USER_DEFINED,
        "<|turn|>": TokenType.CONTROL,
        "[X]": TokenType.CONTROL,
        f"[PAD{count + 3}]": TokenType.UNUSED,
        f"[PAD{count + 4}]": TokenType.UNUSED,
    }
    assert {text: types[text] for text in expected} == expected
    assert metadata["tokenizer.ggml.bos_token_id"].content == 1
    assert metadata["tokenizer.ggml.eos_token_id"].content == 2
    assert metadata["tokenizer.ggml.add_bos_token"].content is True
    assert notes == ()


def test_a_unigram_model_is_one_of_llama_cpps_t5(tmp_path: Path) -> None:
    model = sentencepiece_model("unigram", vocab_size=500)
    theirs = sentencepiece.SentencePieceProcessor(model_proto=model)
    files = save(tmp_path, {"tokenizer.model": model})
    metadata, _ = tokenizer_metadata(files, {}, len(theirs))
    assert metadata["tokenizer.ggml.model"].content == "t5"
    path = llama_tokens.vocabulary_model(tmp_path / "t5.gguf", metadata)
    texts = ["The quick brown fox", "camelCaseWords don't 1,000", "Größe"]
    assert llama_tokens.tokens({path: texts}) == [[theirs.encode(text) for text in texts]]


def _without_merge(form: dict[str, Any]) -> None:
    merges = form["model"]["merges"]
    merges.remove(next(m for m in merges if sum("".join(o) == "".join(m) for o in merges) > 1))


def _without_byte(form: dict[str, Any]) -> None:
    del form["model"]["vocab"]["<0xC3>"]


def _with_splitting(form: dict[str, Any]) -> None:
    form["pre_tokenizer"] = {"type": "Whitespace"}


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (_without_merge, "its merges weren't made by SentencePiece"),
        (_without_byte, "no token for the byte <0xC3>"),
        (_with_splitting, "isn't known to have: Whitespace"),
    ],
)
def test_a_json_form_that_llama_cpp_would_read_otherwise_is_refused(
    change: Any, error: str, tmp_path: Path
) -> None:
    form = sentencepiece_json(sentencepiece_model())
    change(form)
    with pytest.raises(WeightsError, match=error):
        tokenizer_metadata(save(tmp_path, {"tokenizer.json": form}), {}, 5000)


BROKEN = {
    "nothing": b"",
    "text": b"IQ== 0\nIg== 1\n",
    "cut off": sentencepiece_model()[:-5],
    "endless number": b"\xff" * 20,
    "longer than it is": b"\x0a\xff\xff\xff\xff\x0f\x00",
    "piece that isn't UTF-8": b"\x0a\x03\x0a\x01\xff",
    "piece of no type": b"\x0a\x02\x18\x09",
    "group": b"\x0b\x0c",
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_tokenizer_model_is_refused_by_name(case: str, tmp_path: Path) -> None:
    files = save(tmp_path, {"tokenizer.model": BROKEN[case]})
    with pytest.raises(WeightsError, match=r"tokenizer\.model "):
        tokenizer_metadata(files, {}, 1000)

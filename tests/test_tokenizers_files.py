"""Special tokens, chat templates, added tokens, and files that can't be used."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from gguf import TokenType

from app.formats.pre_tokenizers import problem
from app.weights.model import Value, WeightsError
from app.weights.tokenizers import added_tokens, tokenizer_metadata
from app.weights.tokenizers.splitting import BYTES, LLAMA3, QWEN2

from . import llama_tokens
from .small_tokenizers import byte_level, save

Contents = Mapping[str, Any]


@pytest.fixture(scope="module")
def plain() -> dict[str, Any]:
    """A byte-level tokenizer.json with <unk>, <s>, </s>, <|im_start|> and <|im_end|> as 0 to 4."""
    form: dict[str, Any] = json.loads(byte_level((QWEN2, BYTES)).to_str())
    return form


def count(form: dict[str, Any]) -> int:
    return len(form["model"]["vocab"])


def read(folder: Path, contents: Contents, rows: int, **config: Any) -> dict[str, Any]:
    """The metadata's contents by key, without "tokenizer." and "ggml."."""
    metadata, _ = tokenizer_metadata(save(folder, contents), config, rows)
    return {
        key.removeprefix("tokenizer.").removeprefix("ggml."): value.content
        for key, value in metadata.items()
    }


def template(*around: str | None) -> dict[str, Any]:
    """A post-processor that puts tokens before and after a text (None: none there)."""
    before, after = around
    single: list[dict[str, Any]] = [{"Sequence": {"id": "A", "type_id": 0}}]
    if before:
        single.insert(0, {"SpecialToken": {"id": before, "type_id": 0}})
    if after:
        single.append({"SpecialToken": {"id": after, "type_id": 0}})
    return {"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": {}}


SPECIAL: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "texts in tokenizer_config.json": (
        {"tokenizer_config.json": {"bos_token": "<s>", "eos_token": {"content": "</s>"}}},
        {},
        {"bos_token_id": 1, "eos_token_id": 2, "eot_token_id": 4},
    ),
    "texts in special_tokens_map.json": (
        {"special_tokens_map.json": {"bos_token": "<s>", "pad_token": {"content": "<unk>"}}},
        {},
        {"bos_token_id": 1, "padding_token_id": 0},
    ),
    "tokenizer_config.json before config.json": (
        {"tokenizer_config.json": {"eos_token": "<|im_end|>"}},
        {"eos_token_id": 2, "bos_token_id": 1},
        {"eos_token_id": 4, "bos_token_id": 1, "eos_token_ids": [4, 2]},
    ),
    "several ends in generation_config.json": (
        {
            "tokenizer_config.json": {"eos_token": "<|im_end|>"},
            "generation_config.json": {"eos_token_id": [4, 2]},
        },
        {},
        {"eos_token_id": 4, "eot_token_id": 2, "eos_token_ids": [4, 2]},
    ),
    "ends in config.json alone": (
        {},
        {"eos_token_id": [2, 4]},
        {"eos_token_id": 2, "eot_token_id": 4, "eos_token_ids": [2, 4]},
    ),
    "ids of a text_config": (
        {},
        {"text_config": {"bos_token_id": 1}},
        {"bos_token_id": 1},
    ),
    "numbers out of range are left out": (
        {"generation_config.json": {"eos_token_id": [10**9, True, "x", 2]}},
        {"bos_token_id": -1, "pad_token_id": 10**30},
        {"bos_token_id": None, "padding_token_id": None},
    ),
    "bos where the post-processor puts one": (
        {"post_processor": template("<s>", None), "tokenizer_config.json": {"bos_token": "<s>"}},
        {},
        {"bos_token_id": 1, "add_bos_token": True},
    ),
    "bos that only the post-processor names": (
        {"post_processor": template("<s>", None)},
        {},
        {"bos_token_id": 1, "add_bos_token": True},
    ),
    "tokenizer_config.json says no bos": (
        {
            "post_processor": template("<s>", None),
            "tokenizer_config.json": {"bos_token": "<s>", "add_bos_token": False},
        },
        {},
        {"add_bos_token": False},
    ),
    "eos where the post-processor puts one": (
        {"post_processor": template(None, "</s>"), "tokenizer_config.json": {}},
        {},
        {"eos_token_id": 2, "add_eos_token": True},
    ),
}


@pytest.mark.parametrize("case", SPECIAL)
def test_special_tokens(case: str, plain: dict[str, Any], tmp_path: Path) -> None:
    given, config, expected = SPECIAL[case]
    contents = dict(given)
    form = {**plain, "post_processor": contents.pop("post_processor", None)}
    found = read(tmp_path, {"tokenizer.json": form, **contents}, count(form), **config)
    assert {key: found.get(key) for key in expected} == expected


def test_llama_cpp_puts_no_bos_before_a_llama_3_tokenizer_without_one(tmp_path: Path) -> None:
    """Its pre-tokenizer llama-bpe has a bos where nothing is said of it."""
    tokenizer = byte_level((LLAMA3, BYTES), ignore_merges=True)
    files = save(tmp_path, {"tokenizer.json": tokenizer})
    metadata, _ = tokenizer_metadata(files, {}, tokenizer.get_vocab_size())
    path = llama_tokens.vocabulary_model(tmp_path / "m.gguf", metadata)
    (got,) = llama_tokens.tokens({path: ["hello"]}, special=True)
    assert got == [tokenizer.encode("hello").ids]


TEMPLATES: dict[str, tuple[Contents, dict[str, Any]]] = {
    "text": (
        {"tokenizer_config.json": {"chat_template": "A"}},
        {"chat_template": "A", "chat_templates": None},
    ),
    "named": (
        {
            "tokenizer_config.json": {
                "chat_template": [
                    {"name": "default", "template": "A"},
                    {"name": "tool use", "template": "B"},
                ]
            }
        },
        {"chat_template": "A", "chat_template.tool_use": "B", "chat_templates": ["tool_use"]},
    ),
    "file": ({"chat_template.jinja": "J"}, {"chat_template": "J"}),
    "file before text": (
        {"chat_template.jinja": "J", "tokenizer_config.json": {"chat_template": "A"}},
        {"chat_template": "J"},
    ),
    "a processor's": ({"chat_template.json": {"chat_template": "P"}}, {"chat_template": "P"}),
    "more in a folder": (
        {"chat_template.jinja": "J", "additional_chat_templates/rag.jinja": "R"},
        {"chat_template": "J", "chat_template.rag": "R"},
    ),
    "none": (
        {"tokenizer_config.json": {"chat_template": None}},
        {"chat_template": None, "chat_templates": None},
    ),
    "of a wrong type": (
        {"tokenizer_config.json": {"chat_template": {"a": 1}}},
        {"chat_template": None},
    ),
}


@pytest.mark.parametrize("case", TEMPLATES)
def test_chat_templates(case: str, plain: dict[str, Any], tmp_path: Path) -> None:
    contents, expected = TEMPLATES[case]
    found = read(tmp_path, {"tokenizer.json": plain, **contents}, count(plain))
    assert {key: found.get(key) for key in expected} == expected


def with_added(form: dict[str, Any], *texts: str, special: bool = False) -> dict[str, Any]:
    last = count(form)
    entry = dict(form["added_tokens"][0], special=special)
    more = [{**entry, "id": last + n, "content": text} for n, text in enumerate(texts)]
    return {**form, "added_tokens": [*form["added_tokens"], *more]}


def test_added_tokens_have_their_types_and_rows_are_filled_up(
    plain: dict[str, Any], tmp_path: Path
) -> None:
    form = with_added(plain, "<tool>", "<|turn|>", "▁x")
    rows = count(plain) + 6
    found = read(tmp_path, {"tokenizer.json": form}, rows)
    got = list(zip(found["tokens"], found["token_type"], strict=True))[-6:]
    assert got == [
        ("<tool>", TokenType.USER_DEFINED),
        ("<|turn|>", TokenType.CONTROL),
        (" x", TokenType.USER_DEFINED),
        *((f"[PAD{rows - n}]", TokenType.UNUSED) for n in (3, 2, 1)),
    ]


def test_a_text_with_two_ids_is_written_once(plain: dict[str, Any], tmp_path: Path) -> None:
    """llama.cpp ends itself at a text that it has twice, a filler's text included."""
    taken = f"[PAD{count(plain) + 3}]"
    form = with_added(plain, " x", "▁x", taken)
    found = read(tmp_path, {"tokenizer.json": form}, count(plain) + 4)
    assert len(set(found["tokens"])) == len(found["tokens"]) == count(plain) + 4


def test_added_tokens_without_a_row_are_left_out_with_a_word(
    plain: dict[str, Any], tmp_path: Path
) -> None:
    files = save(tmp_path, {"tokenizer.json": with_added(plain, "[PAD]", "<image>", special=True)})
    metadata, notes = tokenizer_metadata(files, {}, count(plain))
    assert len(metadata["tokenizer.ggml.tokens"].content) == count(plain)
    assert notes == ("Tokens without a row in the embedding were left out: '[PAD]', '<image>'.",)


@pytest.mark.parametrize("needed", ["template", "vocabulary"])
def test_more_tokens_than_rows_are_refused_with_both_numbers(
    needed: str, plain: dict[str, Any], tmp_path: Path
) -> None:
    contents: dict[str, Any] = {"tokenizer.json": with_added(plain, "<turn>")}
    rows = count(plain)
    if needed == "template":
        contents["chat_template.jinja"] = "<turn>{{ messages }}"
    else:
        rows -= 10
    with pytest.raises(WeightsError, match=rf"up to number {count(plain)} .* only {rows} rows"):
        tokenizer_metadata(save(tmp_path, contents), {}, rows)


def test_what_a_trainer_added_to_the_bases_vocabulary(
    plain: dict[str, Any], tmp_path: Path
) -> None:
    base = count(plain)
    form = with_added(plain, "<new>", "<|newer|>")
    files = save(tmp_path / "new", {"tokenizer.json": form})
    assert [(t.id, t.text, t.type) for t in added_tokens(files, base)] == [
        (base, "<new>", TokenType.USER_DEFINED),
        (base + 1, "<|newer|>", TokenType.CONTROL),
    ]
    assert added_tokens(files, base + 2) == ()
    assert added_tokens({}, base) == ()
    listed = {"added_tokens_decoder": {str(base): {"content": "<s2>", "special": True}}}
    files = save(tmp_path / "old", {"tokenizer_config.json": listed})
    assert [(t.id, t.text, t.type) for t in added_tokens(files, base)] == [
        (base, "<s2>", TokenType.CONTROL)
    ]


def model(**changes: Any) -> bytes:
    fields = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"], **changes}
    steps = {"type": "ByteLevel", "use_regex": True}
    return json.dumps({"model": fields, "pre_tokenizer": steps}).encode()


BROKEN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "can't be used"),
    "cut off": (model()[:-5], "can't be used"),
    "a list": (b"[]", "can't be used"),
    "not UTF-8": (b'{"model": "\xff"}', "can't be used"),
    "a lone surrogate": (model(vocab={"a": 0, "\ud800": 1}), "can't be used"),
    "deeply nested": (b'{"model": {}, "normalizer": ' + b'{"a":' * 50_000, "can't be used"),
    "many lists": (b'{"model": [' + b"[]," * 2_000_000, "more texts, lists or objects"),
    "many texts": (b'{"model": [' + b'"",' * 5_000_000, "more texts, lists or objects"),
    "an id below 0": (model(vocab={"a": -1}), "can't be used"),
    "an id without end": (model(vocab={"a": 10**40}), "can't be used"),
    "an id that isn't whole": (model(vocab={"a": 1.5}), "can't be used"),
    "no vocabulary": (model(vocab={}), "has no vocabulary"),
    "no merges": (model(merges=[]), "has no merges"),
    "a merge of one": (model(merges=["ab"]), "isn't of two texts"),
    "a merge of nothing": (model(merges=[["a", ""]]), "isn't of two texts"),
    "a merge of three": (model(merges=[["a", "b", "c"]]), "can't be used"),
    "WordPiece": (model(type="WordPiece"), "of type 'WordPiece'"),
    "Unigram": (model(type="Unigram", vocab=[["a", -1.0]]), "of type 'Unigram'"),
    "parts of words marked": (model(continuing_subword_prefix="##"), "marks the parts of words"),
    "an endless token": (model(vocab={"a" * 70_000: 0}), "more than 65536 bytes"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_tokenizer_json_that_cant_be_used_is_refused(case: str, tmp_path: Path) -> None:
    content, error = BROKEN[case]
    with pytest.raises(WeightsError, match=error) as refusal:
        tokenizer_metadata(save(tmp_path, {"tokenizer.json": content}), {}, 1000)
    assert "okenizer" in str(refusal.value)


def test_a_huge_tokenizer_json_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with path.open("wb") as file:
        file.truncate(2**33)
    with pytest.raises(WeightsError, match="more than 64 MiB"):
        tokenizer_metadata({path.name: path}, {}, 10)


def test_a_lowercasing_tokenizer_is_refused(plain: dict[str, Any], tmp_path: Path) -> None:
    form = {**plain, "normalizer": {"type": "Lowercase"}}
    with pytest.raises(WeightsError, match=r"changes text before it is split \(Lowercase\)"):
        read(tmp_path, {"tokenizer.json": form}, count(plain))


def test_a_folder_without_a_tokenizer_is_refused() -> None:
    with pytest.raises(WeightsError, match="no tokenizer: neither") as refusal:
        tokenizer_metadata({}, {}, 10)
    assert "save_pretrained" in (refusal.value.hint or "")


@pytest.mark.parametrize(
    ("kind", "pre", "word"),
    [
        ("gpt2", "qwen2", None),
        ("gpt2", None, "has no tokenizer.ggml.pre"),
        ("gpt2", "of-tomorrow", "'of-tomorrow' isn't one that we know"),
        ("llama", None, None),
        ("gemma4", None, None),
        (None, None, None),
    ],
)
def test_a_doubtful_pre_tokenizer_is_a_problem(
    kind: str | None, pre: str | None, word: str | None
) -> None:
    found = problem(kind, pre)
    assert found is None if word is None else found is not None and word in found


def test_values_are_ggufs(plain: dict[str, Any], tmp_path: Path) -> None:
    metadata, _ = tokenizer_metadata(save(tmp_path, {"tokenizer.json": plain}), {}, count(plain))
    assert all(isinstance(value, Value) for value in metadata.values())
    assert metadata["tokenizer.ggml.merges"].items == 8

"""Tokenizers of trainers as GGUF's metadata: llama.cpp's tokens against the tokenizer's own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.formats.pre_tokenizers import KNOWN
from app.weights.model import WeightsError
from app.weights.tokenizers import splitting, tokenizer_metadata

from . import llama_tokens
from .small_tokenizers import MARKED, TAKE_MARKS_APART, TEXTS, byte_level, save


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, list[tuple]]]:
    """By the name of each way to split text: the texts, the tokenizer's ids and llama.cpp's."""
    folder = tmp_path_factory.mktemp("ways")
    trained, asked = {}, {}
    for way in splitting.SPLITTINGS:
        model = {} if way.whole_words is None else {"ignore_merges": way.whole_words}
        tokenizer = trained[way.name] = byte_level(way.steps, **model)
        files = save(folder / way.name, {"tokenizer.json": tokenizer})
        metadata, _ = tokenizer_metadata(files, {}, tokenizer.get_vocab_size())
        assert metadata["tokenizer.ggml.pre"].content == way.name
        path = llama_tokens.vocabulary_model(folder / f"{way.name}.gguf", metadata)
        marked = () if way.name in TAKE_MARKS_APART else MARKED
        asked[path] = [*TEXTS, *marked]
    answers = zip(trained, asked.values(), llama_tokens.tokens(asked), strict=True)
    return {
        name: [
            (text, trained[name].encode(text, add_special_tokens=False).ids, ids)
            for text, ids in zip(texts, got, strict=True)
        ]
        for name, texts, got in answers
    }


@pytest.mark.parametrize("name", [way.name for way in splitting.SPLITTINGS])
def test_llama_cpp_splits_text_as_the_tokenizer_did(
    split: dict[str, list[tuple]], name: str
) -> None:
    assert [row for row in split[name] if row[1] != row[2]] == []


def test_every_name_is_one_of_llama_cpps() -> None:
    names = {name for way in splitting.SPLITTINGS for name in (way.name, *way.of_types.values())}
    assert names <= KNOWN


def test_an_unknown_way_to_split_text_is_refused_by_its_pattern(tmp_path: Path) -> None:
    files = save(tmp_path, {"tokenizer.json": byte_level((r"[a-z]+|\p{Greek}+", "bytes"))})
    with pytest.raises(WeightsError, match=r"llama\.cpp isn't known to have: \[a-z\]\+") as refusal:
        tokenizer_metadata(files, {}, 900)
    assert "newer llama.cpp" in (refusal.value.hint or "")

"""The service's own sentences in the language that a client asks for.

They are written in English where they are said, and so they are kept: a task's lines, a model's
history. Their catalogues (`app/translations`, `sentences.po`) have them by that text, with names in
braces for what differs; here what was said is told apart again. What no catalogue knows, Ollama's
own words for instance, stays as it is.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from babel.messages.mofile import read_mo
from flask import Flask

from app.views.texts import CATALOGUES, FOLDER, language

KEYS = frozenset(
    ("error", "hint", "problem", "problems", "reason", "adapter_reason", "template_reason", "notes")
)
MAX_CHARACTERS = 4000
MAX_SENTENCES = 40
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_WIDE = ("。", "：", "？")  # noqa: RUF001
_BETWEEN = re.compile(r"(?<=[.?!:]) (?=\S)")


@dataclass(frozen=True)
class Pattern:
    """A sentence's texts, and the names of what stands between them; its translation."""

    texts: tuple[str, ...]
    names: tuple[str, ...]
    translation: str

    @classmethod
    def of(cls, sentence: str, translation: str) -> "Pattern":
        """From a catalogue's entry."""
        parts = _PLACEHOLDER.split(sentence)
        return cls(tuple(parts[::2]), tuple(parts[1::2]), translation)

    def filled(self, values: Mapping[str, str]) -> str:
        """The translation with its values."""
        return _PLACEHOLDER.sub(lambda match: values[match[1]], self.translation)

    def values(self, said: str) -> dict[str, str] | None:
        """What stands between the texts where `said` is this sentence, else None; in one pass,
        whatever a stranger's names hold."""
        first, *rest = self.texts
        if not said.startswith(first):
            return None
        if not rest:
            return {} if said == first else None
        found, at = [], len(first)
        for text in rest[:-1]:
            end = said.find(text, at + 1)
            if end < 0:
                return None
            found.append(said[at:end])
            at = end + len(text)
        end = len(said) - len(rest[-1])
        if end <= at or not said.endswith(rest[-1]):
            return None
        return dict(zip(self.names, [*found, said[at:end]], strict=True))


class Sentences:
    """One language's sentences."""

    def __init__(self, translations: Mapping[str, str]) -> None:
        """`translations` by the sentence in English; those without one are left out."""
        known = ((sentence, other) for sentence, other in translations.items() if other)
        patterns = [Pattern.of(sentence, other) for sentence, other in known]
        self._patterns = sorted(patterns, key=lambda known: -sum(map(len, known.texts)))

    def translated(self, said: str) -> str:
        """One or several sentences in this language, as far as they are known."""
        if len(said) > MAX_CHARACTERS:
            return said
        whole = self._one(said)
        if whole is not None:
            return whole
        ends = [match.start() for match in _BETWEEN.finditer(said)][:MAX_SENTENCES]
        for end in reversed(ends):
            head = self._one(said[:end])
            if head is not None:
                return _joined(head, self.translated(said[end + 1 :]))
        if not ends:
            return said
        return _joined(said[: ends[0]], self.translated(said[ends[0] + 1 :]))

    def _one(self, said: str) -> str | None:
        for pattern in self._patterns:
            values = pattern.values(said)
            if values is not None:
                return pattern.filled({name: self._value(value) for name, value in values.items()})
        return None

    def _value(self, said: str) -> str:
        """What a sentence was said about: a sentence too, or a name."""
        return self.translated(said) if " " in said else said


def _joined(one: str, other: str) -> str:
    return one + other if one.endswith(_WIDE) else f"{one} {other}"


@cache
def sentences(language: str) -> Sentences | None:
    """The catalogue of a language; None for English, in which they are said."""
    path = FOLDER / CATALOGUES[language] / "LC_MESSAGES" / "sentences.mo"
    if language == "en":
        return None
    with path.open("rb") as file:
        said = [message for message in read_mo(file) if message.id]
    return Sentences({str(message.id): str(message.string) for message in said})


def init_app(app: Flask) -> None:
    """Give templates the filter `in_language`, for a sentence or None."""
    app.jinja_env.filters["in_language"] = lambda said: in_language({"error": said})["error"]


def in_language(value: Any) -> Any:
    """A JSON value with the sentences under KEYS in the language that the current request asks for
    (Accept-Language); as it is where it asks for none."""
    known = sentences(language())
    return value if known is None else _in_language(value, known, is_said=False)


def _in_language(value: Any, known: Sentences, *, is_said: bool) -> Any:
    if isinstance(value, Mapping):
        return {key: _in_language(item, known, is_said=key in KEYS) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_in_language(item, known, is_said=is_said) for item in value]
    return known.translated(value) if is_said and isinstance(value, str) else value

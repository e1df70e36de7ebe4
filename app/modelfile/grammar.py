"""Modelfiles: read as Ollama reads them, and written so that every value reads back.

The grammar is that of Ollama's parser/parser.go (v0.33.0-rc2).
"""

import re
from array import array
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from reprlib import repr as shortened

INSTRUCTIONS = (
    *("from", "adapter", "template", "system", "parameter", "license", "message"),
    *("renderer", "parser", "requires", "draft"),
)
ROLES = ("system", "user", "assistant")

# Possessive: what may be gone back to is kept, some hundred bytes for each character.
_BETWEEN_STATEMENTS = re.compile(r"(?:[ \t\r\n]++|#[^\r\n]*+)*+")
_WORD = re.compile(r"[^ \t\r\n]*")
_PARAMETER_NAME = re.compile(r"[A-Za-z0-9_]+")
_BLANKS = re.compile(r"[ \t]*")
_REST_OF_LINE = re.compile(r"[^\r\n]*")
_LINE_END = re.compile(r"\r\n|\r|\n")
# The longer quotes first, for both begin alike.
_CLOSING = {quotes: re.compile(rf"{quotes}[ \t]*(?=[\r\n]|\Z)") for quotes in ('"""', '"')}

_LAID_OUT = str.maketrans("", "", "\t\r\n")
_TEMPLATE_ERROR = re.compile(r"\btemplate: [^:\s]*:(\d{1,6})(?::\d{1,6})?: ")

MOST_STATEMENTS = 10_000
NAMES = ("renderer", "parser", "requires")
SAID_ONCE = ("template", "system", *NAMES)


class ModelfileError(ValueError):
    """A Modelfile, a value for one or a template can't be used; the message is a sentence, which
    names the `line` where it is about one (the first is 1)."""

    def __init__(self, sentence: str, line: int | None = None) -> None:
        super().__init__(sentence if line is None else f"Line {line}: {sentence}")
        self.line = line


@dataclass(frozen=True)
class Modelfile:
    """What a Modelfile says: all values in order, or the last one where Ollama takes only that.

    `parameters` are (name, value), `messages` are (role, content). Of `adapters` Ollama takes the
    last, and merges the models that `from_` names. `text` is what it was read from, and `starts`
    where in it the statements of each instruction begin.
    """

    from_: tuple[str, ...]
    adapters: tuple[str, ...] = ()
    template: str | None = None
    system: str | None = None
    parameters: tuple[tuple[str, str], ...] = ()
    license: tuple[str, ...] = ()
    messages: tuple[tuple[str, str], ...] = ()
    renderer: str | None = None
    parser: str | None = None
    requires: str | None = None
    draft: str | None = None
    text: str = field(default="", compare=False, repr=False)
    starts: Mapping[str, Sequence[int]] = field(default_factory=dict, compare=False, repr=False)

    def error(self, instruction: str, sentence: str, index: int = 0) -> ModelfileError:
        """The error that says `sentence` of a statement: the one of that index among those of an
        instruction (in lower case), where there is one."""
        starts = self.starts.get(instruction, ())
        return ModelfileError(
            sentence, _line_at(self.text, starts[index]) if index < len(starts) else None
        )

    def line_of_template_error(self, words: str) -> int | None:
        """The line that Ollama's words are about where they are of Go's text/template, which counts
        from the first line of TEMPLATE's value: `template: <name>:<line>: <reason>`."""
        match = _TEMPLATE_ERROR.search(words)
        starts = self.starts.get("template")
        if match is None or not starts:
            return None
        return _line_at(self.text, starts[-1]) + int(match[1]) - 1


def parse(text: str) -> Modelfile:
    """Read a Modelfile as Ollama does, except that values keep their non-printable characters.

    Ollama's reader drops those, so they don't count for where a word or a value ends; but the
    create request can carry them. Raises ModelfileError, with the line's number, for an unknown
    instruction, a missing name or value, a role that isn't one, and quotes that don't end; and
    without a FROM.
    """
    values: dict[str, list[str]] = defaultdict(list)
    named: dict[str, list[tuple[str, str]]] = defaultdict(list)
    starts: dict[str, list[int]] = defaultdict(list)
    for count, (start, instruction, name, value) in enumerate(_Reader(text).statements()):
        if count >= MOST_STATEMENTS:
            raise ModelfileError(f"The Modelfile has more than {MOST_STATEMENTS} instructions.")
        starts[instruction].append(start)
        if name is None:
            values[instruction].append(value)
        else:
            named[instruction].append((name, value))
    if not values["from"]:
        raise ModelfileError("The Modelfile has no FROM, which names the base model.")
    return Modelfile(
        from_=tuple(values["from"]),
        adapters=tuple(values["adapter"]),
        parameters=tuple(named["parameter"]),
        license=tuple(values["license"]),
        messages=tuple(named["message"]),
        text=text,
        starts=starts,
        **{key: values[key][-1] for key in (*SAID_ONCE, "draft") if values[key]},
    )


class _Reader:
    """Reads a text's statements, or one value.

    Positions are in `_seen`, the characters that Ollama's reader keeps; `_places` has, for each of
    them, where it stands in the text.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._places: Sequence[int] = range(len(text))
        self._seen = text
        if not text.translate(_LAID_OUT).isprintable():
            places = (at for at, char in enumerate(text) if char.isprintable() or char in "\t\r\n")
            self._places = array("L", places)
            self._seen = "".join(map(text.__getitem__, self._places))

    def statements(self) -> Iterator[tuple[int, str, str | None, str]]:
        """Each statement: its place in the text, instruction in lower case, parameter's name or
        role, value."""
        at = _end(_BETWEEN_STATEMENTS, self._seen, 0)
        while at < len(self._seen):
            start, name = at, None
            word, at = self._word(at)
            instruction = word.lower()
            if instruction not in INSTRUCTIONS:
                known = ", ".join(INSTRUCTIONS).upper()
                raise self._error(start, f"{shortened(word)} is no instruction. There are {known}.")
            if instruction in ("parameter", "message"):
                name, at = self._word(self._after_blank(at, start))
                if instruction == "parameter" and not _PARAMETER_NAME.fullmatch(name):
                    raise self._error(start, "PARAMETER needs one space and a parameter's name.")
                if instruction == "message" and name not in ROLES:
                    roles = ", ".join(ROLES)
                    raise self._error(start, f"MESSAGE needs one space and a role: {roles}.")
            value, at = self.value(self._after_blank(at, start), start)
            yield self._places[start], instruction, name, value
            at = _end(_BETWEEN_STATEMENTS, self._seen, at)

    def value(self, at: int, start: int) -> tuple[str, int]:
        """The value at `at`, of the statement that begins at `start`; and where it ends."""
        at = _end(_BLANKS, self._seen, at)
        for quotes, closing in _CLOSING.items():
            if self._seen.startswith(quotes, at):
                opened = at + len(quotes)
                closed = closing.search(self._seen, opened)
                if closed is None:
                    raise self._error(start, f"The text after {quotes} needs {quotes} at its end.")
                first, last = self._places[opened - 1] + 1, self._places[closed.start()]
                return self._text[first:last], closed.end()
        end = _end(_REST_OF_LINE, self._seen, at)
        seen = self._seen[at:end].rstrip()
        if not seen:
            return "", end
        return self._text[self._places[at] : self._places[at + len(seen) - 1] + 1], end

    def _word(self, at: int) -> tuple[str, int]:
        end = _end(_WORD, self._seen, at)
        return self._seen[at:end], end

    def _after_blank(self, at: int, start: int) -> int:
        if self._seen[at : at + 1] not in (" ", "\t"):
            statement = self._seen[start:at]
            raise self._error(start, f"{shortened(statement)} needs a space and a value after it.")
        return at + 1

    def _error(self, start: int, sentence: str) -> ModelfileError:
        return ModelfileError(sentence, _line_at(self._text, self._places[start]))


def _line_at(text: str, place: int) -> int:
    return len(_LINE_END.findall(text[:place])) + 1


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return match.end() if match else at


def quote(value: str) -> str:
    """The shortest spelling that reads back as exactly `value`; empty quotes for an empty one.

    Raises ModelfileError where there is none: the grammar has no escapes, so a text can't have
    three double quotes at the end of any line but its last.
    """
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ModelfileError(f"{shortened(value)} isn't text: it has a lone surrogate.") from error
    for spelling in (value or '""', f'"{value}"', f'"""{value}"""'):
        with suppress(ModelfileError):
            if _Reader(spelling).value(0, 0)[0] == value:
                return spelling
    raise ModelfileError(
        f"{shortened(value)} can't be written in a Modelfile: a line in it ends with three double"
        " quotes, where Ollama would end the whole text. Write something after them."
    )


def check_sendable(modelfile: Modelfile) -> None:
    """Raise ModelfileError for a text with a NUL character, at which llama.cpp would end it, and
    for a name with what can't be printed."""
    said = {name: getattr(modelfile, name) or "" for name in SAID_ONCE}
    texts = [
        *said.items(),
        *(("license", text) for text in modelfile.license),
        *(("message", text) for _, text in modelfile.messages),
        *(("parameter", text) for _, text in modelfile.parameters),
    ]
    for instruction, text in texts:
        if "\0" in text:
            raise ModelfileError(f"{instruction.upper()} holds a NUL character. Remove it.")
        if instruction in NAMES and not text.isprintable():
            raise ModelfileError(
                f"{instruction.upper()} holds a character that can't be printed. Remove it."
            )

"""Finds the flaws in a Go template that Ollama answers with `template error: ...`.

It is no parser: unclosed actions, strings and blocks, words that are no function, and Jinja's `{%`
tricks aside, it lets everything through.
"""

import re

_BLOCKS = {"if", "range", "with", "define", "block"}
_KEYWORDS = _BLOCKS | {"else", "end", "template", "break", "continue", "nil", "true", "false"}
_COMPARISONS = {"and", "or", "not", "eq", "ne", "lt", "le", "gt", "ge"}
_PRINTERS = {"print", "printf", "println", "html", "js", "urlquery", "json"}
_FUNCTIONS = _COMPARISONS | _PRINTERS | {"len", "index", "slice", "call"}
_FUNCTIONS |= {"currentDate", "yesterdayDate", "toTypeScriptType"}  # Ollama's own
_TOKEN = re.compile(
    r"""(?P<space>\s+)|(?P<comment>/\*.*?\*/)|(?P<quoted>"(?:\\.|[^"\\\n])*"|`[^`]*`)"""
    r"""|(?P<character>'(?:\\.|[^'\\\n])')|(?P<close>-?\}\})|(?P<field>[.$][\w.$]*)"""
    r"""|(?P<number>[+-]?\d[\w.]*)|(?P<word>[A-Za-z_]\w*)|(?P<mark>:=|[()|,=-])""",
    re.DOTALL,
)


def flaw(text: str) -> str | None:
    """Go's words for the first flaw in `text`, or None."""
    open_blocks = 0
    at = 0
    while (start := text.find("{{", at)) >= 0:
        at = start + 2
        words: list[str] = []
        while True:
            token = _TOKEN.match(text, at)
            line = text.count("\n", 0, at) + 1
            if token is None:
                return f"template: :{line}: {_why_no_token(text, at)}"
            at = token.end()
            if token.lastgroup == "close":
                break
            if token.lastgroup == "word":
                word = token.group()
                if word not in _KEYWORDS | _FUNCTIONS:
                    return f'template: :{line}: function "{word}" not defined'
                words.append(word)
        if words[:1] == ["end"]:
            if not open_blocks:
                return f"template: :{line}: unexpected {{{{end}}}}"
            open_blocks -= 1
        elif words and words[0] in _BLOCKS:
            open_blocks += 1
    if open_blocks:
        return f"template: :{text.count(chr(10)) + 1}: unexpected EOF"
    return None


def _why_no_token(text: str, at: int) -> str:
    if at >= len(text):
        return "unclosed action"
    character = text[at]
    if character == '"':
        return "unterminated quoted string"
    if character == "'":
        return "unterminated character constant"
    if character == "`":
        return "unterminated raw quoted string"
    return f"unexpected bad character U+{ord(character):04X} {character!r}"

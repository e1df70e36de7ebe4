"""Bring the catalogues of the service's own sentences up to date with its modules: `make texts`.

A sentence is written where it is said, as an f-string in English. Its id is that text with the
name of each value in braces; app/views/sentences.py finds it again by what was said.
"""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.catalogues import update
from tests.serving import ROOT

APP = ROOT / "app"
HEADER = """msgid ""
msgstr ""
"Content-Type: text/plain; charset=utf-8\\n"
"Language: {locale}\\n"

"""
NOT_FOR_CLIENTS = (
    "views/assets.py",
    "commands/*",
    "views/openapi.py",
    "views/schemas.py",
    "config.py",
    "worker.py",
    "gunicorn_conf.py",
    "metrics.py",
    "__init__.py",
    "__main__.py",
)
LOGGING = ("log", "logging", "logger")
SENTENCE = re.compile(
    r"(?=.*[a-z]{2} .*[a-z]{2})[A-Z{'\"].*[.?!:] ?|(?=.*[a-z] ?.*: )[A-Z].*\{\w+\}", re.DOTALL
)
MORE = re.compile(r"(?<=[.?!]) \{\w+\}$")
"""Another sentence behind one."""
NOT_SENTENCES = re.compile(
    r"(?:Failed|Start|Started|Success|Get) |Still working|Content-Type:|Send the bytes as|Ollama: "
    r"|The entry is unpacked|A (?:check|job) ends with its"
)


def sources() -> list[Path]:
    """The files that people translate, one a language."""
    return sorted(APP.glob("translations/*/LC_MESSAGES/sentences.po"))


def said() -> set[str]:
    """The id of each sentence that the service may say to a client."""
    return {
        text
        for path in APP.rglob("*.py")
        if not any(path.relative_to(APP).match(pattern) for pattern in NOT_FOR_CLIENTS)
        for text in _sentences(ast.parse(path.read_text()))
    }


def _sentences(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return  # a docstring
    if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[0] in LOGGING:
        return
    if isinstance(node, ast.JoinedStr | ast.Constant):
        text = MORE.sub("", _id(node) or "")
        if SENTENCE.fullmatch(text) and not NOT_SENTENCES.match(text):
            yield text.strip()
    values = node.values if isinstance(node, ast.JoinedStr) else [node]
    for value in values:
        if not isinstance(value, ast.Constant):
            for child in ast.iter_child_nodes(value):
                yield from _sentences(child)


def _id(node: ast.JoinedStr | ast.Constant) -> str | None:
    """The text of a literal, with the names of its values in braces."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    seen: Counter[str] = Counter()
    parts = []
    for part in node.values:
        if isinstance(part, ast.Constant):
            parts.append(part.value)
        elif isinstance(part, ast.FormattedValue):
            name = _name(part.value)
            seen[name] += 1
            parts.append(f"{{{name}{seen[name] if seen[name] > 1 else ''}}}")
    return "".join(parts)


def _name(node: ast.expr) -> str:
    """What a value is called: by the last name in its expression."""
    if isinstance(node, ast.Call) and node.args:
        return _name(node.args[0])
    if isinstance(node, ast.Subscript):
        return _name(node.value)
    if isinstance(node, ast.Attribute):
        return node.attr.strip("_")
    return node.id.strip("_").lower() if isinstance(node, ast.Name) else "value"


if __name__ == "__main__":
    for path in sources():
        update(path, said(), HEADER)

"""Names of models, as Ollama accepts them."""

import re

NAME_RULE = (
    "Ollama's names are [host/][namespace/]name[:tag]; each part begins with a letter, digit or"
    " underscore, goes on with those, dots and hyphens (no dot in a namespace), and has at most"
    " 80 characters."
)
_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"
_NAME = re.compile(
    rf"(?:(?:(?P<host>{_PART}(?::\d{{1,5}})?)/)?(?P<namespace>[A-Za-z0-9_][A-Za-z0-9_-]{{0,79}})/)?"
    rf"(?P<name>{_PART})(?::(?P<tag>{_PART}))?"
)
NAME_PATTERN = re.sub(r"\?P<\w+>", "?:", _NAME.pattern).replace("-]", r"\-]")
"""The same rule as an HTML `pattern`."""

SHOWN_CHARACTERS = 200


class InvalidName(ValueError):
    """A name that Ollama wouldn't take; `is_reserved` where it is only kept for something else."""

    is_reserved = False


def check_name(name: str) -> str:
    """Return `name` if Ollama takes it for a model of its own. Raises InvalidName.

    Source of the rule: Ollama, types/model/name.go. Tags that mean another place than this server
    (`cloud`, `local`, `*-cloud`) are refused: other endpoints strip them.
    """
    tag = (_parts(name)["tag"] or "latest").lower()
    if tag in ("cloud", "local") or tag.endswith("-cloud"):
        error = InvalidName(f"{name!r} can't be used: Ollama keeps the tag {tag!r} for itself.")
        error.is_reserved = True
        raise error
    return name


def check_asked_name(name: str) -> str:
    """The same for a model that is only asked, which may be in another place."""
    _parts(name)
    return name


def _parts(name: str) -> re.Match[str]:
    match = _NAME.fullmatch(name)
    if match is None:
        shown = name if len(name) <= SHOWN_CHARACTERS else f"{name[:SHOWN_CHARACTERS]}…"
        raise InvalidName(f"{shown!r} can't be a model's name on Ollama. {NAME_RULE}")
    return match

"""Names of models: parsed once into a form that is safe as a folder's name, and is the only one."""

import os
import unicodedata

from app.storage.failures import NameNotAllowed

NAME_BYTES = 200
SHOWN_CHARACTERS = 80
NAME_RULE = (
    f"A model's name has 1 to {NAME_BYTES} bytes of printable characters,"
    " no slash or backslash, and doesn't begin with a dot."
)


def check_name(name: str) -> str:
    """The name in Unicode's normal form C, if a model may be called so; else raises NameNotAllowed.

    Printable excludes control characters, line and paragraph separators, and marks that change
    the direction of text.
    """
    name = unicodedata.normalize("NFC", name)
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        length = 0
    allowed = (
        0 < length <= NAME_BYTES
        and name.isprintable()
        and not name.startswith(".")
        and not set(name) & set("/\\")
    )
    if not allowed:
        shown = name if len(name) <= SHOWN_CHARACTERS else f"{name[:SHOWN_CHARACTERS]}…"
        raise NameNotAllowed(f"{shown!r} can't be a model's name. {NAME_RULE}")
    return name


def name_of_upload(filename: str) -> str:
    """The model's name for an uploaded file's: without its `.zip`. Raises NameNotAllowed."""
    stem, extension = os.path.splitext(filename)
    if extension.lower() != ".zip":
        shown = filename[:SHOWN_CHARACTERS]
        raise NameNotAllowed(f"{shown!r} is not named like a zip file. Upload <model>.zip.")
    return check_name(stem)

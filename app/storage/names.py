"""Names of models: parsed once into a form that is safe as a folder's name, and is the only one."""

import hashlib
import unicodedata

from app.archive.names import ARCHIVES
from app.storage.failures import NameNotAllowed

NAME_BYTES = 200
SHOWN_CHARACTERS = 80
UPLOAD_EXTENSIONS = (*ARCHIVES, ".gguf", ".safetensors")
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


def stored_name(name: str) -> str:
    """What a model is called here that Ollama calls `name`: without the default registry, its
    library and the tag `latest`; `/` becomes `+` and `:` becomes `@`, which no name there has."""
    for default in ("registry.ollama.ai/", "library/"):
        if name.lower().startswith(default):
            name = name[len(default) :]
    if name.lower().endswith(":latest"):
        name = name[: -len(":latest")]
    name = name.replace("/", "+").replace(":", "@")
    if len(name) > NAME_BYTES:
        name = f"{name[: NAME_BYTES - 17]}+{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return check_name(name)


def name_of_upload(filename: str) -> str:
    """The model's name for an uploaded file's: without its extension, which is one of
    UPLOAD_EXTENSIONS. Raises NameNotAllowed."""
    if (stem := without_extension(filename)) != filename:
        return check_name(stem)
    shown = filename[:SHOWN_CHARACTERS]
    raise NameNotAllowed(
        f"{shown!r} isn't named like an upload. Upload <model>.zip, or another of"
        f" {', '.join(UPLOAD_EXTENSIONS[1:])}."
    )


def without_extension(filename: str) -> str:
    """The file's name without that one of UPLOAD_EXTENSIONS that it has, if any."""
    lowered = filename.lower()
    for extension in UPLOAD_EXTENSIONS:
        if lowered.endswith(extension):
            return filename[: -len(extension)]
    return filename

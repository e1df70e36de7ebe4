"""Files that a client names instead of sending them: objects of name, size and sha256."""

import re
from collections.abc import Mapping
from typing import Any

from app.planning.options import BadRequest
from app.storage.staging import WantedFile

MAX_FILES = 10_000
MAX_NAME_CHARACTERS = 4096
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


def wanted_files(fields: Mapping[str, Any], field: str) -> list[WantedFile]:
    """The files that `field` of a JSON object lists; none where it isn't there. Raises BadRequest
    for more than MAX_FILES, and for what isn't {"name": text, "size": bytes, "sha256": hex}."""
    listed = fields.get(field)
    if listed is None:
        return []
    if not isinstance(listed, list) or len(listed) > MAX_FILES:
        raise BadRequest(f"The field {field!r} takes a list of at most {MAX_FILES} files.")
    files = [_wanted(file) for file in listed]
    if None in files:
        raise BadRequest(
            f"Each of {field!r} must be an object with 'name' (text), 'size' (bytes, a whole"
            " number) and 'sha256' (64 hexadecimal digits)."
        )
    return [file for file in files if file is not None]


def _wanted(file: Any) -> WantedFile | None:
    if not isinstance(file, dict):
        return None
    name, size, sha256 = file.get("name"), file.get("size"), file.get("sha256")
    if not (isinstance(name, str) and isinstance(size, int) and isinstance(sha256, str)):
        return None
    named = 0 < len(name) <= MAX_NAME_CHARACTERS
    sized = size >= 0 and not isinstance(size, bool)
    if named and sized and _SHA256.fullmatch(sha256):
        return WantedFile(name, size, sha256.lower())
    return None

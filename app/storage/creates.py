"""What was made of a model on Ollama, and how: the last creates, in a file of their own, so that
listing the models reads none of it."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from app.storage.disk import write_whole
from app.storage.manifest import OWN_FOLDER

CREATES = f"{OWN_FOLDER}/creates.json"
KEPT_CREATES = 20
CREATES_BYTES = 2 * 2**20
VALUE_BYTES = 64 * 2**10
"""A longer value, a licence for instance, is kept as None."""


def read_creates(folder: Path) -> list[dict[str, Any]]:
    """The creates of the model in `folder`, newest first; none where they can't be read."""
    with suppress(OSError, ValueError, RecursionError), (folder / CREATES).open("rb") as file:
        creates = json.loads(file.read(CREATES_BYTES))
        if isinstance(creates, list) and all(isinstance(create, dict) for create in creates):
            return creates
    return []


def add_create(folder: Path, create: Mapping[str, Any]) -> None:
    """Keep a create as the newest; the oldest go beyond KEPT_CREATES or CREATES_BYTES."""
    _write(folder, [_bounded(dict(create)), *read_creates(folder)])


def carry_creates(replaced: Path, folder: Path) -> None:
    """Keep the history of a model that is replaced with the one that takes its name: what is on
    Ollama by then was made of the earlier one."""
    with suppress(OSError):
        if earlier := read_creates(replaced):
            _write(folder, [*read_creates(folder), *earlier])


def _write(folder: Path, creates: list[dict[str, Any]]) -> None:
    kept = creates[:KEPT_CREATES]
    while len(content := json.dumps(kept).encode()) > CREATES_BYTES:
        kept.pop()
    write_whole(folder / CREATES, content)


def _bounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _bounded(item) for key, item in value.items()}
    return value if len(json.dumps(value)) <= VALUE_BYTES else None

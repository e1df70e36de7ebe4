"""A file of a model, wherever it lies."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

UNKNOWN_SIZE = 2**62
"""The size in bytes of a file that is still arriving, where nobody said it: more than any has."""


@dataclass(frozen=True)
class ModelFile:
    """A file that is part of a model, or may be.

    `name` is what people see: the path below the model's folder, with `/`. `size` is in bytes.
    `open` gives its content from the first byte on, forward only. `path` is where it lies on this
    machine, None while it is still within an archive; it is never shown. `sha256` (hex) is None
    until it is known. `model` is the stored model that the file belongs to, where that isn't the
    one that is being worked on.
    """

    name: str
    size: int
    open: Callable[[], AbstractContextManager[BinaryIO]]
    path: Path | None = None
    sha256: str | None = None
    model: str | None = None

"""Strangers' JSON, counted before it is read: a Python object takes some hundred bytes, the two
characters that ask for one take two."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SEPARATORS = 800_000
LARGE_BYTES = 2**16

_reading = threading.RLock()


class TooManyValues(ValueError):
    """There are more values than anything that is meant well has."""


def loads(text: str | bytes, most: int = SEPARATORS, **hooks: Any) -> Any:
    """As json.loads. Raises ValueError, also for what nests too deeply, and TooManyValues for more
    than `most` separators, wherever they stand."""
    separators = ",:[{" if isinstance(text, str) else (b",", b":", b"[", b"{")
    if sum(map(text.count, separators)) > most:  # type: ignore[arg-type]
        raise TooManyValues(f"it has more than {most} values")
    with alone(text):
        try:
            return json.loads(text, **hooks)
        except RecursionError:
            raise ValueError("it nests too deeply") from None


@contextmanager
def alone(text: str | bytes) -> Iterator[None]:
    """Read a large text while no other thread does: each takes the interpreter for long, and who
    has only to be answered waits for all of them."""
    if len(text) <= LARGE_BYTES:
        yield
        return
    with _reading:
        yield

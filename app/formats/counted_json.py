"""JSON from clients, counted before it is parsed: a value of two characters becomes an
object of some hundred bytes."""

import json
from typing import Any

SEPARATORS = 800_000


class TooManyValues(ValueError):
    """It has more values than any file that is really used."""


def loads(text: str | bytes, most: int = SEPARATORS, **hooks: Any) -> Any:
    """As json.loads. Raises ValueError, also for what nests too deeply, and TooManyValues for more
    than `most` separators, wherever they stand."""
    separators = ",:[{" if isinstance(text, str) else (b",", b":", b"[", b"{")
    if sum(map(text.count, separators)) > most:  # type: ignore[arg-type]
        raise TooManyValues(f"it has more than {most} values")
    try:
        return json.loads(text, **hooks)
    except RecursionError:
        raise ValueError("it nests too deeply") from None

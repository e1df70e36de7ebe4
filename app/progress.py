"""How work that runs on a thread of its own says how far it is."""

from typing import Any, Protocol


class Report(Protocol):
    """Given to work that runs on a thread of its own, to say how far it is."""

    def __call__(self, action: str, details: dict[str, Any], done: float | None = None) -> None:
        """Say what is being done, and the share of it that is `done` (0 to 1) where known.

        Cheap enough for every block of a file: what comes too soon after the same action is
        dropped. Raises Cancelled when nobody waits for the work any more.
        """


class Cancelled(Exception):
    """Nobody waits for this work any more."""

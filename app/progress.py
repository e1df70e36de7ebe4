"""How work that runs on a thread of its own says how far it is, and how it is told to end."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
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


class Cancel:
    """Tells work on other threads that nobody waits for it any more, also where it can't look."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_set = False
        self._interrupts: list[Callable[[], None]] = []

    def set(self) -> None:
        """Nobody waits any more: everything that is to be interrupted, is."""
        with self._lock:
            self._is_set = True
            interrupts = list(self._interrupts)
        for interrupt in interrupts:
            interrupt()

    def check(self) -> None:
        """Raise Cancelled if nobody waits any more."""
        if self._is_set:
            raise Cancelled

    @contextmanager
    def interrupting(self, interrupt: Callable[[], None]) -> Iterator[None]:
        """Have `interrupt` called, on another thread, if nobody waits any more while the block
        runs. Raises Cancelled at the end of a block that failed because of it."""
        with self._lock:
            self._interrupts.append(interrupt)
        try:
            self.check()
            yield
        except Exception:
            self.check()
            raise
        finally:
            with self._lock:
                self._interrupts.remove(interrupt)


CANCEL: ContextVar[Cancel | None] = ContextVar("CANCEL", default=None)
"""For work that runs on a thread of its own: whether anybody still waits for it."""

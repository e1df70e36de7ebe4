"""Work on a thread of its own: how it reports progress, hands over what it has, is cancelled."""

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar, copy_context
from typing import Any, Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
POLL_SECONDS = 0.5


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


def followed(
    work: Callable[[Callable[[Item], None]], Result], cancel: Cancel, most: int = 0
) -> Generator[Item | None, None, Result]:
    """Run `work(put)` on a thread and yield each item that it puts, in order; None whenever there
    has been none for POLL_SECONDS, so that whoever drives this can look whether anybody still
    waits.

    At most `most` items wait to be taken, where it isn't 0. Returns what the work returns, and
    raises what it raises. Closing the generator sets `cancel`, which the work has as CANCEL, and
    waits for the work to end: nothing goes on behind the caller's back.
    """
    items: queue.Queue[Item | None] = queue.Queue(most)
    outcome: list[Result] = []
    failure: list[BaseException] = []

    def run() -> None:
        CANCEL.set(cancel)
        try:
            outcome.append(work(items.put))
        except BaseException as error:
            failure.append(error)
        finally:
            items.put(None)

    thread = threading.Thread(target=copy_context().run, args=(run,), name="work", daemon=True)
    thread.start()
    try:
        while True:
            try:
                item = items.get(timeout=POLL_SECONDS)
            except queue.Empty:
                yield None
                continue
            if item is None:
                break
            yield item
    finally:
        cancel.set()
        while thread.is_alive():
            with suppress(queue.Empty):  # it may wait for room
                while True:
                    items.get_nowait()
            thread.join(0.05)
    if failure:
        raise failure[0]
    return outcome[0]

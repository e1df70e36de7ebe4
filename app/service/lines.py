"""What a running task says: the contract's lines, and the progress between them."""

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from app.progress import CANCEL, Cancel, Report

Result = TypeVar("Result")
POLL_SECONDS = 0.5


@dataclass
class Task:
    """One request's work.

    `failure` is the action that its error line will carry if the step under way fails. `facts` are
    for the log: the model, its name on Ollama, the server.
    """

    uuid: str
    failure: str
    facts: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def failing_as(self, action: str) -> Iterator[None]:
        """For the steps inside, fail as `action`; afterwards as before."""
        before, self.failure = self.failure, action
        yield
        self.failure = before


@dataclass(frozen=True)
class Line:
    """Something that has become true.

    `ratio` runs from 0 to 1 and never goes back within a task. `more` are details that only a
    verbose client gets, as is the whole line where `verbose` is set.
    """

    action: str
    ratio: float
    details: dict[str, Any]
    more: dict[str, Any] = field(default_factory=dict)
    verbose: bool = False


@dataclass(frozen=True)
class Script:
    """The action and ratio of each line of one half of the work."""

    begin: tuple[str, float]
    middle: tuple[str, float]
    success: tuple[str, float]


Steps = Generator[Line | None, None, Result]
"""A task under way: yields its lines as they become true, and None while it is only waiting, so
that whoever drives it can look whether its client is still there."""


def follow(work: Callable[[Report], Result], start: float, end: float) -> Steps[Result]:
    """Run `work(report)` on a thread and yield what it reports as verbose lines.

    Ratios go from `start` to `end`. Yields at least every POLL_SECONDS. Returns what the work
    returns and raises what it raises. Closing the generator makes the work's next report raise
    Cancelled, interrupts what it waits for (CANCEL), and waits for the work to end: nothing goes on
    behind the caller's back.
    """
    events: queue.SimpleQueue[Line | None] = queue.SimpleQueue()
    cancel = Cancel()
    outcome: list[Result] = []
    failure: list[BaseException] = []
    last: dict[str, float] = {}
    ratio = start

    def report(action: str, details: dict[str, Any], done: float | None = None) -> None:
        nonlocal ratio
        cancel.check()
        now = time.monotonic()
        if now - last.get(action, -POLL_SECONDS) < POLL_SECONDS:
            return
        last[action] = now
        if done is not None:
            ratio = max(ratio, start + (end - start) * min(done, 1.0))
        events.put(Line(action, ratio, details, verbose=True))

    def run() -> None:
        CANCEL.set(cancel)
        try:
            outcome.append(work(report))
        except BaseException as error:
            failure.append(error)
        finally:
            events.put(None)

    thread = threading.Thread(target=run, name="work", daemon=True)
    thread.start()
    try:
        while True:
            try:
                event = events.get(timeout=POLL_SECONDS)
            except queue.Empty:
                yield None
                continue
            if event is None:
                break
            yield event
    finally:
        cancel.set()
        thread.join()
    if failure:
        raise failure[0]
    return outcome[0]

"""What a running task says: the contract's lines, and the progress between them."""

import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from app.progress import POLL_SECONDS, Cancel, Report, Result, followed


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


class _Events:
    """What work on other threads reports, in order, each put as a line: the ratio never goes back,
    and stays below that of `middle` until that line has been passed."""

    def __init__(
        self,
        put: Callable[[Line], None],
        start: float,
        end: float,
        cancel: Cancel,
        middle: Line | None,
    ) -> None:
        self._put = put
        self._start, self._end, self._cancel, self._middle = start, end, cancel, middle
        self._ratio = start
        self._said: dict[tuple[str, Any], float] = {}
        self._lock = threading.Lock()

    def report(self, action: str, details: dict[str, Any], done: float | None = None) -> None:
        """See Report; what is said of several servers is several things."""
        self._cancel.check()
        what, now = (action, details.get("server")), time.monotonic()
        with self._lock:
            if now - self._said.get(what, -POLL_SECONDS) < POLL_SECONDS:
                return
            self._said[what] = now
            if done is not None:
                ratio = self._start + (self._end - self._start) * min(done, 1.0)
                most = self._middle.ratio if self._middle else self._end
                self._ratio = max(self._ratio, min(ratio, most))
            self._put(Line(action, self._ratio, details, verbose=True))

    def pass_middle(self) -> None:
        """Have the line in the middle said, unless it was."""
        self._cancel.check()
        with self._lock:
            if self._middle:
                self._ratio = self._middle.ratio
                self._put(self._middle)
                self._middle = None


def follow(work: Callable[[Report], Result], start: float, end: float) -> Steps[Result]:
    """Run `work(report)` on a thread and yield what it reports as verbose lines.

    Ratios go from `start` to `end`. Yields at least every POLL_SECONDS, returns and raises as
    progress.followed. Closing the generator makes the work's next report raise Cancelled.
    """
    return (yield from _follow(lambda events: work(events.report), start, end))


def follow_past(
    middle: Line, work: Callable[[Report, Callable[[], None]], Result], start: float, end: float
) -> Steps[Result]:
    """As `follow`, for work that calls its second argument when it has come to the line `middle`,
    which is yielded then, once."""

    def run(events: _Events) -> Result:
        return work(events.report, events.pass_middle)

    return (yield from _follow(run, start, end, middle))


def _follow(
    work: Callable[[_Events], Result], start: float, end: float, middle: Line | None = None
) -> Steps[Result]:
    cancel = Cancel()

    def run(put: Callable[[Line], None]) -> Result:
        return work(_Events(put, start, end, cancel, middle))

    return (yield from followed(run, cancel))

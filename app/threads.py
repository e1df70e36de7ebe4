"""Which threads serve a request: what waits for one thing doesn't wait for the others."""

import re
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

BODY_BYTES = 64 * 2**10
HEALTH, LISTS, OLLAMA, DOWNLOADS = "health", "lists", "ollama", "downloads"
WORK, BODIES, PASSED = "work", "bodies", "passed"
PASSED_A_THREAD = 4
"""Requests that go through to Ollama at once, for each thread that works: they only wait."""

TURN_SECONDS = 0.1

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,18})[ \t]*\r\n", re.I)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:", re.I)
_PASSED = re.compile(rb"[A-Z]+ /(?:api|v1)/(?!blobs/|create[ ?])")
_READS = re.compile(rb"(?:GET|HEAD|OPTIONS) ([^ ?]*)")


class Turns:
    """Has requests begin one after the other: the next once the one before gives its turn back, or
    has had it for `seconds`. Many that run at once are no faster, as only one may use the
    interpreter: they keep it from whatever else is to be answered."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._changed = threading.Condition()
        self._holder: object | None = None
        self._until = 0.0

    def take(self) -> Callable[[], None]:
        """Wait for a turn, and return what gives it back."""
        turn = object()
        with self._changed:
            while self._holder is not None and (left := self._until - time.monotonic()) > 0:
                self._changed.wait(left)
            self._holder, self._until = turn, time.monotonic() + self.seconds
        return partial(self._give_back, turn)

    def _give_back(self, turn: object) -> None:
        with self._changed:
            if self._holder is turn:
                self._holder = None
                self._changed.notify()


class Threads:
    """Up to `count` threads, on which requests begin in turns of `turn_seconds`: 0 is for those
    that do little but wait. Where it is the `newest_first` that is served, whoever asks while
    hundreds wait is answered at once: clients that wait long have mostly gone."""

    def __init__(
        self,
        count: int,
        name: str,
        *,
        newest_first: bool = False,
        turn_seconds: float = TURN_SECONDS,
    ) -> None:
        self.pool = ThreadPoolExecutor(count, name)
        self._waiting: deque[Work] = deque()
        self._next = self._waiting.pop if newest_first else self._waiting.popleft
        self._turns = Turns(turn_seconds)

    @property
    def is_awaited(self) -> bool:
        """Whether a request waits for a thread."""
        return bool(self._waiting)

    def submit(self, work: "Work") -> None:
        """Have one of the threads do the work when its turn comes."""
        self._waiting.append(work)
        self.pool.submit(self._work)

    def _work(self) -> None:
        give_back = self._turns.take()
        try:
            self._next()(give_back)
        finally:
            give_back()


Work = Callable[[Callable[[], None]], None]
"""What is to be done on a thread. It is given what gives its turn back, to be called before it
waits for long; what has no turn any more gives none back."""


def threads_for(request: bytes | bytearray) -> str | None:
    """Which threads are to serve the request that these bytes begin, or None while it is to be
    waited for: a whole head, and a whole body where that is small."""
    end = request.find(b"\r\n\r\n") + 4
    if end < 4:
        return None
    head = bytes(request[:end])
    length = _LENGTH.search(head)
    passed = PASSED if _PASSED.match(head) else None
    if _CHUNKED.search(head):
        return passed or BODIES
    if length:
        size = int(length[1])
        if size > BODY_BYTES:
            return passed or BODIES
        if len(request) < end + size:
            return (passed or BODIES) if b"100-continue" in head.lower() else None
    reads = _READS.match(head)
    if passed or reads is None:
        return passed or WORK
    path = reads[1]
    if path.endswith(b"/download"):
        return DOWNLOADS
    if path == b"/readyz" or path.startswith(b"/ollama/"):
        return OLLAMA
    return HEALTH if path == b"/healthz" else LISTS

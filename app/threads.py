"""Which threads serve a request: what waits for one thing doesn't wait for the others."""

import re
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

BODY_BYTES = 64 * 2**10
HEALTH, LISTS, OLLAMA, DOWNLOADS = "health", "lists", "ollama", "downloads"
WORK, BODIES, PASSED = "work", "bodies", "passed"
PASSED_A_THREAD = 4
"""Requests that go through to Ollama at once, for each thread that works: they only wait."""

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,18})[ \t]*\r\n", re.I)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:", re.I)
_PASSED = re.compile(rb"[A-Z]+ /(?:api|v1)/(?!blobs/|create[ ?])")
_READS = re.compile(rb"(?:GET|HEAD|OPTIONS) ([^ ?]*)")


class Threads:
    """Up to `count` threads. Where it is the `newest_first` that is served, whoever asks while
    hundreds wait is answered at once: clients that wait long have mostly gone."""

    def __init__(self, count: int, name: str, *, newest_first: bool = False) -> None:
        self.pool = ThreadPoolExecutor(count, name)
        self._waiting: deque[Callable[[], None]] = deque()
        self._next = self._waiting.pop if newest_first else self._waiting.popleft

    @property
    def is_awaited(self) -> bool:
        """Whether a request waits for a thread."""
        return bool(self._waiting)

    def submit(self, work: Callable[[], None]) -> None:
        """Have one of the threads do the work when its turn comes."""
        self._waiting.append(work)
        self.pool.submit(lambda: self._next()())


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

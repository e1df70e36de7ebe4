"""A request on its way to a server and back, as it is, in bounded memory."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass

import requests

from app.progress import CANCEL, Cancel, Cancelled

BLOCK = 2**16
QUEUED_BLOCKS = 8
POLL_SECONDS = 0.5
# Of one connection, not of what it carries. Source: RFC 9110, section 7.6.1.
HOP_BY_HOP = frozenset(
    (
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization"),
        *("proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"),
    )
)


@dataclass(frozen=True)
class Head:
    """The beginning of an answer: its status, and the headers that go on with it."""

    status: int
    headers: list[tuple[str, str]]


def end_to_end(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The headers that are meant for whoever is at the other end."""
    given = list(headers)
    named = {
        name.strip().lower()
        for key, value in given
        if key.lower() == "connection"
        for name in value.split(",")
    }
    return [(name, value) for name, value in given if name.lower() not in HOP_BY_HOP | named]


class Body:
    """A request's body of unknown length as it goes on; `is_whole` once all of it was taken."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self.is_whole = False
        self._blocks = blocks

    def __iter__(self) -> Iterator[bytes]:
        yield from self._blocks
        self.is_whole = True


class SizedBody(Body):
    """A body of `size` bytes. Raises EOFError where there are fewer."""

    def __init__(self, blocks: Iterator[bytes], size: int) -> None:
        super().__init__(blocks)
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        left = self._size
        for block in self._blocks:
            left -= len(block)
            yield block
        if left:
            raise EOFError("The request's body is shorter than its Content-Length says.")
        self.is_whole = True


class Passage:
    """One request under way, on a thread of its own; what comes back is to be taken in order.

    `exchange` makes the request. `is_wanted` is asked while nothing comes, and the request is ended
    where it says no.
    """

    def __init__(
        self,
        exchange: Callable[[], AbstractContextManager[requests.Response]],
        is_wanted: Callable[[], bool],
    ) -> None:
        self._exchange = exchange
        self._is_wanted = is_wanted
        self._queue: queue.Queue[Head | bytes | BaseException | None] = queue.Queue(QUEUED_BLOCKS)
        self._cancel = Cancel()
        self._thread = threading.Thread(target=self._run, name="passage", daemon=True)
        self._thread.start()

    def head(self) -> Head:
        """The answer's beginning. Raises what the exchange raises, and Cancelled."""
        head = self._next()
        assert isinstance(head, Head)
        return head

    def blocks(self) -> Iterator[bytes]:
        """The answer's body, each block as soon as there is any; raises as `head`."""
        while isinstance(block := self._next(), bytes):
            yield block

    def close(self) -> None:
        """End the request, wherever it is."""
        self._cancel.set()
        while self._thread.is_alive():
            with suppress(queue.Empty):
                while True:
                    self._queue.get_nowait()
            self._thread.join(0.05)

    def _next(self) -> Head | bytes | None:
        while True:
            try:
                item = self._queue.get(timeout=POLL_SECONDS)
            except queue.Empty:
                if not self._is_wanted():
                    raise Cancelled from None
                continue
            if isinstance(item, BaseException):
                raise item
            return item

    def _run(self) -> None:
        CANCEL.set(self._cancel)
        end: BaseException | None = None
        try:
            with self._exchange() as response:
                self._put(Head(response.status_code, end_to_end(response.raw.headers.items())))
                while block := response.raw.read1(BLOCK, decode_content=False):
                    self._put(block)
        except BaseException as error:
            end = error
        self._queue.put(end)

    def _put(self, item: Head | bytes) -> None:
        self._cancel.check()
        self._queue.put(item)

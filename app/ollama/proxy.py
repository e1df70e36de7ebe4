"""A request passed on to a server, and its answer passed back, unchanged, in bounded memory."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import requests

from app.progress import Cancel, Cancelled, followed

BLOCK = 2**16
QUEUED_BLOCKS = 8
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


class ProxiedRequest:
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
        self._cancel = Cancel()
        self._items = followed(self._run, self._cancel, QUEUED_BLOCKS)

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
        self._items.close()

    def _next(self) -> Head | bytes | None:
        for item in self._items:
            if item is not None:
                return item
            if not self._is_wanted():
                raise Cancelled
        return None

    def _run(self, put: Callable[[Head | bytes], None]) -> None:
        with self._exchange() as response:
            put(Head(response.status_code, end_to_end(response.raw.headers.items())))
            while block := response.raw.read1(BLOCK, decode_content=False):
                self._cancel.check()
                put(block)

"""A client's connection whose every wait is bounded."""

import errno
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from gunicorn.http.unreader import SocketUnreader
from werkzeug.exceptions import RequestTimeout

BACKLOG_BYTES = 4 * 2**20
FIRST_RECEIVED, MOST_RECEIVED = 32 * 2**10, 2**20
"""How much is taken at once: little at first, so that not much more has come than what tells that a
body is of no use."""
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
SILENT_SECONDS = 5.0

TOO_SLOW = "The request arrived too slowly. Send it again over a faster connection."
TAKEN_OVER = "Nothing more arrived, and another request goes on with this upload."


class TooSlow(RequestTimeout):
    """The client sends its request's body too slowly."""


class Unread(ConnectionResetError):
    """The client doesn't read what it is sent."""


class Connection(socket.socket):
    """A connection, taken over from `accepted`.

    A request's body must be there `request_seconds` after `begin`, unless `expect_upload` was
    called. The client may leave what it is sent unread for `unread_seconds`. `unread_since` is when
    (monotonic) whoever sends began to wait for it. `before_waiting` is called each time before a
    thread waits for the client.
    """

    def __init__(
        self, accepted: socket.socket, request_seconds: float, unread_seconds: float
    ) -> None:
        super().__init__(fileno=accepted.detach())
        self._request_seconds = request_seconds
        self._unread_seconds = unread_seconds
        self._backlog: bytearray | None = None
        self.unread_since: float | None = None
        self.before_waiting: Callable[[], None] = _do_nothing
        self.begin()

    @property
    def backlog_bytes(self) -> int:
        """How much is kept that the client hasn't read."""
        return len(self._backlog or b"")

    def begin(self, *, keeps_backlog: bool = False, is_late: bool = False) -> None:
        """A request begins. Where it `keeps_backlog`, what the client doesn't read at once, up to
        BACKLOG_BYTES, is kept for `flush`, so that no thread waits for it. Where it `is_late`, its
        time has passed already: `receive` waits no more."""
        self._window, self._rate = (0.0 if is_late else self._request_seconds), 0
        self._is_late = is_late
        self._waited, self._arrived = 0.0, 0
        self._is_upload = False
        self._is_taken_over: Callable[[], bool] | None = None
        self._backlog = bytearray() if keeps_backlog else None
        self.withholds_continue = False
        self._most = FIRST_RECEIVED
        self.ends_with(_do_nothing)

    def ends_with(self, end: Callable[[], None]) -> None:
        """`end` has the answer to this request say that the connection ends with it."""
        self.end_with_answer = end

    def withhold_continue(self) -> None:
        """The client waits for `100 Continue` before it sends the body: it is told so once the body
        is read, so that what is refused before is never sent (RFC 9110, section 10.1.1)."""
        self.withholds_continue = True

    def expect_upload(
        self, window: float, rate: int, is_taken_over: Callable[[], bool] | None = None
    ) -> None:
        """Within each `window` seconds of waiting, `rate` bytes a second must arrive, and some.

        Where the client has been silent for SILENT_SECONDS, and each time again, `is_taken_over`
        is asked: if another request goes on with the upload, this one ends.
        """
        if self._is_late:
            return
        self._is_taken_over = is_taken_over
        self._window, self._rate, self._is_upload = window, max(rate, 1), True
        self._waited, self._arrived = 0.0, 0

    def receive(self, size: int) -> bytes:
        """The next bytes of a body, at most `size`. Raises TooSlow."""
        if self.withholds_continue:
            self.withholds_continue = False
            self.sendall(CONTINUE)
        while True:
            started = time.monotonic()
            left = self._window - self._waited
            patience = min(left, SILENT_SECONDS) if self._is_taken_over else left
            data = self._received(min(size, self._most), max(patience, 0.001))
            self._most = min(2 * self._most, MOST_RECEIVED)
            self._waited += time.monotonic() - started
            self._arrived += len(data or b"")
            if data is None and self._is_taken_over and patience < left:
                if self._is_taken_over():
                    raise TooSlow(TAKEN_OVER)
                continue
            if data is None or (self._is_upload and self._waited >= self._window):
                self._end_window()
            if data is not None:
                return data

    def _received(self, size: int, seconds: float) -> bytes | None:
        """What has arrived or arrives within that time; None for nothing."""
        with suppress(BlockingIOError):
            return self.recv(size, socket.MSG_DONTWAIT)
        self.before_waiting()
        self.settimeout(seconds)
        try:
            return self.recv(size)
        except TimeoutError:
            return None
        finally:
            self.settimeout(None)

    def _end_window(self) -> None:
        """Begin the next window. Raises TooSlow unless enough has arrived in this one."""
        if not self._is_upload or self._arrived < self._rate * self._window:
            raise TooSlow(TOO_SLOW)
        self._waited, self._arrived = 0.0, 0

    def sendall(self, data: bytes, flags: int = 0) -> None:  # type: ignore[override]
        """Send everything. Raises Unread where the client reads nothing for too long."""
        left = memoryview(data)
        if self._backlog is not None:
            if not self._backlog:
                left = left[self._send_now(left) :]
            if len(self._backlog) + len(left) <= BACKLOG_BYTES:
                self._backlog += left
                return
            left = memoryview(bytes(self._backlog) + left)
            self._backlog.clear()
        left = left[self._send_now(left) :]
        if not left:
            return
        self.before_waiting()
        self.settimeout(self._unread_seconds)
        try:
            while left:
                self.unread_since = time.monotonic()
                left = left[self.send(left, flags) :]
        except TimeoutError:
            raise Unread(errno.ECONNRESET, "The client reads nothing.") from None
        finally:
            self.unread_since = None
            self.settimeout(None)

    def flush(self) -> bool:
        """Send of what was kept as much as goes at once; whether nothing is left."""
        if self._backlog:
            del self._backlog[: self._send_now(memoryview(bytes(self._backlog[: 2**18])))]
        return not self._backlog

    def _send_now(self, data: memoryview) -> int:
        try:
            return self.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0


def _do_nothing() -> None:
    """What is done where nobody wants to know."""


class BodyReader(SocketUnreader):  # type: ignore[misc]
    """Reads a request from a Connection for gunicorn, within the connection's bounds."""

    def chunk(self, size_hint: int | None = None) -> bytes:
        """The next piece of what the client sends."""
        connection: Connection = self.sock
        if connection.gettimeout() is not None:  # gunicorn discards a body, with a bound of its own
            piece: bytes = super().chunk(size_hint)
            return piece
        size = min(max(size_hint or 0, self.mxchunk), self.max_body_chunk)
        return connection.receive(size)


def is_unread(body: Any) -> bool:
    """Whether more of a request's body (`wsgi.input`) may come than has, as gunicorn has it."""
    reader: Any = getattr(body, "reader", None)
    if hasattr(reader, "parser"):
        return reader.parser is not None
    return hasattr(reader, "length") and bool(reader.length > reader.unreader.buf.tell())


def pieces(body: Any, most: int) -> Iterator[bytes]:
    """A request's body (`wsgi.input`) in pieces of at most `most` bytes: each as soon as it is
    there, where gunicorn has it, whose own read waits for all that was asked for."""
    reader = getattr(body, "reader", None)
    buffered = reader if hasattr(reader, "buf") else getattr(reader, "unreader", None)
    if buffered is None:
        yield from iter(partial(body.read, most), b"")
        return
    while first := body._read_reader(1):
        waiting = min(buffered.buf.tell(), most - 1)
        yield first + (body._read_reader(waiting) if waiting else b"")

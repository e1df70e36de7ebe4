"""A request's body, read as it comes, whether it has a length or comes in chunks."""

from collections.abc import Callable
from email.message import Message
from typing import BinaryIO


class Body:
    """`read` gives the next bytes, at most as many as asked for, and nothing at the end.

    A client that waits for "100 Continue" gets it at the first read. `left` is what the client
    still has to send: None while that isn't known.
    """

    def __init__(
        self, file: BinaryIO, headers: Message, send_continue: Callable[[], object]
    ) -> None:
        self._file = file
        self.is_chunked = "chunked" in headers.get("Transfer-Encoding", "").lower()
        self.is_awaited = headers.get("Expect", "").lower() == "100-continue"
        self._send_continue = send_continue
        self._in_part = 0 if self.is_chunked else int(headers.get("Content-Length") or 0)
        self._is_ended = not self.is_chunked and not self._in_part
        self.count = 0

    @property
    def left(self) -> int | None:
        """Bytes to come, None if unknown."""
        if self._is_ended:
            return 0
        return None if self.is_chunked or self.is_awaited else self._in_part

    def read(self, size: int) -> bytes:
        """Up to `size` bytes. Raises ConnectionError if the client leaves before the end."""
        if self._is_ended:
            return b""
        if self.is_awaited:
            self.is_awaited = False
            self._send_continue()
        if self.is_chunked and not self._in_part and not self._open_chunk():
            return b""
        data = self._file.read(min(size, self._in_part))
        if not data:
            raise ConnectionError("unexpected EOF")
        self._in_part -= len(data)
        self.count += len(data)
        if not self._in_part:
            if self.is_chunked:
                self._file.readline()
            else:
                self._is_ended = True
        return data

    def read_all(self, limit: int) -> bytes:
        """The whole body. Raises ConnectionError if it is longer than `limit`."""
        parts = bytearray()
        while data := self.read(limit):
            parts += data
            if len(parts) > limit:
                raise ConnectionError("request body too large")
        return bytes(parts)

    def _open_chunk(self) -> bool:
        try:
            self._in_part = int(self._file.readline(1024).partition(b";")[0], 16)
        except ValueError:
            raise ConnectionError("malformed chunked encoding") from None
        if not self._in_part:
            while self._file.readline(65536).strip():
                pass
            self._is_ended = True
        return bool(self._in_part)

"""multipart/form-data (RFC 7578, RFC 2046 section 5.1), read in pieces as large as they arrive.

Werkzeug's parser copies every byte several times, which for a model costs more than writing it. The
package multipart is as fast, but takes a part without content and without a line end of its own,
which RFC 2046 allows and Werkzeug's test client writes, together with the next part for one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.http import parse_options_header

from app.planning.options import BadRequest

BLOCK = 2**20
MAX_PARTS = 50
MAX_HEADERS = 16
MAX_HEADER_BYTES = 16 * 2**10


@dataclass(frozen=True)
class Part:
    """One field: `filename` is None unless it is a file. `content` is to be read before the next
    part is asked for."""

    name: str
    filename: str | None
    content: Iterator[bytes]


def form_parts(
    read: Callable[[int], bytes], boundary: str, most_files: int = MAX_PARTS
) -> Iterator[Part]:
    """Each part of the form that `read(size)` gives; `boundary` as in the Content-Type.

    Raises BadRequest for what is no form or not a whole one, RequestEntityTooLarge for more than
    MAX_PARTS fields or `most_files` files, or MAX_HEADERS lines of MAX_HEADER_BYTES in a part's
    head; also while a part's content is read.
    """
    fields = files = 0
    for part in _FormReader(read, boundary).parts():
        fields += part.filename is None
        files += part.filename is not None
        if fields > MAX_PARTS or files > most_files:
            raise RequestEntityTooLarge
        yield part


def _no_form() -> BadRequest:
    return BadRequest(
        "The form can't be read: it is cut off, or its parts don't match its boundary."
    )


class _FormReader:
    """Reads the parts of the form that `read(size)` gives; `boundary` as in the Content-Type."""

    def __init__(self, read: Callable[[int], bytes], boundary: str) -> None:
        self._read = read
        self._delimiter = b"\r\n--" + boundary.encode()
        self._buffer = b"\r\n"  # The first delimiter needs no line before it.

    def parts(self) -> Iterator[Part]:
        """Each part in turn. Raises BadRequest, also while a part's content is read."""
        for _ in self._content():
            pass
        while not self._is_last():
            if self._line().strip():
                raise _no_form()
            disposition = ""
            lines = 0
            while line := self._line():
                lines += 1
                if lines > MAX_HEADERS or len(line) > MAX_HEADER_BYTES:
                    raise RequestEntityTooLarge
                name, _, value = line.decode(errors="replace").partition(":")
                if name.strip().lower() == "content-disposition":
                    disposition = value.strip()
            kind, options = parse_options_header(disposition)
            if kind != "form-data" or "name" not in options:
                raise _no_form()
            # The empty line's own end may be the beginning of the delimiter.
            self._buffer = b"\r\n" + self._buffer
            content = self._content(skip=2)
            yield Part(options["name"], options.get("filename"), content)
            for _ in content:
                pass

    def _content(self, skip: int = 0) -> Iterator[bytes]:
        """What comes before the next delimiter, without its first `skip` bytes; takes that too."""
        delimiter = self._delimiter
        while (end := self._buffer.find(delimiter)) < 0:
            buffer = self._buffer
            end = buffer.rfind(b"\r", max(0, len(buffer) - len(delimiter) + 1))
            if end < 0 or not delimiter.startswith(buffer[end:]):
                end = len(buffer)
            if end > skip:
                yield buffer[skip:end] if skip else buffer[:end]
                skip, self._buffer = 0, buffer[end:]
            self._receive()
        if end > skip:
            yield self._buffer[skip:end]
        self._buffer = self._buffer[end + len(delimiter) :]

    def _is_last(self) -> bool:
        """Whether the delimiter that was taken ends the form."""
        while len(self._buffer) < 2:
            self._receive()
        return self._buffer.startswith(b"--")

    def _line(self) -> bytes:
        """The rest of a line, without its end."""
        while (end := self._buffer.find(b"\r\n")) < 0:
            if len(self._buffer) > MAX_HEADER_BYTES:
                raise RequestEntityTooLarge
            self._receive()
        line, self._buffer = self._buffer[:end], self._buffer[end + 2 :]
        return line

    def _receive(self) -> None:
        block = self._read(BLOCK)
        if not block:
            raise _no_form()
        self._buffer = self._buffer + block if self._buffer else block

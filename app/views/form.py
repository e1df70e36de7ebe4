"""multipart/form-data (RFC 7578, RFC 2046 section 5.1), read in pieces as large as they arrive.

Werkzeug's parser copies every byte several times, which for a model costs more than writing it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from werkzeug.http import parse_options_header

BLOCK = 2**20
HEADER_BYTES = 16 * 2**10


class FormError(ValueError):
    """The body isn't a form, or not a whole one."""


@dataclass(frozen=True)
class Part:
    """One field: `filename` is None unless it is a file. `content` is to be read before the next
    part is asked for."""

    name: str
    filename: str | None
    content: Iterator[bytes]


class FormReader:
    """Reads the parts of the form that `read(size)` gives; `boundary` as in the Content-Type."""

    def __init__(self, read: Callable[[int], bytes], boundary: str) -> None:
        self._read = read
        self._delimiter = b"\r\n--" + boundary.encode()
        self._buffer = b"\r\n"  # The first delimiter needs no line before it.

    def parts(self) -> Iterator[Part]:
        """Each part in turn. Raises FormError, also while a part's content is read."""
        for _ in self._content():
            pass
        while not self._is_last():
            if self._line().strip():
                raise FormError("A delimiter goes on in its line.")
            disposition = ""
            while line := self._line():
                name, _, value = line.decode(errors="replace").partition(":")
                if name.strip().lower() == "content-disposition":
                    disposition = value.strip()
            kind, options = parse_options_header(disposition)
            if kind != "form-data" or "name" not in options:
                raise FormError("A part has no name.")
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
            if len(self._buffer) > HEADER_BYTES:
                raise FormError("A part's header has no end.")
            self._receive()
        line, self._buffer = self._buffer[:end], self._buffer[end + 2 :]
        return line

    def _receive(self) -> None:
        block = self._read(BLOCK)
        if not block:
            raise FormError("The form is cut off.")
        self._buffer = self._buffer + block if self._buffer else block

"""How Go's HTTP server and gin put an answer on the wire: headers, lengths, chunks."""

from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any

from . import go_json
from .body import Body

JSON = "application/json; charset=utf-8"
BARE_JSON = "application/json"
NDJSON = "application/x-ndjson"
TEXT = "text/plain; charset=utf-8"

_LONGEST_WITH_LENGTH = 2048  # Go sends longer bodies in chunks
_DRAINED = 256 << 10  # and reads this much of a body that no handler read


class Wire(BaseHTTPRequestHandler):
    """Sends answers; `body` is the body of the request that is being answered."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    body: Body

    def open_body(self) -> None:
        """Make `body` ready; nothing is read yet."""
        self.body = Body(self.rfile, self.headers, super().handle_expect_100)  # type: ignore[arg-type]

    def handle_expect_100(self) -> bool:
        """Leave "100 Continue" to the first read of the body, as Go does."""
        return True

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def linger(self) -> None:
        """Called where the connection will be closed with a body left unread."""
        raise NotImplementedError

    def refuse(self, status: int, message: str) -> None:
        """Answer with an error in Ollama's form."""
        self.send(status, go_json.encode({"error": message}), JSON)

    def send_json(self, value: Any, content_type: str = JSON) -> None:
        """Answer 200 with `value`."""
        self.send(HTTPStatus.OK, go_json.encode(value), content_type)

    def send(self, status: int, content: bytes = b"", content_type: str | None = None) -> None:
        """Answer with a whole body; none of it for HEAD."""
        if len(content) > _LONGEST_WITH_LENGTH:
            self.start_stream(status, content_type)
            self.send_line(content)
            self.end_stream()
            return
        self._start(status, content_type)
        if self.command != "HEAD" or content:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _start(self, status: int, content_type: str | None) -> None:
        left = self.body.left
        if left is not None and left <= _DRAINED:
            while self.body.read(_DRAINED):
                pass
        else:
            self.close_connection = True
            self.linger()
        self.send_response_only(status)
        if content_type:
            self.send_header("Content-Type", content_type)
        self.send_header("Date", self.date_time_string())
        if self.close_connection:
            self.send_header("Connection", "close")

    def start_stream(self, status: int = 200, content_type: str | None = NDJSON) -> None:
        """Begin an answer of unknown length."""
        self._start(status, content_type)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def send_line(self, line: bytes) -> None:
        """Send the next piece of a stream, at once."""
        if self.command != "HEAD" and line:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(line), line))

    def end_stream(self) -> None:
        """End a stream."""
        if self.command != "HEAD":
            self.wfile.write(b"0\r\n\r\n")

"""One connection of the stand-in: Ollama's routes, status codes, headers and streams."""

import socket
import struct
from collections.abc import Callable, Iterable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from . import go_json
from .access import is_host_allowed, is_origin_allowed
from .body import Body
from .create import CreateError, Creation
from .create_request import BadRequest, CreateRequest, decode
from .faults import Fault, Recorded
from .names import Name
from .store import DigestError

if TYPE_CHECKING:
    from .server import Server

JSON = "application/json; charset=utf-8"
BARE_JSON = "application/json"
NDJSON = "application/x-ndjson"
TEXT = "text/plain; charset=utf-8"

_BLOBS = "/api/blobs/"
_BODY_LIMIT = 64 << 20
_LONGEST_WITH_LENGTH = 2048  # Go's server sends longer bodies in chunks
_DRAINED = 256 << 10  # and reads this much of a body that no handler read


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "Server"
    body: Body
    content: bytes
    recorded: Recorded

    def handle_request(self) -> None:
        """Record, hold, then fail as told or answer."""
        path = unquote(urlsplit(self.path).path)
        self.body = Body(self.rfile, self.headers, super().handle_expect_100)  # type: ignore[arg-type]
        self.recorded = Recorded(self.command, path)
        self.content = b"" if path.startswith(_BLOBS) else self.body.read_all(_BODY_LIMIT)
        self.recorded.body_bytes = len(self.content)
        try:
            self.recorded.json = go_json.decode(self.content)
        except (EOFError, ValueError):
            self.recorded.json = None
        self.server.script.record(self.recorded)
        fault = self.server.script.take_fault(self.recorded)
        if path != "/api/create":
            self._hold()
        if fault:
            self._fail(fault)
        elif self._is_allowed():
            self._route(path)
        else:
            self._send(HTTPStatus.FORBIDDEN)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = handle_request

    def handle_expect_100(self) -> bool:
        """Leave "100 Continue" to the first read of the body, as Go does."""
        return True

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def _is_allowed(self) -> bool:
        host = self.headers.get("Host", "")
        return is_host_allowed(host) and is_origin_allowed(self.headers.get("Origin"), host)

    def _route(self, path: str) -> None:
        is_blob = path.startswith(_BLOBS) and "/" not in path.removeprefix(_BLOBS)
        methods = _ROUTES.get(_BLOBS if is_blob else path)
        if methods is None:
            self._send(HTTPStatus.NOT_FOUND, b"404 page not found", "text/plain")
            return
        if self.command not in methods:
            self._send(HTTPStatus.METHOD_NOT_ALLOWED, b"405 method not allowed", "text/plain")
            return
        try:
            methods[self.command](self)
        except BadRequest as error:
            self._send_error(HTTPStatus.BAD_REQUEST, str(error))

    def root(self) -> None:
        self._send(HTTPStatus.OK, b"Ollama is running", TEXT)

    def version(self) -> None:
        self._send_json({"version": self.server.behaviour.version})

    def head_blob(self) -> None:
        digest = self._digest()
        if self.server.store.blob_path(digest).exists():
            self._send(HTTPStatus.OK)
        else:
            self._send_error(HTTPStatus.NOT_FOUND, f'blob "{digest}" not found')

    def post_blob(self) -> None:
        digest = self._digest()
        if self.server.store.blob_path(digest).exists():
            self._send(HTTPStatus.OK)
            return
        stored = self.server.store.add(self._read_counted)
        if stored.digest == digest:
            self._send(HTTPStatus.CREATED)
        else:
            mismatch = f'digest mismatch, expected "{digest}", got "{stored.digest}"'
            self._send_error(HTTPStatus.BAD_REQUEST, mismatch)

    def create(self) -> None:
        try:
            request = CreateRequest.parse(decode(self.content), self.server.behaviour)
        except BadRequest:
            self._hold()
            raise
        lines = Creation(self.server.store, self.server.behaviour, request).run()
        first = last = None
        try:
            for last in lines:
                if first is None and request.stream:
                    self._start_stream()
                if request.stream:
                    self._send_line(go_json.encode(last) + b"\n")
                if first is None:
                    first = last
                    self._hold()
        except CreateError as error:
            self._fail_create(error, is_streaming=request.stream, is_started=first is not None)
            return
        if request.stream:
            self._end_stream()
        else:
            self._send_json(last, content_type=BARE_JSON)

    def _fail_create(self, error: CreateError, *, is_streaming: bool, is_started: bool) -> None:
        line = go_json.encode({"error": str(error)})
        if not is_started:
            self._hold()
        if is_streaming and is_started:
            self._send_line(line + b"\n")
            self._end_stream()
        elif is_streaming:
            self._start_stream(error.status, BARE_JSON)
            self._send_line(line)
            self._end_stream()
        else:
            self._send(error.status, line, BARE_JSON)

    def tags(self) -> None:
        self._send_json({"models": self.server.models.listed()})

    def v1_models(self) -> None:
        data = [
            {
                "id": name.shortest,
                "object": "model",
                "created": int(manifest.modified.timestamp()),
                "owned_by": name.namespace,
            }
            for name, manifest in self.server.store.models()
        ]
        self._send_json({"object": "list", "data": data or None}, content_type=BARE_JSON)

    def ps(self) -> None:
        self._send_json({"models": []})

    def show(self) -> None:
        given = self._given_name()
        if not given:
            raise BadRequest("model is required")
        name = Name.parse(given)
        is_resolved = self.server.behaviour.resolves_shown_name
        if not name.valid and is_resolved:
            raise BadRequest("invalid model name")
        if not name.valid:
            full = f"{name.host}/{name.namespace}/{name.model}:{name.tag}"
            self._send_error(HTTPStatus.INTERNAL_SERVER_ERROR, f"unqualified name: {full}")
            return
        try:
            self._send_json(self.server.models.shown(name))
        except FileNotFoundError:
            self._send_absent(name.shortest if is_resolved else given)

    def copy(self) -> None:
        fields = self._fields()
        names = []
        for key in ("source", "destination"):
            name = Name.parse(str(fields.get(key) or ""))
            if not name.valid:
                raise BadRequest(f'{key} "{fields.get(key) or ""}" is invalid')
            names.append(name.spelled_as(self.server.store.names()))
        try:
            self.server.store.copy(*names)
        except FileNotFoundError:
            self._send_error(HTTPStatus.NOT_FOUND, f'model "{fields["source"]}" not found')
            return
        self._send(HTTPStatus.OK)

    def delete(self) -> None:
        given = self._given_name()
        name = Name.parse(given)
        if not name.valid:
            raise BadRequest(f'name "{given}" is invalid')
        try:
            self.server.store.delete(name.spelled_as(self.server.store.names()))
        except FileNotFoundError:
            self._send_absent(given)
            return
        self._send(HTTPStatus.OK)

    def generate(self) -> None:
        self._answer("response", str(self._fields().get("prompt") or ""))

    def chat(self) -> None:
        messages = self._fields().get("messages") or []
        text = " ".join(str(message.get("content", "")) for message in messages)
        self._answer("message", text)

    def _answer(self, key: str, text: str) -> None:
        given = self._given_name()
        try:
            _, manifest = self.server.models.find(Name.parse(given))
        except FileNotFoundError:
            self._send_absent(given)
            return
        if not self.server.models.can_run(manifest):
            failure = "llama runner process has terminated: exit status 2"
            self._send_error(HTTPStatus.INTERNAL_SERVER_ERROR, failure)
            return
        lines = list(self.server.models.answer(given, key, text))
        if self._fields().get("stream") is not False:
            self._stream(go_json.encode(line) + b"\n" for line in lines)
            return
        whole = lines[-1]
        if key == "message":
            said = "".join(line["message"]["content"] for line in lines)
            whole["message"] = {"role": "assistant", "content": said}
        else:
            whole["response"] = "".join(line["response"] for line in lines)
        self._send_json(whole)

    def _digest(self) -> str:
        digest = self.recorded.path.removeprefix(_BLOBS)
        try:
            self.server.store.blob_path(digest or "-")
        except DigestError as error:
            raise BadRequest(str(error)) from None
        return digest

    def _fields(self) -> dict[str, Any]:
        fields = decode(self.content)
        return fields if isinstance(fields, dict) else {}

    def _given_name(self) -> str:
        fields = self._fields()
        return str(fields.get("model") or fields.get("name") or "")

    def _read_counted(self, size: int) -> bytes:
        data = self.body.read(size)
        self.recorded.body_bytes = self.body.count
        return data

    def _hold(self) -> None:
        self.server.script.hold(self.recorded)

    def _fail(self, fault: Fault) -> None:
        is_create = self.recorded.path == "/api/create"
        if fault.lines is not None:
            self._stream(fault.lines)
            return
        if not fault.reset:
            if is_create:
                self._hold()
            self._send(fault.status, fault.body, JSON if fault.body else None)
            return
        if is_create:
            self._start_stream()
            self._send_line(b'{"status":"parsing GGUF"}\n')
            self._hold()
        elif self.body.left != 0:
            self._read_counted(_LONGEST_WITH_LENGTH)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.server.reset_at_end(self.connection)
        self.close_connection = True

    def _send_absent(self, model: str) -> None:
        self._send_error(HTTPStatus.NOT_FOUND, f"model '{model}' not found")

    def _send_error(self, status: int, message: str) -> None:
        self._send(status, go_json.encode({"error": message}), JSON)

    def _send_json(self, value: Any, content_type: str = JSON) -> None:
        self._send(HTTPStatus.OK, go_json.encode(value), content_type)

    def _send(self, status: int, content: bytes = b"", content_type: str | None = None) -> None:
        if len(content) > _LONGEST_WITH_LENGTH:
            self._start_stream(status, content_type)
            self._send_line(content)
            self._end_stream()
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
            self.server.linger_at_end(self.connection)
        self.send_response_only(status)
        if content_type:
            self.send_header("Content-Type", content_type)
        self.send_header("Date", self.date_time_string())
        if self.close_connection:
            self.send_header("Connection", "close")

    def _start_stream(self, status: int = 200, content_type: str | None = NDJSON) -> None:
        self._start(status, content_type)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _send_line(self, line: bytes) -> None:
        if self.command != "HEAD" and line:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(line), line))

    def _end_stream(self) -> None:
        if self.command != "HEAD":
            self.wfile.write(b"0\r\n\r\n")

    def _stream(self, lines: Iterable[bytes]) -> None:
        self._start_stream()
        for index, line in enumerate(lines):
            self._send_line(line)
            if not index and self.recorded.path == "/api/create":
                self._hold()
        self._end_stream()


_Answer = Callable[[Handler], None]
_ROUTES: dict[str, dict[str, _Answer]] = {
    "/": {"GET": Handler.root, "HEAD": Handler.root},
    "/api/version": {"GET": Handler.version, "HEAD": Handler.version},
    _BLOBS: {"HEAD": Handler.head_blob, "POST": Handler.post_blob},
    "/api/create": {"POST": Handler.create},
    "/api/tags": {"GET": Handler.tags, "HEAD": Handler.tags},
    "/api/show": {"POST": Handler.show},
    "/api/copy": {"POST": Handler.copy},
    "/api/delete": {"DELETE": Handler.delete},
    "/api/ps": {"GET": Handler.ps},
    "/api/generate": {"POST": Handler.generate},
    "/api/chat": {"POST": Handler.chat},
    "/v1/models": {"GET": Handler.v1_models},
}

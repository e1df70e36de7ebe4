"""One connection of the stand-in: Ollama's routes and what each answers."""

import socket
import struct
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from . import go_json
from .access import is_host_allowed, is_origin_allowed
from .create import CreateError, Creation
from .create_request import BadRequest, CreateRequest, decode
from .faults import Fault, Recorded
from .names import Name
from .store import DigestError
from .wire import BARE_JSON, JSON, TEXT, Wire

if TYPE_CHECKING:
    from .server import Server

_BLOBS = "/api/blobs/"
_BODY_LIMIT = 64 << 20
_PIECE = 64 << 10


class Handler(Wire):
    """Answers the requests of one connection."""

    server: "Server"
    content: bytes
    recorded: Recorded

    def handle_request(self) -> None:
        """Record, hold, then fail as told or answer."""
        path = unquote(urlsplit(self.path).path)
        self.open_body()
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
            self.send(HTTPStatus.FORBIDDEN)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = handle_request

    def linger(self) -> None:
        """Let the answer land before the connection is closed."""
        self.server.linger_at_end(self.connection)

    def _is_allowed(self) -> bool:
        host = self.headers.get("Host", "")
        return is_host_allowed(host) and is_origin_allowed(self.headers.get("Origin"), host)

    def _route(self, path: str) -> None:
        is_blob = path.startswith(_BLOBS) and "/" not in path.removeprefix(_BLOBS)
        methods = _ROUTES.get(_BLOBS if is_blob else path)
        if methods is None:
            self.send(HTTPStatus.NOT_FOUND, b"404 page not found", "text/plain")
            return
        if self.command not in methods:
            self.send(HTTPStatus.METHOD_NOT_ALLOWED, b"405 method not allowed", "text/plain")
            return
        try:
            methods[self.command](self)
        except BadRequest as error:
            self.refuse(HTTPStatus.BAD_REQUEST, str(error))

    def root(self) -> None:
        self.send(HTTPStatus.OK, b"Ollama is running", TEXT)

    def version(self) -> None:
        self.send_json({"version": self.server.behaviour.version})

    def head_blob(self) -> None:
        digest = self._digest()
        if self.server.store.blob_path(digest).exists():
            self.send(HTTPStatus.OK)
        else:
            self.refuse(HTTPStatus.NOT_FOUND, f'blob "{digest}" not found')

    def post_blob(self) -> None:
        digest = self._digest()
        if self.server.store.blob_path(digest).exists():
            self.send(HTTPStatus.OK)
            return
        stored = self.server.store.add(self._read_counted)
        if stored.digest == digest:
            self.send(HTTPStatus.CREATED)
        else:
            mismatch = f'digest mismatch, expected "{digest}", got "{stored.digest}"'
            self.refuse(HTTPStatus.BAD_REQUEST, mismatch)

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
                    self.start_stream()
                if request.stream:
                    self.send_line(go_json.encode(last) + b"\n")
                if first is None:
                    first = last
                    self._hold()
        except CreateError as error:
            self._fail_create(error, is_streaming=request.stream, is_started=first is not None)
            return
        if request.stream:
            self.end_stream()
        else:
            self.send_json(last, content_type=BARE_JSON)

    def _fail_create(self, error: CreateError, *, is_streaming: bool, is_started: bool) -> None:
        line = go_json.encode({"error": str(error)})
        if not is_started:
            self._hold()
        if is_streaming and is_started:
            self.send_line(line + b"\n")
            self.end_stream()
        elif is_streaming:
            self.start_stream(error.status, BARE_JSON)
            self.send_line(line)
            self.end_stream()
        else:
            self.send(error.status, line, BARE_JSON)

    def tags(self) -> None:
        self.send_json({"models": self.server.models.listed()})

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
        self.send_json({"object": "list", "data": data or None}, content_type=BARE_JSON)

    def ps(self) -> None:
        self.send_json({"models": []})

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
            self.refuse(HTTPStatus.INTERNAL_SERVER_ERROR, f"unqualified name: {full}")
            return
        try:
            self.send_json(self.server.models.shown(name))
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
            self.refuse(HTTPStatus.NOT_FOUND, f'model "{fields["source"]}" not found')
            return
        self.send(HTTPStatus.OK)

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
        self.send(HTTPStatus.OK)

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
            self.refuse(HTTPStatus.INTERNAL_SERVER_ERROR, failure)
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
        self.send_json(whole)

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
            while self._read_counted(_PIECE):
                pass
            self.send(fault.status, fault.body, JSON if fault.body else None)
            return
        if is_create:
            self.start_stream()
            self.send_line(b'{"status":"parsing GGUF"}\n')
            self._hold()
        elif self.body.left != 0:
            self._read_counted(_PIECE)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.server.reset_at_end(self.connection)
        self.close_connection = True

    def _send_absent(self, model: str) -> None:
        self.refuse(HTTPStatus.NOT_FOUND, f"model '{model}' not found")

    def _stream(self, lines: Iterable[bytes]) -> None:
        self.start_stream()
        for index, line in enumerate(lines):
            self.send_line(line)
            if not index and self.recorded.path == "/api/create":
                self._hold()
        self.end_stream()


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

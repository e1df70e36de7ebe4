"""A reverse proxy to the first Ollama server, where MODEL_HANDLER_OLLAMA_PROXY is set."""

import errno
import logging
from collections.abc import Iterator
from functools import partial
from urllib.parse import quote

from flask import Response, current_app, request, stream_with_context
from werkzeug.exceptions import MethodNotAllowed, NotFound, RequestEntityTooLarge

from app.connection import Connection, pieces
from app.ollama.errors import OllamaError
from app.ollama.proxy import BLOCK, Body, ProxiedRequest, SizedBody, end_to_end
from app.planning.options import BadRequest
from app.progress import Cancelled
from app.views.answers import service
from app.views.ollama_protocol.answers import is_ollamas
from app.views.stream import GONE, client_is_there

RUNNING = "Ollama is running"
# Set anew for the server, or answered here already.
_NOT_SENT_ON = frozenset(("host", "content-length", "expect", "origin", "cookie", "x-api-key"))
_OWN_TO_SAY = ("access-control-", "date", "server")
_SET_BY_REQUESTS = ("User-Agent", "Accept", "Accept-Encoding")

log = logging.getLogger(__name__)


def answer_for_ollama() -> Response | None:
    """The answer to a request of Ollama's protocol that no view here is for; None for others."""
    if request.path == "/" and request.method in ("GET", "HEAD"):
        return _running() if _asks_whether_it_runs() else None
    if not is_ollamas(request) or request.url_rule is not None:
        return None
    if isinstance(request.routing_exception, MethodNotAllowed):
        return None
    if not current_app.config["OLLAMA_PROXY"]:
        raise NotFound(
            "This service answers /api/version, /api/create and /api/blobs/ itself. The rest goes"
            " through to Ollama where MODEL_HANDLER_OLLAMA_PROXY=1 is set."
        )
    return Response(status=204) if request.method == "OPTIONS" else _proxy()


def _asks_whether_it_runs() -> bool:
    """Whether an Ollama client asks for `/`, and not someone for the page."""
    if request.method == "HEAD":
        return True
    return current_app.config["OLLAMA_PROXY"] and "text/html" not in request.headers.get(
        "Accept", "text/html"
    )


def _running() -> Response:
    return Response(RUNNING, content_type="text/plain; charset=utf-8")


def _proxy() -> Response:
    if {".", ".."} & set(request.path.split("/")):
        raise NotFound("There is nothing at this address.")
    server, body = service().ollamas()[0], _body()
    exchange = partial(server.proxied, request.method, _target(), _headers(), body)
    proxied = ProxiedRequest(
        exchange, lambda: bool(body and not body.is_whole) or client_is_there()
    )
    try:
        head = proxied.head()
    except Cancelled:
        proxied.close()
        return Response(status=GONE.status)
    except BaseException as error:
        proxied.close()
        if isinstance(error, EOFError):
            raise BadRequest(str(error)) from error
        raise
    response = Response(stream_with_context(_until_the_end(proxied)), head.status)
    response.headers.clear()
    for name, value in head.headers:
        if not name.lower().startswith(_OWN_TO_SAY):
            response.headers.add(name, value)
    response.headers["X-Accel-Buffering"] = "no"
    response.call_on_close(proxied.close)
    return response


def _until_the_end(proxied: ProxiedRequest) -> Iterator[bytes]:
    """The blocks. Where the server breaks off, so is the answer: its client is to see that."""
    try:
        yield from proxied.blocks()
    except Cancelled:
        return
    except OllamaError as error:
        log.warning("%s %s broke off: %s", request.method, request.path, error)
        raise ConnectionResetError(errno.ECONNRESET, "The server broke off.") from error


def _target() -> str:
    """Path and query for the server."""
    query = request.query_string.decode("latin-1")
    return quote(request.path, safe="/:@!$&'()*+,;=~") + (f"?{query}" if query else "")


def _headers() -> dict[str, str | None]:
    """The client's headers, without the key and what is of its own connection."""
    left_out = set(_NOT_SENT_ON)
    if current_app.config["API_KEY"] is not None:
        left_out.add("authorization")
    sent = {
        name: value for name, value in end_to_end(request.headers) if name.lower() not in left_out
    }
    return {**dict.fromkeys(_SET_BY_REQUESTS), **sent}


def _body() -> Body | None:
    """What is sent on of the request's body, if it has one."""
    length = request.content_length
    is_chunked = "chunked" in request.headers.get("Transfer-Encoding", "").lower()
    if not length and not is_chunked:
        return None
    connection = request.environ.get("gunicorn.socket")
    if isinstance(connection, Connection):
        config = current_app.config
        connection.expect_upload(config["UPLOAD_TIMEOUT"], config["MIN_UPLOAD_RATE"])
    most = current_app.config["MAX_CONTENT_LENGTH"]
    if length is not None and length > most:
        raise RequestEntityTooLarge(f"The request's body exceeds {most} bytes.")
    blocks = _bounded(pieces(request.environ["wsgi.input"], BLOCK), most)
    return Body(blocks) if length is None else SizedBody(blocks, length)


def _bounded(blocks: Iterator[bytes], most: int) -> Iterator[bytes]:
    left = most
    for block in blocks:
        left -= len(block)
        if left < 0:
            raise RequestEntityTooLarge(f"The request's body exceeds {most} bytes.")
        yield block

"""Answers as Ollama's clients know them: an object with `error`, and Ollama's statuses."""

import json
from typing import Any

from flask import Request, Response, request
from werkzeug.exceptions import Forbidden, MethodNotAllowed, MisdirectedRequest

from app.connection import Connection, is_unread
from app.errors import Failure
from app.ollama.errors import OllamaError
from app.planning.create_request import Refused

NDJSON = "application/x-ndjson"
JSON = "application/json; charset=utf-8"
BARE_JSON = "application/json"
PREFIXES = ("/api/", "/v1/")
# What Ollama answers with 400 where it isn't streamed, by how the words begin.
_BAD_REQUESTS = (
    *("template error", "invalid model name", "unsupported ", "no files provided"),
    *("LoRA adapters", "only one adapter", "supplied file was not", "unknown type"),
)


def is_ollamas(asked: Request) -> bool:
    """Whether the request is one of Ollama's protocol, or of OpenAI's, which it speaks, too."""
    return asked.path.startswith(PREFIXES)


def end_unread() -> None:
    """Say with the answer that the connection ends, where the client still sends what nobody will
    read: it would use it for its next request."""
    connection = request.environ.get("gunicorn.socket")
    if isinstance(connection, Connection) and is_unread(request.environ["wsgi.input"]):
        connection.end_with_answer()


def refusal(error: Exception, failure: Failure) -> Response:
    """The answer to a request that failed before its first line; `failure` is what is told."""
    end_unread()
    if isinstance(error, Forbidden | MisdirectedRequest):
        return Response(status=403, mimetype=None)
    if isinstance(error, MethodNotAllowed):
        return Response("405 method not allowed", 405, content_type="text/plain")
    status, words = status_of(error, failure), sentence(error, failure)
    value: Any = {"error": words}
    if request.path.startswith("/v1/"):
        kind = "invalid_request_error" if status < 500 else "api_error"
        value = {"error": {"message": words, "type": kind, "param": None, "code": None}}
    return json_answer(value, status)


def sentence(error: Exception, failure: Failure) -> str:
    """What failed, in Ollama's words where they are its, and what may help."""
    if isinstance(error, OllamaError) and error.words and error.args[0].endswith(error.words):
        return error.words
    return " ".join(filter(None, (failure.error, failure.hint)))


def status_of(error: Exception, failure: Failure) -> int:
    """Ollama's status for the failure: it has no 422."""
    if isinstance(error, Refused):
        return error.status
    if isinstance(error, OllamaError) and error.words:
        refused = 400 if error.words.startswith(_BAD_REQUESTS) else 500
        return error.answered or refused
    return 400 if failure.status in (415, 422) else failure.status


def json_answer(value: Any, status: int = 200, content_type: str = JSON) -> Response:
    """A value as JSON, compact as Ollama writes it."""
    return Response(encoded(value), status, content_type=content_type)


def encoded(value: Any) -> bytes:
    """The value as JSON without spaces, in UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")

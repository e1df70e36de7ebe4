"""Failures outside the streamed views, in the contract's shape or as a page for a browser."""

from uuid import uuid4

from flask import Flask, Response, current_app, render_template, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from app.service.lines import Task
from app.views.ollama_protocol.answers import is_ollamas, refusal
from app.views.stream import FailureLine, failed, logged

METHODS = ("OPTIONS", "HEAD", "GET", "DELETE", "PATCH", "PUT", "POST")


def register_failures(app: Flask) -> None:
    """Answer every exception that no view has turned into a response."""
    app.register_error_handler(Exception, _answer)


def _answer(error: Exception) -> Response:
    if is_ollamas(request):
        return refusal(error, logged(Task(str(uuid4()), "Failed request."), error))
    line = _line_of(error)
    task = Task(str(uuid4()), line.action)
    if _wants_page():
        failure = logged(task, error)
        response = Response(render_template("failure.html", failure=failure), failure.status)
        response.headers["X-Task-UUID"] = task.uuid
    else:
        response = failed(task, error, line.ratio_key)
    if isinstance(error, HTTPException):
        for name, value in error.get_headers():
            if name not in ("Content-Type", "Content-Length"):
                response.headers[name] = value
    return response


def _wants_page() -> bool:
    kinds = ["application/x-ndjson", "text/html"]
    asked = "text/html" in request.headers.get("Accept", "")
    return asked and request.accept_mimetypes.best_match(kinds) == "text/html"


def _line_of(error: Exception) -> FailureLine:
    """What the view that was asked for declares; for a method that isn't taken,
    what the one that sends most does."""
    endpoint = request.endpoint
    if isinstance(error, MethodNotAllowed) and error.valid_methods:
        method = max(error.valid_methods, key=METHODS.index)
        adapter = current_app.create_url_adapter(request)
        endpoint = adapter.match(method=method)[0] if adapter else None
    view = current_app.view_functions.get(endpoint or "")
    line: FailureLine = getattr(view, "failure_line", FailureLine())
    return line

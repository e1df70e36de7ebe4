"""Failures outside the streamed views, in the contract's shape or as a page for a browser."""

from uuid import uuid4

from flask import Flask, Response, render_template, request

from app.errors import describe
from app.service.lines import Task
from app.views.stream import failed

ACTIONS = {
    "/models/upload/": "Failed upload model file.",
    "/models/create/": "Failed create model",
    "/models/deploy/": "Failed upload model file.",
    "/models/check/": "Failed check model file.",
    "/ollama/": "Failed ask Ollama.",
    "/ollama/generate/": "Failed generate.",
}


def register_failures(app: Flask) -> None:
    """Answer every exception that no view has turned into a response."""
    app.register_error_handler(Exception, _answer)


def _answer(error: Exception) -> Response:
    if request.accept_mimetypes.best_match(
        ["application/x-ndjson", "text/html"]
    ) == "text/html" and ("text/html" in request.headers.get("Accept", "")):
        failure = describe(error)
        response = Response(render_template("failure.html", failure=failure), failure.status)
    else:
        ratio_key = "progress" if request.path.startswith("/models/deploy") else "progress_ratio"
        response = failed(Task(str(uuid4()), _action()), error, ratio_key)
    for name, value in getattr(error, "get_headers", list)():
        if name not in ("Content-Type", "Content-Length"):
            response.headers[name] = value
    return response


def _action() -> str:
    path = request.path.rstrip("/") + "/"
    if path == "/models/":
        return "Failed delete model." if request.method == "DELETE" else "Failed get model list."
    return ACTIONS.get(path, "Failed get model." if request.view_args else "Failed request.")

"""What the Ollama servers have, and a first prompt to a model: for the page, whose browser may not
reach them itself."""

from collections.abc import Generator, Iterable, Iterator
from typing import Any

from flask import Blueprint, Response, current_app, stream_with_context
from werkzeug.exceptions import NotFound

from app.errors import describe
from app.ollama.client import ModelMissing, Ollama, OllamaError
from app.planning.options import text
from app.views.answers import asked_server, json_answer, json_object, service
from app.views.stream import fails_as, line_response

Lines = Generator[dict[str, Any], None, None]

blueprint = Blueprint("ollama", __name__, url_prefix="/ollama")


@blueprint.get("/")
@fails_as("Failed ask Ollama.")
def servers() -> Response:
    """Each server with its version and models, or with what keeps it from saying."""
    return json_answer({"servers": [_described(server) for server in service().ollamas()]})


@blueprint.post("/generate")
@fails_as("Failed generate.")
def generate() -> Response:
    """Ollama's own lines of an answer to one prompt, each as it comes: from the first server that
    gives one."""
    fields = json_object()
    model, prompt = text(fields, "model"), text(fields, "prompt")
    servers = service().servers(asked_server())
    try:
        first, lines = _first_answer([server.generate(model, prompt) for server in servers])
    except ModelMissing as error:
        raise NotFound(str(error)) from error
    response = line_response(stream_with_context(_encoded(first, lines)))
    response.call_on_close(lines.close)
    return response


def _described(server: Ollama) -> dict[str, Any]:
    try:
        return {"url": server.url, "version": server.version(), "models": server.tags()}
    except OllamaError as error:
        return {"url": server.url, "error": str(error)}


def _first_answer(answers: Iterable[Lines]) -> tuple[dict[str, Any], Lines]:
    """The first line, and the rest, of the first answer that has one. Raises OllamaError."""
    failures = []
    for lines in answers:
        try:
            return next(lines, {}), lines
        except OllamaError as error:
            failures.append(error)
    raise failures[0]


def _encoded(first: dict[str, Any], rest: Lines) -> Iterator[bytes]:
    yield _line(first)
    try:
        for value in rest:
            yield _line(value)
    except OllamaError as error:
        yield _line({"error": describe(error).error})


def _line(value: dict[str, Any]) -> bytes:
    return current_app.json.dumps(value).encode() + b"\n"

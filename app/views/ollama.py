"""What the Ollama servers have, and chats with their models: for the page, whose browser may not
reach them itself."""

from collections.abc import Callable, Generator, Iterator
from contextlib import closing

from flask import Blueprint, Response, current_app, stream_with_context
from werkzeug.exceptions import NotFound

from app.errors import describe
from app.ollama.client import ModelMissing, Ollama, OllamaError
from app.planning.options import text
from app.service.chat import Answer, chat_request, first_answer, heard
from app.service.watch import described
from app.views.answers import asked_servers, json_answer, json_object, service
from app.views.sentences import in_language
from app.views.stream import client_is_there, fails_as, line_response

blueprint = Blueprint("ollama", __name__, url_prefix="/ollama")


@blueprint.get("/")
@fails_as("Failed ask Ollama.")
def servers() -> Response:
    """Each server with its version, models, and whether it takes adapters; or with what keeps it
    from saying."""
    return json_answer({"servers": [described(server) for server in service().ollamas()]})


@blueprint.post("/generate")
@fails_as("Failed generate.")
def generate() -> Response:
    """Ollama's own lines of an answer to one prompt, each as it comes: from the first server that
    gives one."""
    fields = json_object()
    model, prompt = text(fields, "model"), text(fields, "prompt")
    return _answered(lambda server: server.generate(model, prompt))


@blueprint.post("/chat")
@fails_as("Failed chat.")
def chat() -> Response:
    """Ollama's own lines of the next answer in a chat, likewise."""
    body = chat_request(json_object())
    return _answered(lambda server: server.chat(body))


def _answered(ask: Callable[[Ollama], Iterator[Answer]]) -> Response:
    """The lines of an answer, as long as the client is there: what is no longer waited for ends at
    once, also on Ollama, and also while it is still loading the model."""
    lines = heard(first_answer(service().servers(asked_servers({})), ask))
    try:
        first = next(lines, {})
        while first is None and client_is_there():
            first = next(lines, {})
    except ModelMissing as error:
        raise NotFound(str(error)) from error
    response = line_response(stream_with_context(_encoded(first, lines)))
    response.call_on_close(lines.close)
    return response


def _encoded(first: Answer | None, rest: Generator[Answer | None, None, None]) -> Iterator[bytes]:
    with closing(rest):
        if first is not None:
            yield _line(first)
        try:
            for value in rest:
                if value is not None:
                    yield _line(value)
                elif not client_is_there():
                    return
        except OllamaError as error:
            yield _line(in_language({"error": describe(error).error}))


def _line(value: Answer) -> bytes:
    return current_app.json.dumps(value).encode() + b"\n"

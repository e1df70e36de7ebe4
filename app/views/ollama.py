"""What the Ollama servers have, and chats with their models: for the page, whose browser may not
reach them itself."""

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import Any

from flask import Blueprint, Response, current_app, stream_with_context
from werkzeug.exceptions import NotFound

from app.errors import describe
from app.modelfile.grammar import ROLES
from app.ollama.client import Ollama
from app.ollama.errors import ModelMissing, OllamaError
from app.ollama.names import check_asked_name
from app.planning.options import text
from app.service.chat import MAX_MESSAGES, Answer, chat_request, first_answer, heard
from app.service.watch import described
from app.views import schemas
from app.views.answers import JSON_BYTES, asked_servers, json_answer, json_object, service
from app.views.openapi import ASKING_OLLAMA, CURL_JSON, documented
from app.views.sentences import in_language
from app.views.stream import client_is_there, fails_as, line_response

_ANSWERED: dict[str, Any] = {"schema": {"type": "object"}, "query": [schemas.SERVER]}
_MESSAGE = schemas.object_of(
    {"role": {"enum": list(ROLES)}, "content": schemas.TEXT_VALUE}, "role", "content"
)
_CHAT = schemas.json_body(
    {
        **schemas.MODEL,
        "messages": schemas.list_of(_MESSAGE, minItems=1, maxItems=MAX_MESSAGES),
        "options": {"type": "object", "description": "As a Modelfile's parameters"},
        "think": {"type": "boolean"},
    },
    *("model", "messages"),
)

blueprint = Blueprint("ollama", __name__, url_prefix="/ollama")


@blueprint.get("/")
@documented(answers=schemas.JSON, example="curl $service/ollama/")
@fails_as("Failed ask Ollama.")
def servers() -> Response:
    """The Ollama servers and their models.

    Each with its version, and whether it takes adapters; or with what keeps it from saying.
    """
    return json_answer({"servers": [described(server) for server in service().ollamas()]})


@blueprint.post("/generate")
@documented(
    *(404, *ASKING_OLLAMA),
    example=f"curl -N {CURL_JSON} $service/ollama/generate \\\n"
    '  -d \'{"model": "my-model", "prompt": "Hello"}\'',
    body=schemas.json_body(schemas.MODEL | {"prompt": schemas.TEXT_VALUE}, "model", "prompt"),
    **_ANSWERED,
)
@fails_as("Failed generate.")
def generate() -> Response:
    """One prompt to a model on Ollama; answers with Ollama's own lines, each as it comes.

    They are from the first server that gives one.
    """
    fields = json_object()
    model = check_asked_name(text(fields, "model"))
    prompt = text(fields, "prompt", JSON_BYTES)
    return _answered(lambda server: server.generate(model, prompt))


@blueprint.post("/chat")
@documented(
    *(404, *ASKING_OLLAMA),
    example=f"curl -N {CURL_JSON} $service/ollama/chat \\\n"
    '  -d \'{"model": "my-model", "messages": [{"role": "user", "content": "Hello"}]}\'',
    body=_CHAT,
    **_ANSWERED,
)
@fails_as("Failed chat.")
def chat() -> Response:
    """The next answer in a chat; Ollama's own lines, likewise."""
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

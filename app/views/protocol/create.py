"""POST /api/create as Ollama's clients know it: a model of what they have sent, on every server.

Source: Ollama, server/create.go and server/routes.go (streamResponse, waitForStream).
"""

import json
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from typing import Any
from uuid import uuid4

from flask import Blueprint, Response, current_app, request, stream_with_context

from app import metrics
from app.errors import describe
from app.planning.create_request import parse
from app.planning.options import BadRequest, read_json
from app.service.creating import Creation
from app.service.lines import Steps, Task
from app.service.work import FAILED_CREATE
from app.views.answers import JSON_BYTES, service
from app.views.protocol import go_json
from app.views.protocol.answers import BARE_JSON, NDJSON, encoded, json_answer, refusal, sentence
from app.views.protocol.progress import Progress
from app.views.stream import HEARTBEAT_SECONDS, client_is_there, logged

SUCCESS = {"status": "success"}
Lines = Generator[dict[str, Any], None, None]

blueprint = Blueprint("protocol", __name__, url_prefix="/api")


class ClientLeft(Exception):
    """Nobody waits for the model any more."""


@blueprint.get("/version")
def version() -> Response:
    """The first server's version."""
    return json_answer({"version": service().ollamas()[0].version()})


@blueprint.post("/create")
def create() -> Response:
    """Make a model; Ollama's lines, or with `"stream": false` the last of them."""
    asked = parse(_json())
    task = Task(str(uuid4()), FAILED_CREATE)
    creation = Creation(service(), task, asked, keeps=current_app.config["KEEP_CREATED"])
    lines = _lines(task, creation.steps())
    try:
        first = next(lines)
        if not asked.is_streamed:
            for _ in lines:
                pass
            return json_answer(SUCCESS, content_type=BARE_JSON)
    except Exception as error:
        answer = refusal(error, logged(task, error))
        answer.content_type = BARE_JSON
        return answer
    body = stream_with_context(_streamed(task, first, lines))
    response = Response(body, content_type=NDJSON)
    response.headers["X-Accel-Buffering"] = "no"
    response.headers["Cache-Control"] = "no-store"
    response.call_on_close(lines.close)
    return response


def _json() -> Any:
    request.max_content_length = JSON_BYTES
    content = request.get_data()
    if not content.strip():
        raise BadRequest("missing request body")
    try:
        return read_json(content)
    except json.JSONDecodeError as error:
        raise BadRequest(go_json.words_of(error)) from error
    except ValueError as error:
        raise BadRequest(f"The body isn't JSON: {error}.") from error


def _lines(task: Task, steps: Steps[None]) -> Lines:
    """Ollama's lines for the steps, the last of which is SUCCESS. Raises ClientLeft."""
    progress, sent_at = Progress(), time.monotonic()
    with ExitStack() as ending:
        watched = ending.enter_context(metrics.watched("create_by_ollamas_client"))
        ending.callback(steps.close)
        try:
            for step in steps:
                if not client_is_there():
                    raise ClientLeft
                line = progress.line(step) if step is not None else None
                if line is None:
                    if not progress.last or time.monotonic() - sent_at < HEARTBEAT_SECONDS:
                        continue
                    line = progress.last
                yield line
                sent_at = time.monotonic()
        except Exception as error:
            watched.status = (
                "left" if isinstance(error, ClientLeft) else str(describe(error).status)
            )
            raise
        watched.status = "200"
    yield SUCCESS


def _streamed(task: Task, first: Any, lines: Lines) -> Iterator[bytes]:
    yield encoded(first) + b"\n"
    try:
        for line in lines:
            yield encoded(line) + b"\n"
    except ClientLeft:
        return
    except Exception as error:
        yield encoded({"error": sentence(error, logged(task, error))}) + b"\n"

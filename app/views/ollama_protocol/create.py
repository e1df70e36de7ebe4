"""POST /api/create as Ollama's clients know it: a model of what they have sent, on every server.

Source: Ollama, server/create.go and server/routes.go (streamResponse, waitForStream).
"""

import json
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import Any
from uuid import uuid4

from flask import Blueprint, Response, current_app, request, stream_with_context

from app.errors import Failure
from app.planning.create_request import CreateRequest, parse
from app.planning.options import BadRequest, read_json
from app.service.lines import Steps, Task
from app.service.ollama_create import Creation
from app.service.work import FAILED_CREATE
from app.storage.tasks import TaskStopped
from app.views import schemas
from app.views.answers import JSON_BYTES, service
from app.views.ollama_protocol import go_json
from app.views.ollama_protocol.answers import BARE_JSON, encoded, json_answer, refusal, sentence
from app.views.ollama_protocol.progress import Progress
from app.views.openapi import CURL_JSON, documented
from app.views.stream import (
    GONE,
    HEARTBEAT_SECONDS,
    client_is_there,
    encode,
    logged_at_its_end,
    look_at_log,
    task_log,
)

SUCCESS = {"status": "success"}
_DIGESTS = {"type": "object", "additionalProperties": schemas.TEXT_VALUE}
_REQUEST = schemas.json_body(
    {
        **dict.fromkeys(("model", "from", "quantize", "template", "system"), schemas.TEXT_VALUE),
        **dict.fromkeys(("files", "adapters"), _DIGESTS),
        **{"parameters": {"type": "object"}, "messages": {"type": "array"}},
        **{"license": {"type": ["string", "array"]}, "stream": {"type": "boolean"}},
    },
    "model",
)
Lines = Generator[dict[str, Any], None, None]

blueprint = Blueprint("protocol", __name__, url_prefix="/api")


class Failed(Exception):
    """The model can't be made because of `error`; `failure` is what is told of it."""

    def __init__(self, error: Exception, failure: Failure) -> None:
        super().__init__(failure.error)
        self.error = error
        self.failure = failure


@blueprint.get("/version")
@documented(example="curl $service/api/version")
def version() -> Response:
    """Ollama's protocol: the first server's version."""
    return json_answer({"version": service().ollamas()[0].version()})


@blueprint.post("/create")
@documented(
    example=f"curl -N {CURL_JSON} $service/api/create \\\n"
    '  -d \'{"model": "terse", "from": "my-model", "system": "You are terse."}\'',
    body=_REQUEST,
)
def create() -> Response:
    """Ollama's protocol: make a model of files sent before; answers with Ollama's lines, or where
    `stream` is false with the last of them."""
    asked = parse(_json())
    task = Task(str(uuid4()), FAILED_CREATE)
    servers = ",".join(server.url for server in service().ollamas())
    task.facts.update(model=asked.model, model_name_on_ollama=asked.model, server=servers)
    answer = _answer(task, asked)
    answer.headers["X-Task-UUID"] = task.uuid
    return answer


def _answer(task: Task, asked: CreateRequest) -> Response:
    creation = Creation(service(), task, asked, keeps=current_app.config["KEEP_CREATED"])
    lines = _lines(task, creation.steps())
    try:
        first = next(lines, {})
        if not asked.is_streamed:
            *_, last = first, *lines
            return json_answer(last, 200 if last == SUCCESS else GONE.status, BARE_JSON)
    except Failed as failed:
        answer = refusal(failed.error, failed.failure)
        answer.content_type = BARE_JSON
        return answer
    body = stream_with_context(_streamed(first, lines))
    response = Response(body, content_type=schemas.NDJSON)
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
    """Ollama's lines for the steps, the last of which is SUCCESS, unless the client has left.
    Raises Failed."""
    progress, sent_at = Progress(), time.monotonic()
    failed = None
    with logged_at_its_end(task) as ended, task_log().writer(task.uuid) as keep, closing(steps):
        ratio = 0.0
        try:
            for step in steps:
                look_at_log(task, step)
                if not client_is_there():
                    return
                if step is not None and not step.verbose:
                    ratio = step.ratio
                    keep(encode(task, 200, step.action, "progress_ratio", ratio, step.details))
                line = progress.line(step) if step is not None else None
                if line is None and time.monotonic() - sent_at > HEARTBEAT_SECONDS:
                    line = progress.last or None
                if line is not None:
                    yield line
                    sent_at = time.monotonic()
            ended.succeed()
        except Exception as error:
            failed = Failed(error, ended.fail(error))
            details = failed.failure.details()
            status = failed.failure.status
            if not isinstance(error, TaskStopped):
                keep(encode(task, status, task.failure, "progress_ratio", ratio, details))
    if failed is not None:
        raise failed
    yield SUCCESS


def _streamed(first: dict[str, Any], lines: Lines) -> Iterator[bytes]:
    try:
        yield encoded(first) + b"\n"
        for line in lines:
            yield encoded(line) + b"\n"
    except Failed as failed:
        yield encoded({"error": sentence(failed.error, failed.failure)}) + b"\n"

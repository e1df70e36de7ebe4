"""What happened to a task whose client lost its connection, and the uploads to go on with."""

import json
import time
from contextlib import suppress
from typing import Any

from flask import Blueprint, Response, current_app

from app.storage.partial_folders import PartialUpload
from app.views import schemas
from app.views.answers import json_answer, service
from app.views.openapi import documented
from app.views.sentences import in_language
from app.views.stream import MEDIA_TYPE, fails_as
from app.views.texts import language

blueprint = Blueprint("tasks", __name__, url_prefix="/tasks")


@blueprint.get("/")
@documented(answers=schemas.JSON, example="curl $service/tasks/")
@fails_as("Failed get tasks.")
def recent() -> Response:
    """The recent tasks, and the uploads to go on with; each newest first."""
    return json_answer({"tasks": service().tasks.recent(), "uploads": uploads()})


@blueprint.get("/<uuid>")
@documented(example="curl $service/tasks/$task")
@fails_as("Failed get task.")
def lines(uuid: str) -> Response:
    """The lines that a task has sent so far; a failure in the language that is asked for."""
    kept = service().tasks.lines(uuid)
    if language() != "en":
        before, end, last = kept.removesuffix(b"\n").rpartition(b"\n")
        with suppress(ValueError):
            said = current_app.json.dumps(in_language(json.loads(last)))
            kept = before + end + said.encode() + b"\n"
    return Response(kept, mimetype=MEDIA_TYPE)


@blueprint.delete("/<uuid>")
@documented(
    answers=schemas.JSON,
    statuses=("202", "200"),
    example="curl -X DELETE $service/tasks/$task",
)
@fails_as("Failed stop task.")
def stop(uuid: str) -> tuple[Response, int]:
    """Stop a task: it ends at its next step, and keeps what it would keep if its client left. One
    that has ended already answers 200."""
    runs = service().tasks.stop(uuid)
    said = json_answer({"task_uuid": uuid, "state": "stopping" if runs else "ended"})
    return said, 202 if runs else 200


def uploads() -> list[dict[str, Any]]:
    """The resumable uploads that are here, newest first, as `_described`."""
    return [_described(upload) for upload in reversed(service().storage.uploads.all())]


def _described(upload: PartialUpload) -> dict[str, Any]:
    """An upload as JSON: sizes in bytes, times in UTC (ISO 8601)."""
    return {
        "upload": upload.id,
        "name": upload.filename,
        "bytes": upload.offset,
        "total_bytes": upload.length,
        "started": _utc(upload.created),
        "expires": _utc(upload.expires),
    }


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))

"""What happened to a task whose client lost its connection."""

from flask import Blueprint, Response

from app.views.answers import json_answer, service
from app.views.stream import MEDIA_TYPE, fails_as

blueprint = Blueprint("tasks", __name__, url_prefix="/tasks")


@blueprint.get("/")
@fails_as("Failed get tasks.")
def recent() -> Response:
    """The tasks that are kept, newest first."""
    return json_answer({"tasks": service().tasks.recent()})


@blueprint.get("/<uuid>")
@fails_as("Failed get task.")
def lines(uuid: str) -> Response:
    """The lines that a task has sent so far."""
    return Response(service().tasks.lines(uuid), mimetype=MEDIA_TYPE)

"""The page for people, and what its form leads to where a browser runs no scripts."""

from uuid import uuid4

from flask import Blueprint, Response, render_template

from app.ollama.client import NAME_PATTERN
from app.planning.options import QUANTIZE_TYPES
from app.service.lines import Task
from app.service.work import FAILED_UPLOAD
from app.views.answers import json_answer
from app.views.assets import page
from app.views.models import deploy_form
from app.views.openapi import description
from app.views.stream import fails_as, run_to_end

blueprint = Blueprint("pages", __name__)


@blueprint.get("/")
def index() -> Response:
    """A form that deploys a zip, the models, and the recent tasks."""
    return page(
        render_template("index.html", quantize_types=QUANTIZE_TYPES, name_pattern=NAME_PATTERN)
    )


@blueprint.post("/deploy")
@fails_as(FAILED_UPLOAD)
def result() -> tuple[str, int]:
    """The form without scripts: the same deploy, its lines as a page once it has ended."""
    task = Task(str(uuid4()), FAILED_UPLOAD)
    lines, status = run_to_end(task, deploy_form(task))
    return render_template("result.html", lines=lines), status


@blueprint.get("/openapi.json")
def openapi() -> Response:
    """The description of every route, for programs."""
    return json_answer(description())


@blueprint.get("/docs")
def docs() -> str:
    """The same for people."""
    return render_template("docs.html", api=description())

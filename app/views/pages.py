"""The page for people, and what its form leads to where a browser runs no scripts."""

from uuid import uuid4

from flask import Blueprint, Response, render_template, request

from app.ollama.client import NAME_PATTERN
from app.planning.options import QUANTIZE_TYPES, text
from app.service.lines import Task
from app.service.work import FAILED_UPLOAD
from app.views.answers import json_answer, service
from app.views.assets import page
from app.views.models import deploy_form
from app.views.openapi import description
from app.views.stream import fails_as, run_to_end

FAILED_DELETE = "Failed delete model."
SHOWN_TASKS = 20

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


@blueprint.get("/list")
@fails_as("Failed get model list.")
def stored() -> Response:
    """The models and recent tasks as a page, with a form that deletes, for who runs no scripts."""
    lines = [line for line in service().models(with_facts=True) if line]
    tasks = service().tasks.recent()[:SHOWN_TASKS]
    return page(render_template("list.html", models=lines, tasks=tasks))


@blueprint.post("/delete")
@fails_as(FAILED_DELETE)
def delete() -> tuple[str, int]:
    """What that form leads to."""
    task = Task(str(uuid4()), FAILED_DELETE)
    lines, status = run_to_end(task, service().delete(task, text(request.form, "model")))
    return render_template("result.html", lines=lines), status


@blueprint.get("/openapi.json")
def openapi() -> Response:
    """The description of every route, for programs."""
    return json_answer(description())


@blueprint.get("/docs")
def docs() -> str:
    """The same for people."""
    return render_template("docs.html", api=description())

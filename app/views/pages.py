"""The page for people, and what its form leads to where a browser runs no scripts."""

from uuid import uuid4

from flask import Blueprint, Response, current_app, render_template, request

from app.ollama.names import NAME_PATTERN
from app.planning.options import QUANTIZE_TYPES, text
from app.service.lines import Task
from app.service.work import FAILED_UPLOAD
from app.views import schemas
from app.views.answers import json_answer, service
from app.views.assets import page
from app.views.fields import NEW_NAME
from app.views.models import deploy_form
from app.views.openapi import MAKING, description, documented
from app.views.stream import fails_as, run_to_end

FAILED_DELETE = "Failed delete model."
SHOWN_TASKS = 20

blueprint = Blueprint("pages", __name__)


@blueprint.get("/")
@documented(answers=schemas.HTML, example="curl $service/")
def index() -> Response:
    """The page: a form that deploys a zip, the models, and the recent tasks."""
    return page(
        render_template("index.html", quantize_types=QUANTIZE_TYPES, name_pattern=NAME_PATTERN)
    )


@blueprint.post("/deploy")
@documented(
    *MAKING,
    answers=schemas.HTML,
    example="curl -F model_name_on_ollama=my-model -F Model=@my_model.zip $service/deploy",
    body=schemas.form_body(schemas.DEPLOY | schemas.MODEL_FILES, NEW_NAME),
)
@fails_as(FAILED_UPLOAD)
def result() -> tuple[str, int]:
    """What the page's form leads to without scripts: the lines as a page, once all has ended."""
    task = Task(str(uuid4()), FAILED_UPLOAD)
    lines, status = run_to_end(task, deploy_form(task))
    return render_template("result.html", lines=lines), status


@blueprint.get("/list")
@documented(answers=schemas.HTML, example="curl $service/list")
@fails_as("Failed get model list.")
def stored() -> Response:
    """The models and recent tasks as a page, without scripts, with forms that delete."""
    lines = [line for line in service().models(with_facts=True) if line]
    tasks = service().tasks.recent()[:SHOWN_TASKS]
    return page(render_template("list.html", models=lines, tasks=tasks))


@blueprint.post("/delete")
@documented(
    *(404, 409),
    answers=schemas.HTML,
    example="curl -T my_model.zip $service/models/upload/old.zip\n"
    "curl -d model=old $service/delete",
    body={schemas.URL_FORM: {"schema": schemas.object_of(schemas.MODEL, "model")}},
)
@fails_as(FAILED_DELETE)
def delete() -> tuple[str, int]:
    """What that page's forms lead to."""
    task = Task(str(uuid4()), FAILED_DELETE)
    lines, status = run_to_end(task, service().delete(task, text(request.form, "model")))
    return render_template("result.html", lines=lines), status


@blueprint.get("/openapi.json")
@documented(answers=schemas.JSON, example="curl $service/openapi.json")
def openapi() -> Response:
    """This description."""
    return json_answer(description(current_app))


@blueprint.get("/docs")
@documented(answers=schemas.HTML, example="curl $service/docs")
def docs() -> str:
    """This description as a page."""
    return render_template("docs.html", api=description(current_app))

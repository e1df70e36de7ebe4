"""The page for people, and what its form leads to where a browser runs no scripts."""

from uuid import uuid4

from flask import Blueprint, Response, render_template, request

from app.ollama.client import NAME_PATTERN
from app.planning.options import QUANTIZE_TYPES
from app.service.lines import Task
from app.service.work import FAILED_UPLOAD
from app.views.answers import json_answer
from app.views.models import deploy_form
from app.views.openapi import description
from app.views.stream import fails_as, run_to_end
from app.views.texts import LANGUAGES, texts

blueprint = Blueprint("pages", __name__)


@blueprint.get("/")
def index() -> str:
    """A form that deploys a zip, the models, and the recent tasks."""
    return _render("index.html", quantize_types=QUANTIZE_TYPES, name_pattern=NAME_PATTERN)


@blueprint.post("/deploy")
@fails_as(FAILED_UPLOAD)
def result() -> tuple[str, int]:
    """The form without scripts: the same deploy, its lines as a page once it has ended."""
    task = Task(str(uuid4()), FAILED_UPLOAD)
    lines, status = run_to_end(task, deploy_form(task))
    return _render("result.html", lines=lines), status


@blueprint.get("/openapi.json")
def openapi() -> Response:
    """The description of every route, for programs."""
    return json_answer(description())


@blueprint.get("/docs")
def docs() -> str:
    """The same for people."""
    return render_template("docs.html", api=description())


def _render(template: str, **values: object) -> str:
    language = request.accept_languages.best_match([*LANGUAGES, "zh"]) or "en"
    language = "zh-TW" if language == "zh" else language
    return render_template(template, language=language, texts=texts(language), **values)

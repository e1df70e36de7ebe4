"""The endpoints under /models/: parse, call, and stream the lines."""

import json
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from flask import Blueprint, Response, current_app, request

from app.deploy import FAILED_CREATE, FAILED_UPLOAD, Service
from app.lines import Steps, Task
from app.requested import BadRequest, options, text
from app.stream import streamed
from app.views.upload import receive

JSON_BYTES = 8 * 2**20

blueprint = Blueprint("models", __name__, url_prefix="/models")


@blueprint.get("/")
@streamed("Failed get model list.")
def list_models(task: Task) -> Steps[None]:
    yield from _service().models()


@blueprint.delete("/")
@streamed("Failed delete model.")
def delete(task: Task) -> Steps[None]:
    yield from _service().delete(task, text(_json_object(), "model"))


@blueprint.get("/<name>/")
def report(name: str) -> Response:
    return _json(_service().report(name))


@blueprint.get("/<name>/modelfile")
def modelfile(name: str) -> Response:
    text = _service().modelfile(name, options(request.args))
    return Response(text, mimetype="text/plain")


@blueprint.post("/check/")
def check() -> Response:
    service = _service()
    with service.storage.staging(str(uuid4())) as staging:
        upload, _ = receive(service.storage, staging)
        return _json(service.check(upload))


@blueprint.post("/upload/")
@streamed(FAILED_UPLOAD)
def upload(task: Task) -> Steps[None]:
    service = _service()
    with service.storage.staging(task.uuid) as staging:
        upload, _ = receive(service.storage, staging)
        yield from service.upload(upload)


@blueprint.post("/create/")
@streamed(FAILED_CREATE)
def create(task: Task) -> Steps[None]:
    fields = _json_object()
    name, new_name = text(fields, "model"), text(fields, "model_name_on_ollama")
    yield from _service().create(task, name, new_name, options(fields))


@blueprint.post("/deploy/")
@streamed(FAILED_UPLOAD, ratio_key="progress")
def deploy(task: Task) -> Steps[None]:
    service = _service()
    with task.failing_as(FAILED_CREATE):
        service.server()
    with service.storage.staging(task.uuid) as staging:
        upload, fields = receive(service.storage, staging)
        new_name = text(fields, "model_name_on_ollama")
        yield from service.deploy(task, upload, new_name, options(fields))


def _service() -> Service:
    service: Service = current_app.extensions["service"]
    return service


def _json(value: dict[str, Any]) -> Response:
    return Response(json.dumps(value, ensure_ascii=False) + "\n", mimetype="application/json")


def _json_object() -> Mapping[str, Any]:
    """The request's JSON object. Raises BadRequest, or UnsupportedMediaType for another type."""
    request.max_content_length = JSON_BYTES
    value = request.get_json()
    if not isinstance(value, dict):
        raise BadRequest('The body must be a JSON object such as {"model": "my-model"}.')
    return value

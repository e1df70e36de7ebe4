"""The endpoints under /models/: parse, call, and stream the lines."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from flask import Blueprint, current_app, request

from app.planning.early import EarlyLook
from app.planning.options import optional_text, text
from app.planning.safetensors_parts import ADAPTER_CONFIG
from app.service.early import Asked, look_early
from app.service.keeping import keeping, removing
from app.service.lines import Steps, Task
from app.service.work import (
    CREATE,
    DEPLOY_CREATE,
    DEPLOY_UPLOAD,
    FAILED_CREATE,
    FAILED_UPLOAD,
    UPLOAD,
    Upload,
)
from app.storage.names import check_name, name_of_upload
from app.storage.staging import Staging
from app.views import schemas
from app.views.answers import json_object, service
from app.views.fields import (
    CONFIG_FIELD,
    NEW_NAME,
    OF_CREATE,
    OF_FORM,
    OF_JSON_UPLOAD,
    asked_for,
    check_names,
    check_query,
    json_fields,
    naming_ignored,
)
from app.views.form_upload import Look
from app.views.known import wanted_files
from app.views.openapi import CURL_JSON, MAKING, STORING, documented, lines_of
from app.views.stream import is_verbose, streamed
from app.views.upload import config_of, receive, receive_raw

_FILE, _NAME, _DELETED = {"model": "FILE"}, {"model": "NAME"}, {"model_name": "NAME"}
_MADE = {"model": "NAME", "model_name_on_ollama": "NEW"}
_UPLOAD_LINES = lines_of(UPLOAD, _FILE)
_DEPLOY_LINES = (*lines_of(DEPLOY_UPLOAD, _FILE), *lines_of(DEPLOY_CREATE, _NAME, _MADE))

blueprint = Blueprint("models", __name__, url_prefix="/models")
blueprint.before_request(check_query)


@blueprint.get("/")
@documented(
    example="curl $service/models/",
    query=[schemas.VERBOSE],
    lines=[("Get model.", "k/n", _NAME)],
)
@streamed("Failed get model list.", kept=False)
def list_models(task: Task) -> Steps[None]:
    """List the models, a line each."""
    yield from service().models(with_facts=is_verbose())


@blueprint.delete("/")
@documented(
    *(404, 409),
    example=f'curl -X DELETE {CURL_JSON} $service/models/ -d \'{{"model": "my_model"}}\'',
    body=schemas.json_body(schemas.MODEL, "model"),
    query=[schemas.VERBOSE],
    lines=[("Start delete model.", 0.5, _DELETED), ("Success delete model.", 1.0, _DELETED)],
)
@streamed("Failed delete model.")
def delete(task: Task) -> Steps[None]:
    """Delete a model."""
    fields = json_object()
    check_names(fields, {"model"})
    name = text(fields, "model")
    task.facts["model"] = name
    yield from naming_ignored(service().delete(task, name))


@blueprint.post("/upload/")
@documented(
    *(*STORING, 404, 423),
    example="curl -F Model=@my_model.zip $service/models/upload/",
    body=schemas.form_body(schemas.MODEL_FILES) | schemas.json_body(schemas.ARRIVED),
    query=[schemas.VERBOSE],
    lines=_UPLOAD_LINES,
)
@streamed(FAILED_UPLOAD)
def upload(task: Task) -> Steps[None]:
    """Store an archive, or files, as a model."""
    with _received(task, lambda fields: EarlyLook()) as (upload, _):
        yield from naming_ignored(service().upload(upload))


def _check(task: Task) -> Callable[[], None]:
    """What ends the reading of a body whose task is to be stopped."""
    return partial(service().tasks.check, task.uuid)


@contextmanager
def _received(task: Task, look: Look) -> Iterator[tuple[Upload, Mapping[str, Any]]]:
    """What the current request brings: an upload and the other fields, as a form, or as JSON that
    names an upload which has arrived already, files that are stored here, or both. Fields of the
    query count where the body doesn't have them."""
    storage = service().storage
    if request.mimetype != "application/json":
        with storage.staging(task.uuid) as staging, _noted(task, staging):
            upload, fields = receive(storage, staging, look, _check(task))
            with keeping(staging):
                check_names(fields, OF_FORM)
            yield upload, fields
        return
    fields = json_fields(OF_JSON_UPLOAD)
    known = wanted_files(fields, "known")
    if known and fields.get("upload") is None:
        name = check_name(text(fields, "name"))
        with storage.staging(task.uuid) as staging, _noted(task, staging):
            staging.hold(name)
            staging.link_known(known)
            yield Upload(staging, name, name), fields
        return
    task.facts["upload"] = text(fields, "upload")
    with storage.uploads.whole(task.facts["upload"], task.uuid) as staging:
        filename = staging.filename
        upload = Upload(staging, filename, name_of_upload(filename))
        config = config_of(filename, _said_config(fields, staging), "body")
        with _noted(task, staging), removing(staging, is_complete=not (known or config)):
            staging.hold(upload.name)
            staging.link_known(known)
            if config:
                staging.add_text(ADAPTER_CONFIG, config)
            yield upload, fields


def _said_config(fields: Mapping[str, Any], staging: Staging) -> str | None:
    """The config that an adapter's safetensors comes with: a field, or said when its upload was
    begun."""
    return optional_text(fields, CONFIG_FIELD) or staging.metadata.get(CONFIG_FIELD)


@contextmanager
def _noted(task: Task, staging: Staging) -> Iterator[None]:
    """Note for the log which model the upload becomes, also where it fails."""
    try:
        yield
    finally:
        task.facts["model"] = staging.model_name


@blueprint.post("/create/")
@documented(
    *(*MAKING, 404),
    example=f"curl {CURL_JSON} $service/models/create/ \\\n"
    '  -d \'{"model": "my_model", "model_name_on_ollama": "my-model"}\'',
    body=schemas.json_body(schemas.MODEL | schemas.DEPLOY, "model", NEW_NAME),
    query=[schemas.VERBOSE, schemas.SERVER],
    lines=lines_of(CREATE, _NAME, _MADE),
)
@streamed(FAILED_CREATE)
def create(task: Task) -> Steps[None]:
    """Make a stored model a model of Ollama."""
    fields = json_fields(OF_CREATE)
    asked = asked_for(fields)
    name, new_name = text(fields, "model"), text(fields, NEW_NAME)
    task.facts.update(model=name, model_name_on_ollama=new_name, server=_servers(asked))
    steps = service().create(task, name, new_name, asked.options, asked.servers)
    yield from naming_ignored(steps)


@blueprint.post("/deploy/")
@documented(
    *(*MAKING, 404, 423),
    example="curl -N -F model_name_on_ollama=my-model -F Model=@my_model.zip"
    " $service/models/deploy/",
    body=schemas.form_body(schemas.DEPLOY | schemas.MODEL_FILES, NEW_NAME)
    | schemas.json_body(schemas.ARRIVED | schemas.DEPLOY, NEW_NAME),
    query=[schemas.VERBOSE, schemas.SERVER],
    lines=_DEPLOY_LINES,
    failures=(FAILED_UPLOAD, FAILED_CREATE),
)
@streamed(FAILED_UPLOAD, ratio_key="progress")
def deploy(task: Task) -> Steps[None]:
    """Store an archive, or files, and make a model of Ollama of them."""
    yield from deploy_form(task)


def deploy_form(task: Task) -> Steps[None]:
    """Deploy what the current request brings."""
    asked = asked_for(request.args)
    task.facts["server"] = _servers(asked)
    with task.failing_as(FAILED_CREATE):
        service().servers(asked.servers)

    def look(fields: Mapping[str, Any]) -> EarlyLook:
        if NEW_NAME in fields:
            text(fields, NEW_NAME)
        return look_early(service(), task, asked_for(fields))

    with _received(task, look) as (upload, fields):
        with keeping(upload.staging):
            asked, new_name = asked_for(fields), text(fields, NEW_NAME)
        task.facts.update(model_name_on_ollama=new_name, server=_servers(asked))
        steps = service().deploy(task, upload, new_name, asked.options, asked.servers)
        yield from naming_ignored(steps)


@blueprint.put("/upload/<filename>")
@documented(
    *STORING,
    example="curl -T my_model.zip $service/models/upload/my_model.zip",
    body=schemas.RAW_BODY,
    query=[schemas.VERBOSE],
    lines=_UPLOAD_LINES,
)
@streamed(FAILED_UPLOAD)
def upload_raw(task: Task, filename: str) -> Steps[None]:
    """Store an archive, or a GGUF, that is the body itself."""
    storage = service().storage
    with storage.staging(task.uuid) as staging, _noted(task, staging):
        upload = receive_raw(storage, staging, filename, EarlyLook(), _check(task))
        yield from naming_ignored(service().upload(upload))


@blueprint.put("/deploy/<filename>")
@documented(
    *MAKING,
    example="curl -N -T my_model.zip"
    ' "$service/models/deploy/my_model.zip?model_name_on_ollama=my-model"',
    body=schemas.RAW_BODY,
    query=[
        schemas.in_query(NEW_NAME, schemas.TEXT_VALUE, required=True),
        *schemas.OPTIONS_IN_QUERY,
        schemas.VERBOSE,
        schemas.SERVER,
    ],
    lines=_DEPLOY_LINES,
    failures=(FAILED_UPLOAD, FAILED_CREATE),
)
@streamed(FAILED_UPLOAD, ratio_key="progress")
def deploy_raw(task: Task, filename: str) -> Steps[None]:
    """Deploy an archive, or a GGUF, that is the body itself."""
    new_name, asked = text(request.args, NEW_NAME), asked_for(request.args)
    task.facts.update(model_name_on_ollama=new_name, server=_servers(asked))
    look = look_early(service(), task, asked)
    storage = service().storage
    with storage.staging(task.uuid) as staging, _noted(task, staging):
        upload = receive_raw(storage, staging, filename, look, _check(task))
        steps = service().deploy(task, upload, new_name, asked.options, asked.servers)
        yield from naming_ignored(steps)


def _servers(asked: Asked) -> str:
    return ",".join(asked.servers or current_app.config["OLLAMA_HOST"])

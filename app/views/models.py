"""The endpoints under /models/: parse, call, and stream the lines."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.parse import quote
from uuid import uuid4

from flask import Blueprint, Response, current_app, request

from app.planning.early import EarlyLook
from app.planning.options import BadRequest, options, text
from app.service.early import Asked, look_early
from app.service.keeping import keeping
from app.service.lines import Steps, Task
from app.service.work import FAILED_CREATE, FAILED_UPLOAD, Upload
from app.storage.names import check_name, name_of_upload
from app.storage.staging import Staging
from app.views.answers import json_answer, json_object, service
from app.views.fields import (
    NEW_NAME,
    OF_CREATE,
    OF_FORM,
    OF_JSON_UPLOAD,
    OF_QUERY,
    asked_for,
    check_names,
    check_query,
    naming_ignored,
    with_query,
)
from app.views.form_upload import Look
from app.views.known import wanted_files
from app.views.stream import fails_as, is_verbose, streamed
from app.views.upload import receive, receive_raw

FAILED_GET = "Failed get model."

blueprint = Blueprint("models", __name__, url_prefix="/models")
blueprint.before_request(check_query)


@blueprint.get("/")
@streamed("Failed get model list.", kept=False)
def list_models(task: Task) -> Steps[None]:
    yield from service().models(with_facts=is_verbose())


@blueprint.delete("/")
@streamed("Failed delete model.")
def delete(task: Task) -> Steps[None]:
    fields = json_object()
    check_names(fields, {"model"})
    name = text(fields, "model")
    task.facts["model"] = name
    yield from naming_ignored(service().delete(task, name))


@blueprint.post("/upload/")
@streamed(FAILED_UPLOAD)
def upload(task: Task) -> Steps[None]:
    with _received(task, lambda fields: EarlyLook()) as (upload, _):
        yield from naming_ignored(service().upload(upload))


@contextmanager
def _received(task: Task, look: Look) -> Iterator[tuple[Upload, Mapping[str, Any]]]:
    """What the current request brings: an upload and the other fields, as a form, or as JSON that
    names an upload which has arrived already, files that are stored here, or both. Fields of the
    query count where the body doesn't have them."""
    storage = service().storage
    if request.mimetype != "application/json":
        with storage.staging(task.uuid) as staging, _noted(task, staging):
            upload, fields = receive(storage, staging, look)
            with keeping(staging):
                check_names(fields, OF_FORM)
            yield upload, fields
        return
    fields = _json_fields(OF_JSON_UPLOAD)
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
        with _noted(task, staging):
            staging.hold(upload.name)
            staging.link_known(known)
            yield upload, fields


@contextmanager
def _noted(task: Task, staging: Staging) -> Iterator[None]:
    """Note for the log which model the upload becomes, also where it fails."""
    try:
        yield
    finally:
        task.facts["model"] = staging.model_name


def _json_fields(known: Collection[str]) -> Mapping[str, Any]:
    """The fields of the request's JSON object and of its query. Raises BadRequest, also for a field
    that is nearly one of `known`."""
    fields = json_object()
    check_names(fields, known)
    return with_query(fields)


@blueprint.post("/create/")
@streamed(FAILED_CREATE)
def create(task: Task) -> Steps[None]:
    fields = _json_fields(OF_CREATE)
    asked = asked_for(fields)
    name, new_name = text(fields, "model"), text(fields, NEW_NAME)
    task.facts.update(model=name, model_name_on_ollama=new_name, server=_servers(asked))
    steps = service().create(task, name, new_name, asked.options, asked.servers)
    yield from naming_ignored(steps)


@blueprint.post("/deploy/")
@streamed(FAILED_UPLOAD, ratio_key="progress")
def deploy(task: Task) -> Steps[None]:
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
@streamed(FAILED_UPLOAD)
def upload_raw(task: Task, filename: str) -> Steps[None]:
    storage = service().storage
    with storage.staging(task.uuid) as staging, _noted(task, staging):
        upload = receive_raw(storage, staging, filename, EarlyLook())
        yield from naming_ignored(service().upload(upload))


@blueprint.put("/deploy/<filename>")
@streamed(FAILED_UPLOAD, ratio_key="progress")
def deploy_raw(task: Task, filename: str) -> Steps[None]:
    new_name, asked = text(request.args, NEW_NAME), asked_for(request.args)
    task.facts.update(model_name_on_ollama=new_name, server=_servers(asked))
    look = look_early(service(), task, asked)
    storage = service().storage
    with storage.staging(task.uuid) as staging, _noted(task, staging):
        upload = receive_raw(storage, staging, filename, look)
        steps = service().deploy(task, upload, new_name, asked.options, asked.servers)
        yield from naming_ignored(steps)


@blueprint.post("/check/")
@fails_as("Failed check model file.")
def check() -> Response:
    """The description of a zip, which is not kept; of the fields alone, whether a deploy with them
    would be refused already."""
    if request.mimetype == "application/json":
        fields = _json_fields(OF_QUERY)
        look_early(service(), Task(str(uuid4()), FAILED_CREATE), asked_for(fields))
        return json_answer({"problems": []})
    storage = service().storage
    with storage.staging(str(uuid4())) as staging:
        upload, _ = receive(storage, staging, lambda fields: EarlyLook())
        return json_answer(service().check(upload))


@blueprint.post("/missing/")
@fails_as("Failed compare files.")
def missing() -> Response:
    """The names of those of a client's files whose content isn't here, and is to be sent."""
    fields = json_object()
    if "files" not in fields:
        raise BadRequest("The field 'files' is missing. Send the list of files to compare.")
    absent = service().storage.missing(wanted_files(fields, "files"))
    return json_answer({"missing": [file.name for file in absent]})


@blueprint.get("/<name>/")
@fails_as(FAILED_GET)
def describe(name: str) -> Response:
    """The description of a model, and its history where more is wanted."""
    history = {"creates": service().creates(name)} if is_verbose() else {}
    return json_answer({**service().describe(name), **history})


@blueprint.get("/<name>/modelfile")
@fails_as(FAILED_GET)
def modelfile(name: str) -> Response:
    """The model's Modelfile, as `ollama create -f` takes it in the model's folder."""
    return Response(service().modelfile(name, options(request.args)), mimetype="text/plain")


@blueprint.post("/<name>/modelfile")
@fails_as("Failed check Modelfile.")
def check_modelfile(name: str) -> Response:
    """The Modelfile that a create with these options would use; nothing is made of it."""
    return Response(service().modelfile(name, options(json_object())), mimetype="text/plain")


@blueprint.get("/<name>/download")
@fails_as(FAILED_GET)
def download(name: str) -> Response:
    """The model as a zip that could be uploaded again; its length is known beforehand."""
    with ExitStack() as opened:
        zipped = opened.enter_context(service().zipped(name))
        response = Response(zipped, mimetype="application/zip")
        response.content_length = len(zipped)
        response.headers.set("Content-Disposition", "attachment", **_file_name(f"{name}.zip"))
        response.call_on_close(opened.pop_all().close)
    return response


def _servers(asked: Asked) -> str:
    return ",".join(asked.servers or current_app.config["OLLAMA_HOST"])


def _file_name(name: str) -> dict[str, str]:
    """The parameters of a Content-Disposition that name a file (RFC 6266, appendix D)."""
    if name.isascii():
        return {"filename": name}
    plain = name.encode("ascii", "replace").decode().replace("?", "_")
    return {"filename": plain, "filename*": f"UTF-8''{quote(name, safe='')}"}

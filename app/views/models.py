"""The endpoints under /models/: parse, call, and stream the lines."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.parse import quote
from uuid import uuid4

from flask import Blueprint, Response, request

from app.planning.options import BadRequest, options, text
from app.service.lines import Steps, Task
from app.service.work import FAILED_CREATE, FAILED_UPLOAD, Upload
from app.storage.names import check_name, name_of_upload
from app.views.answers import asked_server, json_answer, json_object, service
from app.views.known import wanted_files
from app.views.stream import fails_as, is_verbose, streamed
from app.views.upload import receive, receive_raw

FAILED_GET = "Failed get model."

blueprint = Blueprint("models", __name__, url_prefix="/models")


@blueprint.get("/")
@streamed("Failed get model list.", kept=False)
def list_models(task: Task) -> Steps[None]:
    yield from service().models(with_facts=is_verbose())


@blueprint.delete("/")
@streamed("Failed delete model.")
def delete(task: Task) -> Steps[None]:
    yield from service().delete(task, text(json_object(), "model"))


@blueprint.post("/upload/")
@streamed(FAILED_UPLOAD)
def upload(task: Task) -> Steps[None]:
    with _received(task) as (upload, _):
        yield from service().upload(upload)


@contextmanager
def _received(task: Task) -> Iterator[tuple[Upload, Mapping[str, Any]]]:
    """What the current request brings: an upload and the other fields, as a form, or as JSON that
    names an upload which has arrived already, files that are stored here, or both."""
    storage = service().storage
    if request.mimetype != "application/json":
        with storage.staging(task.uuid) as staging:
            yield receive(storage, staging)
        return
    fields = json_object()
    known = wanted_files(fields, "known")
    if known and fields.get("upload") is None:
        name = check_name(text(fields, "name"))
        with storage.staging(task.uuid) as staging:
            staging.hold(name)
            staging.link_known(known)
            yield Upload(staging, name, name), fields
        return
    with storage.uploads.whole(text(fields, "upload"), task.uuid) as staging:
        filename = staging.filename
        upload = Upload(staging, filename, name_of_upload(filename))
        staging.hold(upload.name)
        staging.link_known(known)
        yield upload, fields


@blueprint.post("/create/")
@streamed(FAILED_CREATE)
def create(task: Task) -> Steps[None]:
    fields = json_object()
    name, new_name = text(fields, "model"), text(fields, "model_name_on_ollama")
    yield from service().create(task, name, new_name, options(fields), asked_server())


@blueprint.post("/deploy/")
@streamed(FAILED_UPLOAD, ratio_key="progress")
def deploy(task: Task) -> Steps[None]:
    yield from deploy_form(task)


def deploy_form(task: Task) -> Steps[None]:
    """Deploy what the current request brings."""
    with task.failing_as(FAILED_CREATE):
        service().servers(asked_server())
    with _received(task) as (upload, fields):
        new_name = text(fields, "model_name_on_ollama")
        yield from service().deploy(task, upload, new_name, options(fields), asked_server())


@blueprint.put("/upload/<filename>")
@streamed(FAILED_UPLOAD)
def upload_raw(task: Task, filename: str) -> Steps[None]:
    storage = service().storage
    with storage.staging(task.uuid) as staging:
        yield from service().upload(receive_raw(storage, staging, filename))


@blueprint.put("/deploy/<filename>")
@streamed(FAILED_UPLOAD, ratio_key="progress")
def deploy_raw(task: Task, filename: str) -> Steps[None]:
    new_name, asked = text(request.args, "model_name_on_ollama"), options(request.args)
    with task.failing_as(FAILED_CREATE):
        service().servers(asked_server())
    storage = service().storage
    with storage.staging(task.uuid) as staging:
        upload = receive_raw(storage, staging, filename)
        yield from service().deploy(task, upload, new_name, asked, asked_server())


@blueprint.post("/check/")
@fails_as("Failed check model file.")
def check() -> Response:
    """The report on a zip, which is not kept."""
    storage = service().storage
    with storage.staging(str(uuid4())) as staging:
        upload, _ = receive(storage, staging)
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
def report(name: str) -> Response:
    """The report on a model."""
    return json_answer(service().report(name))


@blueprint.get("/<name>/modelfile")
@fails_as(FAILED_GET)
def modelfile(name: str) -> Response:
    """The model's Modelfile, as `ollama create -f` takes it in the model's folder."""
    return Response(service().modelfile(name, options(request.args)), mimetype="text/plain")


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


def _file_name(name: str) -> dict[str, str]:
    """The parameters of a Content-Disposition that name a file (RFC 6266, appendix D)."""
    if name.isascii():
        return {"filename": name}
    plain = name.encode("ascii", "replace").decode().replace("?", "_")
    return {"filename": plain, "filename*": f"UTF-8''{quote(name, safe='')}"}

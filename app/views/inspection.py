"""The endpoints that tell of models and uploads, without changing them."""

from contextlib import ExitStack
from urllib.parse import quote
from uuid import uuid4

from flask import Blueprint, Response, request

from app.planning.early import EarlyLook
from app.planning.options import BadRequest, options
from app.service import inspection
from app.service.early import look_early
from app.service.lines import Task
from app.service.work import FAILED_CREATE
from app.views import schemas
from app.views.answers import json_answer, json_object, service
from app.views.fields import OF_QUERY, asked_for, check_query, json_fields
from app.views.known import wanted_files
from app.views.openapi import CURL_JSON, MAKING, documented
from app.views.stream import fails_as, is_verbose
from app.views.upload import receive

FAILED_GET = "Failed get model."

blueprint = Blueprint("inspection", __name__, url_prefix="/models")
blueprint.before_request(check_query)


@blueprint.post("/check/")
@documented(
    *MAKING,
    answers=schemas.JSON,
    example="curl -F Model=@my_model.zip $service/models/check/",
    body=schemas.form_body(schemas.MODEL_FILES) | schemas.json_body(schemas.DEPLOY),
)
@fails_as("Failed check model file.")
def check() -> Response:
    """Describe a zip, which isn't kept; or check a deploy's fields.

    With the fields alone it is refused what a deploy with them would be refused.
    """
    if request.mimetype == "application/json":
        fields = json_fields(OF_QUERY)
        look_early(service(), Task(str(uuid4()), FAILED_CREATE), asked_for(fields))
        return json_answer({"problems": []})
    storage = service().storage
    with storage.staging(str(uuid4())) as staging:
        upload, _ = receive(storage, staging, lambda fields: EarlyLook())
        return json_answer(inspection.check(service(), upload))


@blueprint.post("/missing/")
@documented(
    answers=schemas.JSON,
    schema=schemas.object_of({"missing": schemas.list_of(schemas.TEXT_VALUE)}, "missing"),
    example=f"curl {CURL_JSON} $service/models/missing/ -d '{{\"files\": []}}'",
    body=schemas.json_body({"files": schemas.FILES}, "files"),
)
@fails_as("Failed compare files.")
def missing() -> Response:
    """Which of these files aren't stored here, and would have to be sent."""
    fields = json_object()
    if "files" not in fields:
        raise BadRequest("The field 'files' is missing. Send the list of files to compare.")
    absent = service().storage.missing(wanted_files(fields, "files"))
    return json_answer({"missing": [file.name for file in absent]})


@blueprint.get("/<name>/")
@documented(
    *(400, 422),
    answers=schemas.JSON,
    example="curl $service/models/my_model/",
    query=[schemas.VERBOSE],
)
@fails_as(FAILED_GET)
def describe(name: str) -> Response:
    """Describe a model; with its history, where that is verbose."""
    history = {"creates": service().storage.model(name).creates()} if is_verbose() else {}
    return json_answer({**inspection.describe(service(), name), **history})


@blueprint.get("/<name>/modelfile")
@documented(
    *(400, 422),
    answers=schemas.TEXT,
    example="curl $service/models/my_model/modelfile",
    query=schemas.OPTIONS_IN_QUERY,
)
@fails_as(FAILED_GET)
def modelfile(name: str) -> Response:
    """A model's Modelfile, as `ollama create -f` takes it in the model's folder."""
    text = inspection.modelfile(service(), name, options(request.args))
    return Response(text, mimetype="text/plain")


@blueprint.post("/<name>/modelfile")
@documented(
    422,
    answers=schemas.TEXT,
    example=f"curl {CURL_JSON} $service/models/my_model/modelfile"
    ' -d \'{"system": "You are terse."}\'',
    body=schemas.json_body(schemas.OPTIONS),
    query=schemas.OPTIONS_IN_QUERY,
)
@fails_as("Failed check Modelfile.")
def check_modelfile(name: str) -> Response:
    """The same by options in JSON: what is wrong with it, before a create."""
    text = inspection.modelfile(service(), name, options(json_object()))
    return Response(text, mimetype="text/plain")


@blueprint.get("/<name>/download")
@documented(
    400,
    answers=schemas.ZIP,
    example="curl -o copy_of_my_model.zip $service/models/my_model/download",
)
@fails_as(FAILED_GET)
def download(name: str) -> Response:
    """The model as a zip, which could be uploaded again; its length is known beforehand."""
    with ExitStack() as opened:
        zipped = opened.enter_context(inspection.zipped(service(), name))
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

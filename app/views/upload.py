"""Zips on their way in: their bytes go straight to where they are worked on."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from flask import Request, current_app, request
from werkzeug.exceptions import RequestEntityTooLarge, UnsupportedMediaType

from app.archive.headers import header_is_known
from app.connection import Connection
from app.metrics import RECEIVED_BYTES, phase
from app.planning.options import BadRequest
from app.service.work import Upload
from app.storage.directory import Storage
from app.storage.names import name_of_upload
from app.storage.staging import Staging
from app.views.form import BLOCK, form_parts

FILE_FIELDS = ("Model", "model")
MAX_FIELD_BYTES = 500_000


class UploadRequest(Request):
    """A request whose JSON, where it can't be read, is refused in the service's own words."""

    def on_json_loading_failed(self, e: ValueError | None) -> Any:
        if e is None:
            raise UnsupportedMediaType("Send a JSON object, as application/json.")
        raise BadRequest(f"The body isn't JSON: {e}.")


def receive(storage: Storage, staging: Staging) -> tuple[Upload, Mapping[str, str]]:
    """Read the form: the zip into `staging`, and the other fields.

    The model is held from the moment that its name is known, so that a model another task works on
    is refused before the zip is sent. Raises what errors.STATUS lists.
    """
    _check_form()
    check_size(storage)
    return _read_form(staging)


def receive_raw(storage: Storage, staging: Staging, filename: str) -> Upload:
    """Read a body that is the zip itself, as `curl -T` sends it; raises as `receive` does."""
    check_size(storage)
    upload = _begin(staging, filename)
    _take("raw", upload, iter(partial(request.stream.read, BLOCK), b""))
    return upload


def _read_form(staging: Staging) -> tuple[Upload, Mapping[str, str]]:
    upload, upload_field = None, ""
    fields: dict[str, str] = {}
    for part in form_parts(request.stream.read, request.mimetype_params["boundary"]):
        if part.filename is None:
            left = MAX_FIELD_BYTES - sum(map(len, fields.values()))
            fields.setdefault(part.name, _text(part.content, left))
            continue
        if upload is not None:
            raise BadRequest("The form holds more than one file. Send one zip at a time.")
        if not part.filename:
            raise BadRequest("No file was chosen. Send a zip in the field 'Model'.")
        upload, upload_field = _begin(staging, part.filename), part.name
        _take("form", upload, part.content)
    if upload is None:
        raise BadRequest("The form has no file. Send the zip in the field 'Model'.")
    if upload_field not in FILE_FIELDS:
        raise BadRequest(f"The file came in the field {upload_field!r}, not in 'Model'.")
    return upload, fields


def _begin(staging: Staging, filename: str) -> Upload:
    upload = Upload(staging, filename, name_of_upload(filename))
    staging.hold(upload.name)
    return upload


def _take(way: str, upload: Upload, pieces: Iterable[bytes]) -> None:
    receive = partial(upload.staging.receive, upload.filename, header_is_known)
    with phase("receive"), receive() as arrival:
        for piece in pieces:
            arrival.write(piece)
            RECEIVED_BYTES.labels(way).inc(len(piece))


def _text(pieces: Iterable[bytes], most: int) -> str:
    content = bytearray()
    for piece in pieces:
        content += piece
        if len(content) > most:
            raise RequestEntityTooLarge
    return content.decode(errors="replace")


def _check_form() -> None:
    if request.mimetype != "multipart/form-data":
        raise UnsupportedMediaType(
            "Send the zip as multipart/form-data, for example: curl -F Model=@model.zip"
        )
    if not request.mimetype_params.get("boundary"):
        raise BadRequest("The Content-Type names no boundary. Let your client write that header.")


def check_size(storage: Storage) -> None:
    """Refuse by its length what needn't be sent, and bound the client's silence."""
    size, most = request.content_length or 0, request.max_content_length
    if most is not None and size > most:
        raise RequestEntityTooLarge(f"The upload has {size} bytes; the limit is {most}.")
    storage.require_space(size, "This upload")
    connection = request.environ.get("gunicorn.socket")
    if isinstance(connection, Connection):
        config = current_app.config
        connection.expect_upload(config["UPLOAD_TIMEOUT"], config["MIN_UPLOAD_RATE"])

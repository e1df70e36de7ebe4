"""Uploads on their way in: their bytes go straight to where they are worked on."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from flask import Request, current_app, request
from werkzeug.exceptions import RequestEntityTooLarge, UnsupportedMediaType

from app.archive.intake import OnFile
from app.connection import Connection
from app.metrics import phase, received
from app.planning.options import BadRequest
from app.service.work import Upload
from app.storage.directory import Storage
from app.storage.names import name_of_upload
from app.storage.staging import Staging
from app.views.form import BLOCK
from app.views.form_upload import FormUpload, Look

FIRST_READ = 16 * 2**10


class UploadRequest(Request):
    """A request whose JSON, where it can't be read, is refused in the service's own words."""

    def on_json_loading_failed(self, e: ValueError | None) -> Any:
        if e is None:
            raise UnsupportedMediaType("Send a JSON object, as application/json.")
        raise BadRequest(f"The body isn't JSON: {e}.")


def receive(storage: Storage, staging: Staging, look: Look) -> tuple[Upload, Mapping[str, str]]:
    """Read the form: its files into `staging`, and the other fields.

    The model is held from the moment that its name is known, so that a model another task works on
    is refused before its files are sent. Raises what errors.STATUS lists.
    """
    _check_form()
    check_size(storage)
    boundary = request.mimetype_params["boundary"]
    with phase("receive"):
        form = FormUpload(staging, look, request.args, storage.limits.entries)
        return form.read(growing_reads(), boundary)


def receive_raw(storage: Storage, staging: Staging, filename: str, on_file: OnFile) -> Upload:
    """Read a body that is the upload itself, as `curl -T` sends it; raises as `receive` does."""
    upload = Upload(staging, filename, name_of_upload(filename))
    staging.hold(upload.name)
    check_size(storage)
    with phase("receive"), staging.receive(filename, on_file) as arrival:
        for piece in iter(partial(growing_reads(), BLOCK), b""):
            arrival.write(piece)
            received("raw", len(piece))
    return upload


def growing_reads() -> Callable[[int], bytes]:
    """Reads the body: little at first, so that a slow client's mistake is seen as soon as it has
    come, and then in blocks that cost least."""
    most = FIRST_READ

    def read(size: int) -> bytes:
        nonlocal most
        block = request.stream.read(min(size, most))
        most = min(2 * most, BLOCK)
        return block

    return read


def _check_form() -> None:
    if request.mimetype != "multipart/form-data":
        raise UnsupportedMediaType(
            "Send the zip as multipart/form-data, for example: curl -F Model=@model.zip"
        )
    if not request.mimetype_params.get("boundary"):
        raise BadRequest("The Content-Type names no boundary. Let your client write that header.")


def check_size(storage: Storage, *, but: str | None = None) -> None:
    """Refuse by its length what needn't be sent, and bound the client's silence. `but` is the
    partial upload that the bytes are of."""
    size, most = request.content_length or 0, request.max_content_length
    if most is not None and size > most:
        raise RequestEntityTooLarge(f"The upload has {size} bytes; the limit is {most}.")
    storage.require_space(size, "This upload", but=but)
    connection = request.environ.get("gunicorn.socket")
    if isinstance(connection, Connection):
        config = current_app.config
        taken_over = None if but is None else partial(storage.uploads.is_wanted, but)
        connection.expect_upload(config["UPLOAD_TIMEOUT"], config["MIN_UPLOAD_RATE"], taken_over)

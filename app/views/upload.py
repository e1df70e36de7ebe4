"""Zips on their way in: their bytes go straight to where they are worked on."""

import socket
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from flask import Request, current_app, request
from werkzeug.exceptions import RequestEntityTooLarge, UnsupportedMediaType
from werkzeug.formparser import FormDataParser

from app.deploy import Upload
from app.requested import BadRequest
from app.storage import Staging, Storage, name_of_upload

FILE_FIELDS = ("Model", "model")
BLOCK = 2**20


class UploadRequest(Request):
    """A request whose file part is written where `open_file(filename)` says.

    Werkzeug's own way is a temporary file, from which the bytes would have to be copied; and it
    takes a broken form for an empty one.
    """

    open_file: Callable[[str], BinaryIO] | None = None
    max_form_parts = 50

    def on_json_loading_failed(self, e: ValueError | None) -> Any:
        if e is None:
            raise UnsupportedMediaType("Send a JSON object, as application/json.")
        raise BadRequest(f"The body isn't JSON: {e}.")

    def make_form_data_parser(self) -> FormDataParser:
        parser = super().make_form_data_parser()
        parser.silent = False
        return parser

    def _get_file_stream(
        self,
        total_content_length: int | None,
        content_type: str | None,
        filename: str | None = None,
        content_length: int | None = None,
    ) -> Any:
        if self.open_file is None:
            raise BadRequest("This request takes no file.")
        return self.open_file(filename or "")


def receive(storage: Storage, staging: Staging) -> tuple[Upload, Mapping[str, str]]:
    """Read the form: the zip into `staging`, and the other fields.

    The model is held from the moment that its name is known, so that a model another task works on
    is refused before the zip is sent. Raises what errors.STATUS lists.
    """
    _check_form()
    _check_size(storage)
    received: list[Upload] = []

    def open_file(filename: str) -> BinaryIO:
        if received:
            raise BadRequest("The form holds more than one file. Send one zip at a time.")
        if not filename:
            raise BadRequest("No file was chosen. Send a zip in the field 'Model'.")
        upload = Upload(staging, filename, name_of_upload(filename))
        staging.hold(upload.name)
        received.append(upload)
        return staging.receive()

    assert isinstance(request, UploadRequest)
    request.open_file = open_file
    try:
        fields, files = request.form, request.files
    except ValueError as error:
        raise BadRequest(
            "The form can't be read: it is cut off, or its parts aren't as its boundary says."
        ) from error
    for file in files.values():
        file.close()
    if not received:
        raise BadRequest("The form has no file. Send the zip in the field 'Model'.")
    if not any(field in files for field in FILE_FIELDS):
        raise BadRequest(f"The file came in the field {next(iter(files), '')!r}, not in 'Model'.")
    return received[0], fields


def receive_raw(storage: Storage, staging: Staging, filename: str) -> Upload:
    """Read a body that is the zip itself, as `curl -T` sends it; raises as `receive` does."""
    _check_size(storage)
    upload = Upload(staging, filename, name_of_upload(filename))
    staging.hold(upload.name)
    with staging.receive() as file:
        while block := request.stream.read(BLOCK):
            file.write(block)
    return upload


def _check_form() -> None:
    if request.mimetype != "multipart/form-data":
        raise UnsupportedMediaType(
            "Send the zip as multipart/form-data, for example: curl -F Model=@model.zip"
        )
    if not request.mimetype_params.get("boundary"):
        raise BadRequest("The Content-Type names no boundary. Let your client write that header.")


def _check_size(storage: Storage) -> None:
    """Refuse by its length what needn't be sent, and bound the client's silence."""
    size, most = request.content_length or 0, current_app.config["MAX_UPLOAD_BYTES"]
    if size > most:
        raise RequestEntityTooLarge(f"The upload has {size} bytes; at most {most} are taken.")
    storage.require_space(size, "This upload")
    connection = request.environ.get("gunicorn.socket")
    if isinstance(connection, socket.socket):
        connection.settimeout(current_app.config["UPLOAD_TIMEOUT"])

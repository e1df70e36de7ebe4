"""A form with a zip in it, read so that the zip's bytes go straight to where it is worked on."""

from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from flask import Request, request
from werkzeug.exceptions import UnsupportedMediaType

from app.deploy import Upload
from app.requested import BadRequest
from app.storage import Staging, Storage, name_of_upload

FILE_FIELDS = ("Model", "model")


class UploadRequest(Request):
    """A request whose file part is written where `open_file(filename)` says.

    Werkzeug's own way is a temporary file, from which the bytes would have to be copied.
    """

    open_file: Callable[[str], BinaryIO] | None = None
    max_form_parts = 50

    def on_json_loading_failed(self, e: ValueError | None) -> Any:
        if e is None:
            return super().on_json_loading_failed(e)
        raise BadRequest(f"The body isn't JSON: {e}.")

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
    if request.mimetype != "multipart/form-data":
        raise UnsupportedMediaType(
            "Send the zip as multipart/form-data, for example: curl -F Model=@model.zip"
        )
    storage.require_space(request.content_length or 0, "This upload")
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
    fields, files = request.form, request.files
    if not received:
        raise BadRequest("The form has no file. Send the zip in the field 'Model'.")
    if not any(field in files for field in FILE_FIELDS):
        raise BadRequest(f"The file came in the field {next(iter(files), '')!r}, not in 'Model'.")
    return received[0], fields

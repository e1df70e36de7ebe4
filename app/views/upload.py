"""Uploads as they are received: their bytes go straight to what unpacks them."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from flask import Request, current_app, request
from werkzeug.exceptions import RequestEntityTooLarge, UnsupportedMediaType

from app.archive.intake import OnFile
from app.connection import Connection
from app.metrics import phase, received
from app.planning.options import BadRequest
from app.planning.safetensors_parts import ADAPTER_CONFIG
from app.planning.unusable import Unusable
from app.service.work import Upload
from app.storage.directory import Storage
from app.storage.names import name_of_upload
from app.storage.staging import Staging
from app.views.fields import CONFIG_FIELD
from app.views.form import BLOCK
from app.views.form_upload import FormUpload, Look

FIRST_READ = 16 * 2**10


def _go_on() -> None:
    """Check nothing."""


class UploadRequest(Request):
    """A request whose JSON, where it can't be read, is refused in the service's own words."""

    def on_json_loading_failed(self, e: ValueError | None) -> Any:
        if e is None:
            raise UnsupportedMediaType("Send a JSON object, as application/json.")
        raise BadRequest(f"The body isn't JSON: {e}.")


def receive(
    storage: Storage, staging: Staging, look: Look, check: Callable[[], None] = _go_on
) -> tuple[Upload, Mapping[str, str]]:
    """Read the form: its files into `staging`, and the other fields.

    The model is held from the moment that its name is known, so that a model another task works on
    is refused before its files are sent. `check` is called for each piece that is read; what it
    raises ends the upload. Raises what errors.STATUS lists.
    """
    _check_form()
    check_size(storage)
    boundary = request.mimetype_params["boundary"]
    with phase("receive"):
        size = request.content_length
        form = FormUpload(staging, look, request.args, storage.limits.entries, size)
        return form.read(growing_reads(check), boundary)


def receive_raw(
    storage: Storage, staging: Staging, filename: str, on_file: OnFile, check: Callable[[], None]
) -> Upload:
    """Read a body that is the upload itself, as `curl -T` sends it; `check`, and what it raises, as
    of `receive`.

    An adapter in safetensors has its config in the query.
    """
    upload = Upload(staging, filename, name_of_upload(filename))
    config = config_of(filename, request.args.get(CONFIG_FIELD), "query")
    staging.hold(upload.name)
    check_size(storage)
    with phase("receive"), _taking(staging, filename, config, on_file) as take:
        for piece in iter(partial(growing_reads(check), BLOCK), b""):
            take(piece)
            received("raw", len(piece))
    return upload


def config_of(filename: str, said: str | None, where: str) -> str | None:
    """What was `said` (`where`: query or metadata) to be the config of a safetensors file that
    comes alone; None for a file that needs none. Raises Unusable."""
    if not filename.lower().endswith(".safetensors"):
        return None
    if not said:
        raise Unusable(
            f"{filename} comes without a config, which tells what it is.",
            "Send its folder in a zip or a tar, or its files in one form; an adapter's config also"
            f" goes into the {where}, as {CONFIG_FIELD}.",
        )
    return said


@contextmanager
def _taking(
    staging: Staging, filename: str, config: str | None, on_file: OnFile
) -> Iterator[Callable[[bytes], None]]:
    """What takes a body's bytes."""
    if config is None:
        with staging.receive(filename, on_file) as arrival:
            arrival.expect(request.content_length)
            yield arrival.write
        return
    with staging.receive_files(on_file) as files:
        files.add(ADAPTER_CONFIG, config.encode())
        with files.file(filename) as write:
            yield write


def growing_reads(check: Callable[[], None] = _go_on) -> Callable[[int], bytes]:
    """Reads the body: little at first, so that a slow client's mistake is seen as soon as it has
    come, and then in blocks that cost least; `check` is called before each."""
    most = FIRST_READ

    def read(size: int) -> bytes:
        nonlocal most
        check()
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

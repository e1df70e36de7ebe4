"""Resumable uploads: the tus protocol, version 1.0.0 (https://tus.io/protocols).

An upload that has arrived whole is named in the JSON body of /models/upload/ or /models/deploy/.
"""

import base64
import binascii
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from uuid import uuid4
from wsgiref.handlers import format_date_time

from flask import Blueprint, Response, current_app, request, url_for
from werkzeug.exceptions import (
    MethodNotAllowed,
    PreconditionFailed,
    RequestEntityTooLarge,
    UnsupportedMediaType,
)

from app.formats.files import ModelFile
from app.metrics import received
from app.planning.early import EarlyLook
from app.planning.options import FIELDS, BadRequest
from app.service.early import look_early
from app.service.lines import Task
from app.storage.failures import NoSuchUpload, UploadLocked
from app.storage.names import name_of_upload
from app.storage.partial import PartialUploads
from app.storage.partial_arrivals import CHECKSUMS, Checksum, check_length
from app.storage.partial_folders import PartialUpload
from app.views.answers import service
from app.views.fields import CONFIG_FIELD, NEW_NAME, asked_for, check_names
from app.views.form import BLOCK
from app.views.openapi import documented
from app.views.stream import fails_as
from app.views.upload import check_size, config_of, growing_reads

VERSION = "1.0.0"
EXTENSIONS = "creation,creation-with-upload,termination,expiration,checksum"
CHUNK = "application/offset+octet-stream"
FAILED = "Failed upload model file."
_TUS = f"-H 'Tus-Resumable: {VERSION}'"
_BYTES_REFUSED = (400, 408, 412, 413, 422, 460, 507)
OF_DEPLOY = frozenset((*FIELDS, NEW_NAME, "server"))
READ = OF_DEPLOY | {"filename", CONFIG_FIELD}

blueprint = Blueprint("uploads", __name__, url_prefix="/uploads")


@blueprint.before_request
def require_version() -> None:
    """Raise PreconditionFailed unless the client speaks the version that is spoken here."""
    if request.method != "OPTIONS" and request.headers.get("Tus-Resumable") != VERSION:
        raise PreconditionFailed(f"Send the header Tus-Resumable: {VERSION}.")


@blueprint.after_request
def say_version(response: Response) -> Response:
    response.headers["Tus-Resumable"] = response.headers["Tus-Version"] = VERSION
    return response


@blueprint.route("/", methods=["OPTIONS"], provide_automatic_options=False)
def capabilities() -> Response:
    """What of the protocol there is."""
    response = Response(status=204)
    response.headers["Tus-Extension"] = EXTENSIONS
    response.headers["Tus-Checksum-Algorithm"] = ",".join(CHECKSUMS)
    response.headers["Tus-Max-Size"] = str(current_app.config["MAX_CONTENT_LENGTH"])
    return response


@blueprint.post("/")
@documented(
    *_BYTES_REFUSED,
    answers=None,
    statuses=["201"],
    example="size=$(stat -c %s my_model.zip); name=$(printf my_model.zip | base64)\n"
    f'curl -i -X POST {_TUS} -H "Upload-Length: $size" \\\n'
    '  -H "Upload-Metadata: filename $name" $service/uploads/',
)
@fails_as(FAILED)
def create() -> Response:
    """Begin a resumable upload (tus), named by `filename` in its metadata.

    The first bytes may come along. Where the metadata has fields of a deploy, they are checked now,
    and the files by them as they arrive; the deploy itself says them again.
    """
    _check_extensions()
    length, most = _number("Upload-Length"), current_app.config["MAX_CONTENT_LENGTH"]
    if length > most:
        raise RequestEntityTooLarge(f"The upload has {length} bytes; the limit is {most}.")
    metadata = _metadata()
    if not metadata.get("filename"):
        raise BadRequest(
            "The header Upload-Metadata doesn't say how the file is called: it needs the key"
            " 'filename' and the name in Base64, such as `filename bW9kZWwuemlw`."
        )
    name_of_upload(metadata["filename"])
    config_of(metadata["filename"], metadata.get(CONFIG_FIELD), "metadata")
    if not OF_DEPLOY.isdisjoint(metadata):
        check_names(metadata, OF_DEPLOY)
    _look(metadata)
    upload = _uploads().create(length, metadata)
    if request.mimetype == CHUNK:
        try:
            upload = _append(upload.id, 0)
        except Exception:
            # Its client doesn't know it, and so can't go on with it.
            with suppress(NoSuchUpload, UploadLocked):
                _uploads().remove(upload.id)
            raise
    response = _answer(201, upload)
    response.headers["Location"] = url_for("uploads.state", upload_id=upload.id)
    return response


@blueprint.get("/<upload_id>")
@documented(412, answers=None, example=f"curl -I {_TUS} $service/uploads/$upload")
@fails_as(FAILED)
def state(upload_id: str) -> Response:
    """How much of an upload is here (tus: HEAD)."""
    upload = _uploads().get(upload_id)
    response = _answer(200, upload)
    response.headers["Upload-Length"] = str(upload.length)
    response.headers["Upload-Metadata"] = ",".join(
        f"{key} {base64.b64encode(value.encode(errors='surrogateescape')).decode()}".rstrip()
        for key, value in upload.metadata.items()
    )
    return response


@blueprint.patch("/<upload_id>")
@documented(
    *(*_BYTES_REFUSED, 409, 415, 423),
    answers=None,
    statuses=["204"],
    example=f"curl -X PATCH -T my_model.zip {_TUS} -H 'Content-Type: {CHUNK}' \\\n"
    "  -H 'Upload-Offset: 0' $service/uploads/$upload",
)
@fails_as(FAILED)
def append(upload_id: str) -> Response:
    """Send the next bytes of an upload (tus), from Upload-Offset on."""
    if request.mimetype != CHUNK:
        raise UnsupportedMediaType(f"Send the bytes as {CHUNK}.")
    return _answer(204, _append(upload_id, _number("Upload-Offset")))


@blueprint.delete("/<upload_id>")
@documented(
    *(412, 423),
    answers=None,
    statuses=["204"],
    example=f"curl -X DELETE {_TUS} $service/uploads/$upload",
)
@fails_as("Failed delete upload.")
def terminate(upload_id: str) -> Response:
    """Remove an upload and what has come of it (tus)."""
    _uploads().remove(upload_id)
    return Response(status=204)


@blueprint.post("/<upload_id>")
@documented(
    *(*_BYTES_REFUSED, 405, 409, 415, 423),
    answers=None,
    statuses=["2XX"],
    example=f"curl -i -X POST {_TUS} -H 'X-HTTP-Method-Override: HEAD' $service/uploads/$upload",
)
@fails_as(FAILED)
def overridden(upload_id: str) -> Response:
    """What X-HTTP-Method-Override says: PATCH, DELETE or HEAD (tus).

    For clients that can send nothing but POST.
    """
    views = {"PATCH": append, "DELETE": terminate, "HEAD": state}
    view = views.get(request.headers.get("X-HTTP-Method-Override", "").upper())
    if view is None:
        raise MethodNotAllowed(("GET", "HEAD", "PATCH", "DELETE"))
    response: Response = view(upload_id)
    return response


def _uploads() -> PartialUploads:
    return service().storage.uploads


def _append(upload_id: str, at: int) -> PartialUpload:
    uploads, checksum = _uploads(), _checksum()
    check_size(service().storage, but=upload_id)
    upload = uploads.get(upload_id)
    if at == upload.offset:
        check_length(upload, request.content_length or 0)
    on_file = _LateLook(partial(_look, upload.metadata))
    return uploads.append(upload_id, at, _blocks(), on_file=on_file, checksum=checksum)


def _look(metadata: Mapping[str, str]) -> EarlyLook:
    """What looks at the files as they arrive, for the deploy whose fields the metadata has, if any.
    Raises what such a deploy would be refused for."""
    fields = {key: value for key, value in metadata.items() if key in OF_DEPLOY}
    if not fields:
        return EarlyLook()
    return look_early(service(), Task(str(uuid4()), FAILED), asked_for(fields))


class _LateLook:
    """Looks at files by what `begin` gives once there is one. What has become of the deploy's
    fields since the upload was created is left for the deploy to find."""

    def __init__(self, begin: Callable[[], EarlyLook]) -> None:
        self._begin = begin
        self._look: EarlyLook | None = None

    def __call__(self, file: ModelFile) -> bool:
        if self._look is None:
            try:
                self._look = self._begin()
            except Exception:
                self._look = EarlyLook()
        return self._look(file)


def _blocks() -> Iterator[bytes]:
    for block in iter(partial(growing_reads(), BLOCK), b""):
        received("resumable", len(block))
        yield block


def _answer(status: int, upload: PartialUpload) -> Response:
    response = Response(status=status)
    response.headers["Upload-Offset"] = str(upload.offset)
    response.headers["Upload-Expires"] = format_date_time(upload.expires)
    response.headers["Cache-Control"] = "no-store"
    return response


def _check_extensions() -> None:
    """Refuse what of the protocol isn't offered, instead of ignoring it."""
    for header, way_out in (
        ("Upload-Concat", "Send the file as one upload, without parallel ones."),
        ("Upload-Defer-Length", "Send Upload-Length."),
    ):
        if header in request.headers:
            raise BadRequest(f"The header {header} is of an extension that isn't here. {way_out}")


def _number(header: str) -> int:
    text = request.headers.get(header, "")
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise BadRequest(f"The header {header} must be a whole number of bytes.")
    return int(text)


def _checksum() -> Checksum | None:
    """What Upload-Checksum says of the bytes that are sent."""
    text = request.headers.get("Upload-Checksum")
    if text is None:
        return None
    algorithm, _, encoded = text.partition(" ")
    checksum = Checksum(algorithm, _decoded(encoded, "The header Upload-Checksum"))
    if len(checksum.digest) != CHECKSUMS.get(algorithm):
        known = " or ".join(CHECKSUMS)
        raise BadRequest(f"The header Upload-Checksum must be {known} and that digest in Base64.")
    return checksum


def _metadata() -> Mapping[str, str]:
    """Upload-Metadata: keys with their values in Base64, between commas. Values that aren't UTF-8
    have surrogates; those that the service reads may not."""
    pairs = filter(None, map(str.strip, request.headers.get("Upload-Metadata", "").split(",")))
    metadata: dict[str, str] = {}
    for pair in pairs:
        key, _, encoded = pair.partition(" ")
        if key in metadata:
            raise BadRequest(f"The header Upload-Metadata has the key {key!r} twice.")
        decoded = _decoded(encoded, f"The value of {key[:99]!r} in the header Upload-Metadata")
        try:
            metadata[key] = decoded.decode(errors="strict" if key in READ else "surrogateescape")
        except UnicodeDecodeError:
            error = f"The value of {key!r} in the header Upload-Metadata isn't UTF-8."
            raise BadRequest(error) from None
    return metadata


def _decoded(text: str, what: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BadRequest(f"{what} isn't Base64.") from None

"""Uploads that can be gone on with: the tus protocol, version 1.0.0 (https://tus.io/protocols).

An upload that has arrived whole is named in the JSON body of /models/upload/ or /models/deploy/.
"""

import base64
import binascii
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from wsgiref.handlers import format_date_time

from flask import Blueprint, Response, current_app, request, url_for
from werkzeug.exceptions import (
    MethodNotAllowed,
    PreconditionFailed,
    RequestEntityTooLarge,
    UnsupportedMediaType,
)

from app.archive.headers import header_is_known
from app.metrics import received
from app.planning.options import BadRequest
from app.storage.failures import NoSuchUpload, UploadLocked
from app.storage.names import name_of_upload
from app.storage.partial import CHECKSUMS, Checksum, PartialUpload, PartialUploads
from app.views.answers import service
from app.views.form import BLOCK
from app.views.stream import fails_as
from app.views.upload import check_size

VERSION = "1.0.0"
EXTENSIONS = "creation,creation-with-upload,termination,expiration,checksum"
CHUNK = "application/offset+octet-stream"
FAILED = "Failed upload model file."

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
@fails_as(FAILED)
def create() -> Response:
    """Begin an upload, named by `filename` in its metadata; with the first bytes where they come
    along."""
    length, most = _number("Upload-Length"), current_app.config["MAX_CONTENT_LENGTH"]
    if length > most:
        raise RequestEntityTooLarge(f"The upload has {length} bytes; the limit is {most}.")
    metadata = _metadata()
    name_of_upload(metadata.get("filename", ""))
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
@fails_as(FAILED)
def state(upload_id: str) -> Response:
    """How much of the upload is here."""
    upload = _uploads().get(upload_id)
    response = _answer(200, upload)
    response.headers["Upload-Length"] = str(upload.length)
    response.headers["Upload-Metadata"] = ",".join(
        f"{key} {base64.b64encode(value.encode()).decode()}".rstrip()
        for key, value in upload.metadata.items()
    )
    return response


@blueprint.patch("/<upload_id>")
@fails_as(FAILED)
def append(upload_id: str) -> Response:
    """Take the bytes from Upload-Offset on."""
    if request.mimetype != CHUNK:
        raise UnsupportedMediaType(f"Send the bytes as {CHUNK}.")
    return _answer(204, _append(upload_id, _number("Upload-Offset")))


@blueprint.delete("/<upload_id>")
@fails_as("Failed delete upload.")
def terminate(upload_id: str) -> Response:
    """Remove the upload and what has come of it."""
    _uploads().remove(upload_id)
    return Response(status=204)


@blueprint.post("/<upload_id>")
@fails_as(FAILED)
def overridden(upload_id: str) -> Response:
    """What X-HTTP-Method-Override says, for clients that can send nothing but POST."""
    views = {"PATCH": append, "DELETE": terminate, "HEAD": state}
    view = views.get(request.headers.get("X-HTTP-Method-Override", "").upper())
    if view is None:
        raise MethodNotAllowed(("GET", "HEAD", "PATCH", "DELETE"))
    response: Response = view(upload_id)
    return response


def _uploads() -> PartialUploads:
    return service().storage.uploads


def _append(upload_id: str, at: int) -> PartialUpload:
    check_size(service().storage)
    checksum = _checksum()
    return _uploads().append(upload_id, at, _blocks(), on_file=header_is_known, checksum=checksum)


def _blocks() -> Iterator[bytes]:
    for block in iter(partial(request.stream.read, BLOCK), b""):
        received("resumable", len(block))
        yield block


def _answer(status: int, upload: PartialUpload) -> Response:
    response = Response(status=status)
    response.headers["Upload-Offset"] = str(upload.offset)
    response.headers["Upload-Expires"] = format_date_time(upload.expires)
    response.headers["Cache-Control"] = "no-store"
    return response


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
    checksum = Checksum(algorithm, _decoded(encoded))
    if len(checksum.digest) != CHECKSUMS.get(algorithm):
        known = " or ".join(CHECKSUMS)
        raise BadRequest(f"The header Upload-Checksum must be {known} and that digest in Base64.")
    return checksum


def _metadata() -> Mapping[str, str]:
    """Upload-Metadata: keys with their values in Base64, between commas."""
    pairs = filter(None, map(str.strip, request.headers.get("Upload-Metadata", "").split(",")))
    metadata: dict[str, str] = {}
    for pair in pairs:
        key, _, encoded = pair.partition(" ")
        if key in metadata:
            raise BadRequest(f"The header Upload-Metadata has the key {key!r} twice.")
        metadata[key] = _decoded(encoded).decode(errors="replace")
    return metadata


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BadRequest("A header holds what isn't Base64.") from None

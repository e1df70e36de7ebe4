"""Files that clients send by their digest, before they ask for a model: Ollama's blobs.

Source: Ollama, server/routes.go (HeadBlobHandler, CreateBlobHandler).
"""

import re
from collections.abc import Iterator
from functools import partial

from flask import Blueprint, Response, request

from app.metrics import received
from app.planning.options import BadRequest
from app.storage.failures import WrongDigest
from app.views.answers import service
from app.views.form import BLOCK
from app.views.ollama_protocol.answers import end_unread, json_answer
from app.views.openapi import documented
from app.views.upload import check_size

_DIGEST = re.compile(r"sha256[:-]([0-9a-fA-F]{64})")

blueprint = Blueprint("blobs", __name__, url_prefix="/api/blobs")


@blueprint.route("/<digest>", methods=["HEAD"])
def is_here(digest: str) -> Response:
    """Whether the file is here, as a blob or in a stored model."""
    if service().storage.blobs.find(_sha256(digest)) is None:
        return json_answer({"error": f'blob "{digest}" not found'}, 404)
    return Response(status=200, mimetype=None)


@blueprint.post("/<digest>")
@documented(
    statuses=["200", "201"],
    example="digest=$(sha256sum my_model.zip | cut -c -64)\n"
    "curl -T my_model.zip -X POST $service/api/blobs/sha256:$digest",
)
def receive(digest: str) -> Response:
    """Ollama's protocol: a file for a model to come; where it is here already, its bytes aren't
    looked at."""
    sha256, storage = _sha256(digest), service().storage
    if storage.blobs.find(sha256) is not None:
        end_unread()
        return Response(status=200, mimetype=None)
    check_size(storage)
    try:
        storage.blobs.receive(sha256, _blocks())
    except WrongDigest as error:
        words = f'digest mismatch, expected "{digest}", got "sha256:{error.got}"'
        raise BadRequest(words) from error
    return Response(status=201, mimetype=None)


def _sha256(digest: str) -> str:
    match = _DIGEST.fullmatch(digest)
    if match is None:
        raise BadRequest("invalid digest format")
    return match[1]


def _blocks() -> Iterator[bytes]:
    for block in iter(partial(request.stream.read, BLOCK), b""):
        received("blob", len(block))
        yield block

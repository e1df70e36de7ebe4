"""The beginnings of files, before any is sent whole: one JSON line that lists them, then their
bytes, one after the other."""

from collections.abc import Iterator
from io import BytesIO
from typing import Any

from flask import Blueprint, Response, request

from app.planning.options import BadRequest, options, read_json
from app.service.preview import FileHead, preview
from app.views import schemas
from app.views.answers import asked_servers, json_answer, service
from app.views.openapi import ASKING_OLLAMA, documented
from app.views.stream import fails_as

MOST_BYTES = 16 * 2**20
LIST_BYTES = 2 * 2**20
MAX_FILES = 10_000

blueprint = Blueprint("preview", __name__, url_prefix="/models")


@blueprint.post("/preview/")
@documented(
    *(422, *ASKING_OLLAMA),
    answers=schemas.JSON,
    example="size=$(stat -c %s base.gguf); head=$((size < 4000000 ? size : 4000000))\n"
    '{ echo \'{"files": [{"name": "base.gguf", "size": \'$size\', "head": \'$head\'}]}\'\n'
    "  head -c $head base.gguf; } |\n"
    f"  curl -H 'Content-Type: {schemas.BYTES}' --data-binary @- \\\n"
    "    $service/models/preview/",
    body={schemas.BYTES: {"schema": schemas.TEXT_VALUE}},
    query=[schemas.SERVER],
)
@fails_as("Failed check model file.")
def look() -> Response:
    """What a deploy would make of files, told from their beginnings: a first line of JSON that
    lists them, and the options; then those bytes, one after the other."""
    request.max_content_length = MOST_BYTES
    body = BytesIO(request.get_data(cache=False))
    try:
        fields = read_json(body.readline(LIST_BYTES))
    except ValueError as error:
        raise BadRequest(f"The first line isn't JSON: {error}.") from error
    if not isinstance(fields, dict):
        raise BadRequest("The first line must be a JSON object with 'files'.")
    heads = list(_heads(fields, body))
    return json_answer(preview(service(), heads, options(fields), asked_servers({})))


def _heads(fields: dict[str, Any], body: BytesIO) -> Iterator[FileHead]:
    listed = fields.get("files")
    if not isinstance(listed, list) or len(listed) > MAX_FILES:
        raise BadRequest(f"The field 'files' takes a list of at most {MAX_FILES} files.")
    for file in listed:
        match file:
            case {"name": str(name), "size": int(size), "head": int(head)} if 0 <= head <= size:
                yield FileHead(name, size, body.read(head))
            case _:
                raise BadRequest(
                    "Each of 'files' must be an object with 'name' (text), 'size' and 'head': how"
                    " many bytes it has, and how many of them follow the first line."
                )

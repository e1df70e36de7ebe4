"""What bodies, queries and answers look like, as JSON Schema: what routes share of it."""

from collections.abc import Mapping
from typing import Any

from app.planning.options import MERGE_CHOICES, QUANTIZE_TYPES
from app.views.fields import NEW_NAME
from app.views.known import MAX_FILES

NDJSON, JSON, TEXT, HTML = "application/x-ndjson", "application/json", "text/plain", "text/html"
ZIP, BYTES = "application/zip", "application/octet-stream"
FORM, URL_FORM = "multipart/form-data", "application/x-www-form-urlencoded"

Schema = dict[str, Any]
TEXT_VALUE: Schema = {"type": "string"}


def object_of(properties: Mapping[str, Schema], *required: str) -> Schema:
    """An object with these properties."""
    return {"type": "object", "properties": dict(properties), "required": list(required)}


def list_of(items: Schema, **bounds: int) -> Schema:
    """An array of such items."""
    return {"type": "array", "items": items, **bounds}


def json_body(properties: Mapping[str, Schema], *required: str) -> dict[str, Schema]:
    """A request's content: one JSON object."""
    return {JSON: {"schema": object_of(properties, *required)}}


def form_body(properties: Mapping[str, Schema], *required: str) -> dict[str, Schema]:
    """A request's content: a form, which always has the model's files."""
    return {FORM: {"schema": object_of(properties, "Model", *required)}}


def in_query(name: str, schema: Schema, said: str = "", *, required: bool = False) -> Schema:
    """A parameter of the query."""
    about = {"description": said} if said else {}
    return {"name": name, "in": "query", "required": required, "schema": schema, **about}


BINARY: Schema = {"type": "string", "format": "binary"}
RAW_BODY = {ZIP: {"schema": BINARY}}
MODEL: dict[str, Schema] = {"model": TEXT_VALUE}
OPTIONS: dict[str, Schema] = {
    "from": {"type": "string", "description": "The base of an adapter that comes alone."},
    "system": TEXT_VALUE,
    "template": {"type": "string", "description": "A Go template, as Ollama's TEMPLATE."},
    "modelfile_template": {"type": "string", "description": "A file's name in modelfiles/."},
    "parameters": {"description": "A JSON object, in a form as text.", "type": "object"},
    "license": TEXT_VALUE,
    "modelfile": {
        "type": "string",
        "description": "A whole Modelfile; its FROM and ADAPTER as the service writes them.",
    },
    "quantize": {"type": "string", "enum": list(QUANTIZE_TYPES)},
    "replace": {"type": "boolean", "description": "False: 409 if the name is taken."},
    "merge": {"type": "string", "enum": list(MERGE_CHOICES)},
    "adapter_scale": {"type": "number"},
    "projector": {"type": "string", "description": "Which mmproj file, where there are several."},
    "verify": {"type": "boolean", "description": "Have Ollama load it and answer one token."},
}
DEPLOY: dict[str, Schema] = {NEW_NAME: TEXT_VALUE, **OPTIONS}
MODEL_FILES: dict[str, Schema] = {
    "Model": list_of(BINARY, minItems=1)
    | {
        "description": "One archive (.zip, .tar, .tar.gz, .tgz, .tar.zst), one .gguf, or the files"
        " of the model themselves, a field each; those of a folder are named by their paths in it."
    },
    "name": {
        "type": "string",
        "description": "The model's name, where files come by themselves: otherwise their folder's,"
        " that of the one file of weights, or the name on Ollama. Not for archives.",
    },
    "adapter_config": {
        "type": "string",
        "description": "The text of the adapter_config.json of an adapter whose .safetensors comes"
        " alone; in the query where that is the body.",
    },
}
FILES = list_of(
    object_of(
        {
            "name": TEXT_VALUE,
            "size": {"type": "integer", "minimum": 0},
            "sha256": {"type": "string", "pattern": "^[0-9a-fA-F]{64}$"},
        },
        *("name", "size", "sha256"),
    ),
    maxItems=MAX_FILES,
)
ARRIVED: dict[str, Schema] = {
    "upload": {"type": "string", "description": "The id of a resumable upload that is whole."},
    "known": FILES
    | {"description": "Files that the service has already, which are part of the model, too."},
    "name": {"type": "string", "description": "The model's name, where there is no `upload`."},
}
"""What names an upload instead of being it."""

VERBOSE = in_query("verbose", TEXT_VALUE, "1 adds progress lines, and keys, to the fixed ones.")
SERVER = in_query(
    "server",
    list_of(TEXT_VALUE),
    "Of several Ollama servers those that are meant, each by a parameter of its own; otherwise"
    " all.",
)
OPTIONS_IN_QUERY = tuple(
    in_query(name, TEXT_VALUE if schema["type"] == "object" else schema)
    for name, schema in OPTIONS.items()
)

_RATIO: Schema = {"type": "number", "minimum": 0, "maximum": 1}
_MESSAGE = object_of(
    {
        "action": TEXT_VALUE,
        "task_uuid": TEXT_VALUE,
        "progress_ratio": _RATIO,
        "progress": _RATIO,
        "details": {
            "type": "object",
            "description": "`error`, and often `hint`, where status isn't 200.",
        },
    },
    *("action", "task_uuid", "details"),
)
LINE = object_of({"status": {"type": "integer"}, "message": _MESSAGE}, "status", "message") | {
    "description": "One line; the last one's status tells how the task ended."
}

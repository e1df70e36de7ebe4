"""The service's description of itself (OpenAPI 3.1), from which /docs is made."""

from importlib.metadata import version
from typing import Any

from app.modelfile.grammar import ROLES
from app.planning.options import MERGE_CHOICES, QUANTIZE_TYPES
from app.service.chat import MAX_MESSAGES
from app.views.examples import EXAMPLES, FAILURES, LINES
from app.views.known import MAX_FILES

NDJSON, JSON, TEXT, HTML = "application/x-ndjson", "application/json", "text/plain", "text/html"
ZIP = "application/zip"

_MESSAGE = {
    "type": "object",
    "required": ["action", "task_uuid", "details"],
    "properties": {
        "action": {"type": "string"},
        "task_uuid": {"type": "string"},
        "progress_ratio": {"type": "number", "minimum": 0, "maximum": 1},
        "progress": {"type": "number", "minimum": 0, "maximum": 1},
        "details": {
            "type": "object",
            "description": "`error`, and often `hint`, where status isn't 200.",
        },
    },
}
_LINE = {
    "type": "object",
    "description": "One line; the last one's status tells how the task ended.",
    "required": ["status", "message"],
    "properties": {"status": {"type": "integer"}, "message": _MESSAGE},
}
_OPTIONS: dict[str, Any] = {
    "from": {"type": "string", "description": "The base of an adapter that comes alone."},
    "system": {"type": "string"},
    "template": {"type": "string", "description": "A Go template, as Ollama's TEMPLATE."},
    "modelfile_template": {"type": "string", "description": "A file's name in modelfiles/."},
    "parameters": {"description": "A JSON object, in a form as text.", "type": "object"},
    "license": {"type": "string"},
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


def _object(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required)}


_NEW_NAME = {"model_name_on_ollama": {"type": "string"}}
_MODEL_FILES = {
    "Model": {
        "type": "array",
        "items": {"type": "string", "format": "binary"},
        "minItems": 1,
        "description": "One archive (.zip, .tar, .tar.gz, .tgz, .tar.zst), one .gguf, or the files"
        " of the model themselves, a field each; those of a folder are named by their paths in it.",
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
_FILES = {
    "type": "array",
    "maxItems": MAX_FILES,
    "items": _object(
        {
            "name": {"type": "string"},
            "size": {"type": "integer", "minimum": 0},
            "sha256": {"type": "string", "pattern": "^[0-9a-fA-F]{64}$"},
        },
        *("name", "size", "sha256"),
    ),
}
_CREATE_REFUSALS = (400, 401, 403, 409, 413, 415, 422, 502, 504, 507)
_UPLOAD_REFUSALS = (400, 401, 403, 409, 413, 415, 422, 507)
# Of JSON that names a resumable upload.
_UPLOAD_NAMED = (404, 423)
_UPLOAD = {
    "upload": {"type": "string", "description": "The id of a resumable upload that is whole."},
    "known": _FILES
    | {"description": "Files that the service has already, which are part of the model, too."},
    "name": {"type": "string", "description": "The model's name, where there is no `upload`."},
}
WHY = {
    400: "malformed request, missing field, name not allowed",
    401: "an API key is set and the request has no right one",
    403: "a page of another origin asks",
    404: "there is no such model, upload, task or address",
    405: "not a method of this address",
    408: "the client sent too slowly",
    409: "another task holds the model, a name is taken, or an upload is at another offset",
    412: "another version of tus, or none",
    413: "too large",
    415: "not the media type",
    421: "a Host that isn't ours: see MODEL_HANDLER_TRUSTED_HOSTS",
    422: "the archive or a model file in it can't be used; `error` says which and why",
    423: "another connection writes to that upload",
    460: "the checksum doesn't agree",
    502: "Ollama unreachable or failed",
    504: "Ollama did not answer in time",
    507: "not enough disk space",
}
PROBES = ("/healthz", "/readyz")


_OF_OLLAMA = [str(status) for status in (400, 401, 403, 409, 413, 423, 500, 502, 504, 507)]
_DIGESTS = {"type": "object", "additionalProperties": {"type": "string"}}
_CREATE_BY_OLLAMA = _object(
    {
        **{"model": {"type": "string"}, "from": {"type": "string"}},
        **{"files": _DIGESTS, "adapters": _DIGESTS, "quantize": {"type": "string"}},
        **{"template": {"type": "string"}, "system": {"type": "string"}},
        **{"parameters": {"type": "object"}, "messages": {"type": "array"}},
        **{"license": {"type": ["string", "array"]}, "stream": {"type": "boolean"}},
    },
    "model",
)


_SCHEMAS: dict[str, dict[str, Any]] = {
    NDJSON: {"$ref": "#/components/schemas/Line"},
    JSON: {"type": "object"},
    ZIP: {"type": "string", "format": "binary"},
}


def _operation(
    summary: str,
    media_type: str,
    *refusals: int,
    body: dict[str, Any] | None = None,
    answer: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """An operation that answers in `media_type`, or with a line of one of these statuses."""
    schema = answer or _SCHEMAS.get(media_type, {"type": "string"})
    refusals = (*refusals, 408) if body else refusals
    operation: dict[str, Any] = {
        "summary": summary,
        "responses": {
            "200": {"description": "Done.", "content": {media_type: {"schema": schema}}},
            **_failures(*refusals),
        },
    }
    return operation | ({"requestBody": {"required": True, "content": body}} if body else {})


def _tus(summary: str, done: str, *refusals: int) -> dict[str, Any]:
    """An operation of the tus protocol, whose answers are headers."""
    failures = _failures(*refusals, *((408,) if done in ("201", "204", "2XX") else ()))
    return {"summary": summary, "responses": {done: {"description": "Done."}, **failures}}


def _failures(*statuses: int) -> dict[str, Any]:
    return {
        str(status): {"$ref": f"#/components/responses/Failure{status}"}
        for status in sorted({*statuses, 421})
    }


def _by_ollama(summary: str, *done: str) -> dict[str, Any]:
    """An operation of Ollama's protocol."""
    answered: dict[str, Any] = {"content": {NDJSON: {}, JSON: {}}}
    return {
        "summary": summary,
        "responses": {
            **{status: {"description": "Done.", **answered} for status in done},
            **{status: {"$ref": "#/components/responses/OfOllama"} for status in _OF_OLLAMA},
        },
    }


def _form(*properties: dict[str, Any]) -> dict[str, Any]:
    merged = {name: schema for some in properties for name, schema in some.items()}
    required = [name for name in ("Model", "model_name_on_ollama") if name in merged]
    return {"multipart/form-data": {"schema": _object(merged, *required)}}


_RAW = {ZIP: {"schema": {"type": "string", "format": "binary"}}}


def _in_path(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _in_query(name: str, schema: dict[str, Any], *, required: bool = False) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": required, "schema": schema}


_VERBOSE = _in_query("verbose", {"type": "string"}) | {
    "description": "1 adds progress lines, and keys, to the fixed ones."
}
_SERVER = _in_query("server", {"type": "array", "items": {"type": "string"}}) | {
    "description": "Of several Ollama servers those that are meant, each by a parameter of its own;"
    " otherwise all."
}


_OPTIONS_IN_QUERY = [
    _in_query(name, {"type": "string"} if schema["type"] == "object" else schema)
    for name, schema in _OPTIONS.items()
]


def _refusals() -> dict[str, Any]:
    """The answer of each status that refuses: one line, or a page for a browser."""
    content = {NDJSON: {"schema": {"$ref": "#/components/schemas/Line"}}, HTML: {}}
    return {
        f"Failure{status}": {"description": why, "content": content} for status, why in WHY.items()
    }


def description() -> dict[str, Any]:
    """The OpenAPI document."""
    create = _object(
        {"model": {"type": "string"}, **_NEW_NAME, **_OPTIONS}, "model", "model_name_on_ollama"
    )
    prompt = _object({"model": {"type": "string"}, "prompt": {"type": "string"}}, "model", "prompt")
    message = _object(
        {"role": {"enum": list(ROLES)}, "content": {"type": "string"}}, "role", "content"
    )
    messages = {"type": "array", "items": message, "minItems": 1, "maxItems": MAX_MESSAGES}
    chat = _object(
        {
            "model": {"type": "string"},
            "messages": messages,
            "options": {"type": "object", "description": "As a Modelfile's parameters."},
            "think": {"type": "boolean"},
        },
        *("model", "messages"),
    )
    delete = _object({"model": {"type": "string"}}, "model")
    new_name = _in_query("model_name_on_ollama", {"type": "string"}, required=True)
    paths: dict[str, Any] = {
        "/models/": {
            "get": _operation("List the models, a line each.", NDJSON, 401),
            "delete": _operation(
                *("Delete a model.", NDJSON, 400, 401, 403, 404, 409, 413, 415),
                body={JSON: {"schema": delete}},
            ),
            "parameters": [_VERBOSE],
        },
        "/models/upload/": {
            "post": _operation(
                *("Store an archive, or files, as a model.", NDJSON),
                *(*_UPLOAD_REFUSALS, *_UPLOAD_NAMED),
                body=_form(_MODEL_FILES) | {JSON: {"schema": _object(_UPLOAD)}},
            ),
            "parameters": [_VERBOSE],
        },
        "/models/upload/{filename}": {
            "put": _operation(
                *("Store an archive, or a GGUF, that is the body itself.", NDJSON),
                *(*_UPLOAD_REFUSALS, 404),
                body=_RAW,
            ),
            "parameters": [_in_path("filename"), _VERBOSE],
        },
        "/models/create/": {
            "post": _operation(
                *("Make a stored model a model of Ollama.", NDJSON, *_CREATE_REFUSALS, 404),
                body={JSON: {"schema": create}},
            ),
            "parameters": [_VERBOSE, _SERVER],
        },
        "/models/deploy/": {
            "post": _operation(
                *("Store an archive, or files, and make a model of Ollama of them.", NDJSON),
                *(*_CREATE_REFUSALS, *_UPLOAD_NAMED),
                body=_form(_NEW_NAME, _OPTIONS, _MODEL_FILES)
                | {
                    JSON: {
                        "schema": _object(
                            {**_UPLOAD, **_NEW_NAME, **_OPTIONS}, "model_name_on_ollama"
                        )
                    }
                },
            ),
            "parameters": [_VERBOSE, _SERVER],
        },
        "/models/deploy/{filename}": {
            "put": _operation(
                *(
                    "Deploy an archive, or a GGUF, that is the body itself.",
                    NDJSON,
                    *_CREATE_REFUSALS,
                    404,
                ),
                body=_RAW,
            ),
            "parameters": [_in_path("filename"), new_name, *_OPTIONS_IN_QUERY, _VERBOSE, _SERVER],
        },
        "/models/check/": {
            "post": _operation(
                *("Describe a zip, which isn't kept; or check a deploy's fields.", JSON),
                *_CREATE_REFUSALS,
                body=_form(_MODEL_FILES) | {JSON: {"schema": _object({**_NEW_NAME, **_OPTIONS})}},
            )
        },
        "/models/preview/": {
            "post": _operation(
                "What a deploy would make of files, told from their beginnings: a first line of"
                " JSON that lists them, and the options; then those bytes, one after the other.",
                *(JSON, 400, 401, 403, 413, 422, 502, 504),
                body={"application/octet-stream": {"schema": {"type": "string"}}},
            ),
            "parameters": [_SERVER],
        },
        "/models/missing/": {
            "post": _operation(
                *("Which of these files aren't stored here.", JSON, 400, 401, 403, 413, 415),
                body={JSON: {"schema": _object({"files": _FILES}, "files")}},
                answer=_object(
                    {"missing": {"type": "array", "items": {"type": "string"}}}, "missing"
                ),
            )
        },
        "/models/{name}/": {
            "get": _operation("Describe a model.", JSON, 400, 401, 404, 422),
            "parameters": [_in_path("name"), _VERBOSE],
        },
        "/models/{name}/modelfile": {
            "get": _operation("A model's Modelfile.", TEXT, 400, 401, 404, 422),
            "post": _operation(
                *("The same by options in JSON: what is wrong with it, before a create.", TEXT),
                *(400, 401, 403, 404, 413, 415, 422),
                body={JSON: {"schema": _object(_OPTIONS)}},
            ),
            "parameters": [_in_path("name"), *_OPTIONS_IN_QUERY],
        },
        "/models/{name}/download": {
            "get": _operation("The model as a zip.", ZIP, 400, 401, 404),
            "parameters": [_in_path("name")],
        },
        "/uploads/": {
            "post": _tus(
                *("Begin a resumable upload (tus).", "201"),
                *(400, 401, 403, 412, 413, 422, 460, 507),
            ),
        },
        "/uploads/{upload_id}": {
            "get": _tus("How much of an upload is here (tus: HEAD).", "200", 401, 404, 412),
            "patch": _tus(
                *("Send the next bytes of an upload (tus).", "204"),
                *(400, 401, 403, 404, 409, 412, 413, 415, 422, 423, 460, 507),
            ),
            "delete": _tus("Remove an upload (tus).", "204", 401, 403, 404, 412, 423),
            "post": _tus(
                *("What X-HTTP-Method-Override says: PATCH, DELETE or HEAD (tus).", "2XX"),
                *(400, 401, 403, 404, 405, 409, 412, 413, 415, 422, 423, 460, 507),
            ),
            "parameters": [_in_path("upload_id")],
        },
        "/state/": {
            "get": _operation(
                *("Version, free space, servers, models and recent tasks: for the page.", JSON, 401)
            )
        },
        "/ollama/": {"get": _operation("The Ollama servers and their models.", JSON, 401)},
        "/ollama/generate": {
            "post": _operation(
                *("One prompt to a model on Ollama; answers with Ollama's own lines.", NDJSON),
                *(400, 401, 403, 404, 413, 415, 502, 504),
                body={JSON: {"schema": prompt}},
                answer={"type": "object"},
            ),
            "parameters": [_SERVER],
        },
        "/ollama/chat": {
            "post": _operation(
                *("The next answer in a chat; Ollama's own lines.", NDJSON),
                *(400, 401, 403, 404, 413, 415, 502, 504),
                body={JSON: {"schema": chat}},
                answer={"type": "object"},
            ),
            "parameters": [_SERVER],
        },
        "/api/version": {
            "get": _by_ollama("Ollama's protocol: the first server's version.", "200"),
        },
        "/api/blobs/{digest}": {
            "post": _by_ollama("Ollama's protocol: a file for a model to come.", "200", "201"),
            "parameters": [_in_path("digest")],
        },
        "/api/create": {
            "post": _by_ollama("Ollama's protocol: make a model of files sent before.", "200")
            | {"requestBody": {"required": True, "content": {JSON: {"schema": _CREATE_BY_OLLAMA}}}},
        },
        "/tasks/": {
            "get": _operation("The recent tasks, and the uploads to go on with.", JSON, 401)
        },
        "/tasks/{uuid}": {
            "get": _operation("The lines that a task has sent so far.", NDJSON, 401, 404),
            "parameters": [_in_path("uuid")],
        },
        "/": {"get": _operation("The page.", HTML)},
        "/deploy": {
            "post": _operation(
                *("What the page's form leads to without scripts.", HTML, *_CREATE_REFUSALS),
                body=_form(_NEW_NAME, _OPTIONS, _MODEL_FILES),
            )
        },
        "/list": {"get": _operation("The models and tasks as a page, without scripts.", HTML, 401)},
        "/delete": {
            "post": _operation(
                *("What that page's forms lead to.", HTML, 400, 401, 403, 404, 409, 413),
                body={
                    "application/x-www-form-urlencoded": {
                        "schema": _object({"model": {"type": "string"}}, "model")
                    }
                },
            )
        },
        "/healthz": {"get": _operation("The process is there.", JSON)},
        "/readyz": {"get": _operation("A deploy would find what it needs.", JSON)},
        "/metrics": {"get": _operation("Counts, for Prometheus.", TEXT, 401)},
        "/openapi.json": {"get": _operation("This description.", JSON)},
        "/docs": {"get": _operation("This description as a page.", HTML)},
    }
    not_ready = {"description": "It wouldn't.", "content": {JSON: {"schema": {"type": "object"}}}}
    paths["/readyz"]["get"]["responses"]["503"] = not_ready
    for probe in PROBES:
        del paths[probe]["get"]["responses"]["421"]
    for path, item in paths.items():
        for method in item.keys() - {"parameters"}:
            route = f"{method.upper()} {path}"
            if route in EXAMPLES:
                item[method]["x-codeSamples"] = [{"lang": "Shell", "source": EXAMPLES[route]}]
            if route in LINES:
                item[method] |= {"x-lines": LINES[route], "x-failure": FAILURES[route]}
    of_ollama = {
        "description": "Refused, in the shape of Ollama's errors.",
        "content": {JSON: {"schema": _object({"error": {"type": "string"}}, "error")}},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "model handler", "version": version("model-handler")},
        "paths": paths,
        "components": {
            "schemas": {"Line": _LINE},
            "responses": {**_refusals(), "OfOllama": of_ollama},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
        "security": [{}, {"bearer": []}, {"key": []}],
    }

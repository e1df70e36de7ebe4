"""The service's description of itself (OpenAPI 3.1), from which /docs is made: put together of what
stands beside each route."""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from inspect import getdoc
from typing import Any, TypeVar

from flask import Flask
from werkzeug.routing import Rule

from app.service.lines import Script
from app.views import schemas
from app.views.access import OPEN_ENDPOINTS, PROBES
from app.views.ollama_protocol.answers import PREFIXES

View = TypeVar("View", bound=Callable[..., Any])
Lines = Sequence[tuple[str, float | str, Mapping[str, str]]]
"""Action, ratio and details of each line: in these FILE is the uploaded file's or folder's name,
NAME the model's, NEW its name on Ollama, and k/n the number of a model among all."""

WHY = {
    400: "malformed request, missing field, name not allowed",
    401: "an API key is set and the request has no right one",
    403: "a page of another origin asks",
    404: "there is no such model, upload, task or address",
    405: "not a method of this address",
    408: "the client sent too slowly",
    409: "another task holds the model, a name is taken, an upload is at another offset, or the"
    " task was stopped",
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
CURL_JSON = f"-H 'Content-Type: {schemas.JSON}'"
STORING = (409, 422, 507)
MAKING = (*STORING, 502, 504)
ASKING_OLLAMA = (502, 504)
_OF_OLLAMA = (400, 401, 403, 409, 413, 423, 500, 502, 504, 507)
_SCHEMAS: dict[str, schemas.Schema] = {
    schemas.NDJSON: {"$ref": "#/components/schemas/Line"},
    schemas.JSON: {"type": "object"},
    schemas.ZIP: schemas.BINARY,
}


@dataclass(frozen=True)
class Documentation:
    """See `documented`."""

    refusals: tuple[int, ...]
    example: str
    answers: str | None = schemas.NDJSON
    schema: schemas.Schema | None = None
    body: Mapping[str, schemas.Schema] | None = None
    query: Sequence[schemas.Schema] = ()
    statuses: Sequence[str] = ("200",)
    lines: Lines = ()
    failures: Sequence[str] = ()


def documented(*refusals: int, example: str, **more: Any) -> Callable[[View], View]:
    """Describe a view; the first paragraph of its docstring is the summary.

    `example` is a command for a shell in which `$service` is the service's address. `answers` is
    the media type of the answer, None where that is in headers, `schema` describes its content, and
    `statuses` are those that it comes with. `refusals` are the statuses of failures beyond those
    that the route, its method and its `body` imply. `failures` are the actions of the line that
    says what failed, where that isn't the view's own alone.
    """

    def decorate(view: View) -> View:
        view.documentation = Documentation(refusals, example, **more)  # type: ignore[attr-defined]
        return view

    return decorate


def lines_of(
    script: Script, details: Mapping[str, str], last: Mapping[str, str] | None = None
) -> Lines:
    """The three lines of a half of the work."""
    steps = (script.begin, script.middle, script.success)
    said = (details, details, last or details)
    return [(*step, each) for step, each in zip(steps, said, strict=True)]


def description(app: Flask) -> dict[str, Any]:
    """The OpenAPI document of the application's routes."""
    paths: dict[str, dict[str, Any]] = defaultdict(dict)
    for rule in app.url_map.iter_rules():
        view = app.view_functions[rule.endpoint]
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
            if hasattr(view, "documentation"):
                path = re.sub(r"<(\w+)>", r"{\1}", rule.rule)
                paths[path][method.lower()] = _operation(rule, method, view)
    failure = {schemas.NDJSON: {"schema": {"$ref": "#/components/schemas/Line"}}, schemas.HTML: {}}
    responses = {
        f"Failure{status}": {"description": why, "content": failure} for status, why in WHY.items()
    }
    responses["OfOllama"] = {
        "description": "Refused, in the shape of Ollama's errors.",
        "content": {
            schemas.JSON: {"schema": schemas.object_of({"error": schemas.TEXT_VALUE}, "error")}
        },
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "model handler", "version": version("model-handler")},
        "paths": paths,
        "components": {
            "schemas": {"Line": schemas.LINE},
            "responses": responses,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
        "security": [{}, {"bearer": []}, {"key": []}],
    }


def _operation(rule: Rule, method: str, view: Any) -> dict[str, Any]:
    said: Documentation = view.documentation
    summary = " ".join((getdoc(view) or "").partition("\n\n")[0].split())
    in_path = [
        {"name": name, "in": "path", "required": True, "schema": schemas.TEXT_VALUE}
        for name in sorted(rule.arguments)
    ]
    operation: dict[str, Any] = {
        "summary": summary,
        "parameters": [*in_path, *said.query],
        "responses": {
            **dict.fromkeys(said.statuses, _answer(rule, said)),
            **_refusals(rule, method, said),
        },
        "x-codeSamples": [{"lang": "Shell", "source": said.example}],
    }
    if said.body:
        operation["requestBody"] = {"required": True, "content": said.body}
    if said.lines:
        operation["x-lines"] = [
            {"action": action, "ratio": ratio, "details": details}
            for action, ratio, details in said.lines
        ]
        operation["x-failure"] = " / ".join(said.failures or [view.failure_line.action])
    return operation


def _answer(rule: Rule, said: Documentation) -> dict[str, Any]:
    if said.answers is None:
        return {"description": "Done."}
    if rule.rule.startswith(PREFIXES):
        return {"description": "Done.", "content": {schemas.NDJSON: {}, schemas.JSON: {}}}
    schema = said.schema or _SCHEMAS.get(said.answers, schemas.TEXT_VALUE)
    return {"description": "Done.", "content": {said.answers: {"schema": schema}}}


def _refusals(rule: Rule, method: str, said: Documentation) -> dict[str, Any]:
    """The answer of each status that refuses: one line, or a page for a browser."""
    if rule.rule.startswith(PREFIXES):
        of_ollama = {"$ref": "#/components/responses/OfOllama"}
        return {str(status): of_ollama for status in _OF_OLLAMA}
    statuses = {
        421: rule.endpoint not in PROBES,
        401: rule.endpoint not in OPEN_ENDPOINTS,
        403: method != "GET",
        404: rule.arguments,
        **dict.fromkeys((400, 408, 413), said.body),
        415: {schemas.JSON, schemas.FORM} & set(said.body or ()),
    }
    found = {*said.refusals, *(status for status, answered in statuses.items() if answered)}
    return {
        str(status): {"$ref": f"#/components/responses/Failure{status}"} for status in sorted(found)
    }

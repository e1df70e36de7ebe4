"""What a request may say, by name.

A field that is nearly one of ours is refused; one that resembles none is left alone, and named in
the verbose lines.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

from flask import g, request

from app.planning.options import FIELDS, BadRequest, optional_text, options
from app.planning.spelling import MOST_NAMED, misspelt
from app.service.early import Asked
from app.service.lines import Line, Steps
from app.views.answers import asked_servers, json_object

FILE_FIELDS = ("Model", "model")
NEW_NAME = "model_name_on_ollama"
CONFIG_FIELD = "adapter_config"
"""The text of an adapter_config.json, for an adapter whose weights come alone."""
OF_QUERY = frozenset((*FIELDS, NEW_NAME, CONFIG_FIELD, "name", "server", "verbose"))
OF_FORM = OF_QUERY | frozenset(FILE_FIELDS)
OF_CREATE = OF_QUERY | {"model"}
OF_JSON_UPLOAD = OF_QUERY | {"upload", "known"}
_SHOWN = 80


def asked_for(fields: Mapping[str, Any]) -> Asked:
    """What the fields of a deploy ask for. Raises BadRequest."""
    return Asked(optional_text(fields, NEW_NAME), options(fields), asked_servers(fields))


def check_query() -> None:
    """Raise BadRequest for a query field that is nearly one of ours; before any body is read."""
    check_names(request.args, OF_QUERY)


def check_names(names: Iterable[str], known: Collection[str]) -> None:
    """Raise BadRequest for a field that is nearly one of `known`; note those that resemble none."""
    names = list(names)
    if found := misspelt(names, known):
        word, meant = found
        raise BadRequest(f"There is no field {word[:_SHOWN]!r}. Did you mean {meant!r}?")
    ignored: dict[str, None] = g.setdefault("ignored_fields", {})
    for name in names:
        if name not in known and len(ignored) < MOST_NAMED:
            ignored[name[:_SHOWN]] = None


def json_fields(known: Collection[str]) -> Mapping[str, Any]:
    """The fields of the request's JSON object, and those of its query that aren't among them.
    Raises BadRequest, also for a field that is nearly one of `known`."""
    fields = json_object()
    check_names(fields, known)
    return {**request.args, **fields}


def naming_ignored(steps: Steps[None]) -> Steps[None]:
    """The same steps; the first line names to a verbose client the fields that were ignored."""
    is_named = False
    try:
        for step in steps:
            ignored = list(g.get("ignored_fields", ()))
            if ignored and not is_named and isinstance(step, Line):
                is_named = True
                step = replace(step, more={**step.more, "ignored_fields": ignored})
            yield step
    finally:
        steps.close()

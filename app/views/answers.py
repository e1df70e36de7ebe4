"""What several views need: the service, what a request says, and one JSON object as an answer."""

from collections.abc import Mapping
from typing import Any

from flask import Response, current_app, request

from app.planning.options import BadRequest
from app.service.work import Service
from app.views.sentences import in_language

JSON_BYTES = 4 * 2**20
MOST_SERVERS = 100


def service() -> Service:
    """The service that the application was made with."""
    found: Service = current_app.extensions["service"]
    return found


def asked_servers(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """The Ollama servers that the request is for alone, where it names any: in `fields`, a text or
    a list of texts, each with commas between several; else in its query, any number of times.
    Raises BadRequest."""
    given, in_query = fields.get("server"), request.args.getlist("server")
    if not given or given in in_query:
        given = in_query
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not all(isinstance(each, str) for each in texts):
        raise BadRequest("The field 'server' must be text, or a list of texts.")
    if sum(each.count(",") + 1 for each in texts) > MOST_SERVERS:
        raise BadRequest(f"The field 'server' takes {MOST_SERVERS} servers at most.")
    return tuple(part.strip() for each in texts for part in each.split(",") if part.strip())


def json_object() -> Mapping[str, Any]:
    """The request's JSON object. Raises BadRequest, or UnsupportedMediaType for another type."""
    request.max_content_length = JSON_BYTES
    value = request.get_json()
    if not isinstance(value, dict):
        raise BadRequest('The body must be a JSON object such as {"model": "my-model"}.')
    return value


def json_answer(value: dict[str, Any]) -> Response:
    """One JSON object on a line, its sentences in the language that was asked for; never cached."""
    body = current_app.json.dumps(in_language(value)) + "\n"
    return Response(body, mimetype="application/json", headers={"Cache-Control": "no-store"})

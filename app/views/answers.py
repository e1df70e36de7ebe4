"""What several views need: the service, and one JSON object as an answer."""

import json
from typing import Any

from flask import Response, current_app

from app.deploy import Service


def service() -> Service:
    """The service that the application was made with."""
    found: Service = current_app.extensions["service"]
    return found


def json_answer(value: dict[str, Any]) -> Response:
    """One JSON object on a line, never cached."""
    body = json.dumps(value, ensure_ascii=False).encode(errors="replace") + b"\n"
    return Response(body, mimetype="application/json", headers={"Cache-Control": "no-store"})

"""Who may ask: the API key, where one is set."""

import hmac

from flask import current_app, request
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Unauthorized


def require_key() -> None:
    """Raise Unauthorized unless the request carries the API key, or none is set.

    Taken as `Authorization: Bearer <key>` or `X-API-Key: <key>`; /healthz and the page are open.
    """
    key = current_app.config["API_KEY"]
    if key is None or request.endpoint in ("health.healthz", "pages.index"):
        return
    authorization = request.authorization
    bearer = authorization.token if authorization and authorization.type == "bearer" else None
    given = bearer or request.headers.get("X-API-Key", "")
    if not hmac.compare_digest(given.encode(), key.encode()):
        raise Unauthorized(
            "This service wants an API key: send it as 'Authorization: Bearer <key>'"
            " or as 'X-API-Key: <key>'.",
            www_authenticate=WWWAuthenticate("bearer"),
        )

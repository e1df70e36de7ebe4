"""Who may ask, and from which pages: the API key, and browsers' cross-origin requests."""

import hmac
from urllib.parse import urlsplit

from flask import Response, current_app, request
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Forbidden, Unauthorized

OPEN_ENDPOINTS = (
    *("health.healthz", "health.readyz"),
    *("pages.index", "pages.docs", "pages.openapi", "static"),
)
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


def require_key() -> None:
    """Raise Unauthorized unless the request carries the API key, or none is set.

    Taken as `Authorization: Bearer <key>` or `X-API-Key: <key>`; the page itself is open.
    """
    key = current_app.config["API_KEY"]
    if key is None or request.endpoint in OPEN_ENDPOINTS:
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


def refuse_other_origins() -> None:
    """Raise Forbidden where a browser says that another site's page wants to change something."""
    if request.method in ("GET", "HEAD", "OPTIONS"):
        return
    origin = request.headers.get("Origin")
    if origin is not None and origin in current_app.config["ALLOWED_ORIGINS"]:
        return
    foreign = request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site")
    if foreign or (origin is not None and urlsplit(origin).netloc != request.host):
        raise Forbidden(
            "This request comes from another site's page. If that page may change things here,"
            " list its origin in MODEL_HANDLER_ALLOWED_ORIGINS."
        )


def harden(response: Response) -> Response:
    """Add the headers that keep a browser from guessing types and from loading foreign content."""
    response.headers["X-Content-Type-Options"] = "nosniff"
    if response.mimetype == "text/html":
        response.headers["Content-Security-Policy"] = PAGE_POLICY
    return response

"""Who may ask, by which name, and from which pages: hosts, origins and the API key."""

import hmac
import ipaddress
from urllib.parse import urlsplit

from flask import Response, current_app, request
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Forbidden, MisdirectedRequest, Unauthorized
from werkzeug.sansio.utils import host_is_trusted

from app.views.ollama_protocol.answers import is_ollamas

PROBES = ("health.healthz", "health.readyz")
OPEN_ENDPOINTS = (*PROBES, "pages.index", "pages.docs", "pages.openapi", "static")
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
CORS_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"
CORS_HEADERS = (
    "Authorization, X-API-Key, Content-Type, Tus-Resumable, Upload-Length, Upload-Offset,"
    " Upload-Metadata, Upload-Checksum, X-HTTP-Method-Override, X-Request-ID, X-Requested-With"
)
CORS_SHOWN = (
    "Location, Tus-Resumable, Tus-Version, Tus-Extension, Tus-Max-Size, Tus-Checksum-Algorithm,"
    " Upload-Length, Upload-Offset, Upload-Metadata, Upload-Expires, X-Task-UUID"
)
CORS_SECONDS = 600


def host_is_ours() -> bool:
    """Whether the request's Host is a loopback name, an address, or one that
    MODEL_HANDLER_TRUSTED_HOSTS lists: another may be a page's own name, made to lead here."""
    host = request.headers.get("Host", "localhost")
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        trusted = current_app.config["NAMES"]
        return host_is_trusted(host, ["localhost", ".localhost", *trusted])
    return True


def refuse_other_hosts() -> None:
    """Raise MisdirectedRequest for a Host that isn't ours; probes are answered by any name."""
    if request.endpoint not in PROBES and not host_is_ours():
        raise MisdirectedRequest(
            "This service doesn't answer by the name that the Host header gives. List that name in"
            " MODEL_HANDLER_TRUSTED_HOSTS, or ask by an address."
        )


def has_key() -> bool:
    """Whether the request carries the API key, or none is set.

    Taken as `Authorization: Bearer <key>` or `X-API-Key: <key>`.
    """
    key = current_app.config["API_KEY"]
    if key is None:
        return True
    authorization = request.authorization
    bearer = authorization.token if authorization and authorization.type == "bearer" else None
    given = bearer or request.headers.get("X-API-Key", "")
    return hmac.compare_digest(given.encode(errors="replace"), key.encode())


def require_key() -> None:
    """Raise Unauthorized unless the request has the key; the page itself and a browser's question
    before a request of another origin (preflight), which can't carry one, are open."""
    is_open = request.endpoint in OPEN_ENDPOINTS or request.method == "OPTIONS"
    if not is_open and not has_key():
        raise Unauthorized(
            "This service needs an API key: send it as 'Authorization: Bearer <key>'"
            " or as 'X-API-Key: <key>'.",
            www_authenticate=WWWAuthenticate("bearer"),
        )


def refuse_other_origins() -> None:
    """Raise Forbidden where a browser says that another site's page wants to change something, or
    to know something of Ollama, which doesn't tell either."""
    if request.method == "OPTIONS" or (
        request.method in ("GET", "HEAD") and not is_ollamas(request)
    ):
        return
    origin = request.headers.get("Origin")
    if _is_allowed(origin):
        return
    foreign = request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site")
    if foreign or (origin is not None and _host_of(origin) != request.host):
        raise Forbidden(
            "This request comes from another site's page. If that page may change things here,"
            " list its origin in MODEL_HANDLER_ALLOWED_ORIGINS."
        )


def harden(response: Response) -> Response:
    """Add the headers that keep a browser from guessing types and from loading foreign content, and
    those that let the pages of allowed origins read the answer (Fetch standard, CORS)."""
    headers = response.headers
    headers["X-Content-Type-Options"] = "nosniff"
    if response.mimetype == "text/html":
        headers["Content-Security-Policy"] = PAGE_POLICY
    if current_app.config["ALLOWED_ORIGINS"]:
        headers.add("Vary", "Origin")
    origin = request.headers.get("Origin")
    if origin is not None and _is_allowed(origin):
        headers["Access-Control-Allow-Origin"] = origin
        headers["Access-Control-Expose-Headers"] = CORS_SHOWN
        if "Access-Control-Request-Method" in request.headers:
            headers["Access-Control-Allow-Methods"] = CORS_METHODS
            asked = request.headers.get("Access-Control-Request-Headers")
            headers["Access-Control-Allow-Headers"] = (
                asked if asked and is_ollamas(request) else CORS_HEADERS
            )
            headers["Access-Control-Max-Age"] = str(CORS_SECONDS)
    return response


def _is_allowed(origin: str | None) -> bool:
    return origin is not None and origin in current_app.config["ALLOWED_ORIGINS"]


def _host_of(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None

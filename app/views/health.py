"""Whether the process runs, and whether it could do its work."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from flask import Blueprint, Response, current_app

from app.errors import describe
from app.metrics import CONTENT_TYPE_LATEST, exposition
from app.ollama.client import Ollama
from app.ollama.errors import OllamaError
from app.service.servers import silent
from app.views import schemas
from app.views.access import has_key, host_is_ours
from app.views.answers import json_answer, service
from app.views.openapi import documented

LATER_SECONDS = 1.0

blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
@documented(answers=schemas.JSON, example="curl $service/healthz")
def healthz() -> dict[str, str]:
    """The process is there: answers at once and touches nothing."""
    return {"status": "ok"}


@blueprint.get("/readyz")
@documented(answers=schemas.JSON, statuses=["200", "503"], example="curl $service/readyz")
def readyz() -> Response:
    """Whether a deploy would find what it needs; 503 where it wouldn't.

    Of several Ollama servers one is enough. Check by check for whoever has the key and asks by a
    name that is ours.
    """
    storage = service().storage

    def space() -> dict[str, Any]:
        storage.require_space(current_app.config["MIN_FREE_BYTES"], "A service that is ready")
        return {"free_bytes": storage.free_bytes()}

    checks = {
        "models_dir": _check(storage.check_writable),
        "space": _check(space),
    }
    servers = service().ollamas()
    failures = silent(servers, Ollama.version, LATER_SECONDS)
    of_servers = [_check(partial(_version, server, failures)) for server in servers]
    ready = all(check["ok"] for check in checks.values())
    ready = ready and any(check["ok"] for check in of_servers)
    for server, check in zip(servers, of_servers, strict=True):
        checks["ollama" if len(servers) == 1 else f"ollama {server.url}"] = check
    for_all = {"ready": ready}
    answer = json_answer({**for_all, "checks": checks} if has_key() and host_is_ours() else for_all)
    answer.status_code = 200 if ready else 503
    return answer


@blueprint.get("/metrics")
@documented(answers=schemas.TEXT, example="curl $service/metrics")
def metrics() -> Response:
    """Counts, for Prometheus: of all worker processes of this instance."""
    return Response(exposition(service().storage.free_bytes()), content_type=CONTENT_TYPE_LATEST)


def _version(server: Ollama, failures: Mapping[str, OllamaError]) -> dict[str, Any]:
    if server.url in failures:
        raise failures[server.url]
    return {"version": server.recent_version()}


def _check(work: Callable[[], dict[str, Any] | None]) -> dict[str, Any]:
    try:
        return {"ok": True, **(work() or {})}
    except Exception as error:
        return {"ok": False, "error": describe(error).error}

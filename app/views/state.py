"""All that the page shows of the service, in one answer that is only sent where it has changed.

Not a stream of events: under threads each open one would take a thread of the few that there are,
for as long as its page is open.
"""

import threading
import time
from importlib.metadata import version
from typing import Any

from flask import Blueprint, Response, current_app, request

from app.service.watch import Watch
from app.service.work import Service
from app.views import schemas
from app.views.answers import service
from app.views.assets import Asset, answer
from app.views.openapi import documented
from app.views.sentences import in_language
from app.views.stream import fails_as
from app.views.tasks import uploads

SHOWN_TASKS = 20
STEADY_SECONDS = 15.0
SPACE_STEP = 10**8

blueprint = Blueprint("state", __name__)


class Overview:
    """What the models directory holds, looked through again only where something has been done:
    a model has come or gone, a task has gone on, or STEADY_SECONDS have passed."""

    def __init__(self, of: Service) -> None:
        self._service = of
        self._lock = threading.Lock()
        self._seen: tuple[Any, ...] = ()
        self._looked_at = float("-inf")
        self._models: list[dict[str, Any]] = []
        self.watch = Watch(of.ollamas)

    def models(self, tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Each model's name and facts, as of the last change; `tasks` are the recent ones."""
        with self._lock:
            lasting = [{**task, "now": None} for task in tasks]
            seen = self._service.storage.changed_at(), repr(lasting)
            now = time.monotonic()
            if seen != self._seen or now - self._looked_at > STEADY_SECONDS:
                lines = self._service.models(with_facts=True)
                self._models = [{**line.details, **line.more} for line in lines if line]
                self._seen, self._looked_at = seen, now
            return self._models


@blueprint.get("/state/")
@documented(answers=schemas.JSON, example="curl $service/state/")
@fails_as("Failed get state.")
def state() -> Response:
    """Version, free space, servers, models, recent tasks and uploads: for the page.

    304 where nothing has changed. Asked with Cache-Control: no-cache, the servers are asked anew.
    """
    overview = _overview()
    tasks = service().tasks.recent()[:SHOWN_TASKS]
    is_new = bool(request.cache_control.no_cache)
    servers = overview.watch.servers(oldest=0, patience=2) if is_new else overview.watch.servers()
    free = service().storage.free_bytes()
    value = {
        "version": version("model-handler"),
        "has_key": current_app.config["API_KEY"] is not None,
        "free_bytes": free - free % SPACE_STEP,
        "is_short": free < current_app.config["MIN_FREE_BYTES"],
        "servers": servers,
        "models": overview.models(tasks),
        "tasks": tasks,
        "uploads": uploads(),
    }
    body = current_app.json.dumps(in_language(value)).encode()
    response = answer(Asset("application/json", body))
    response.vary.add("Accept-Language")
    response.headers["Cache-Control"] = "private, no-cache"
    return response


def _overview() -> Overview:
    overview: Overview = current_app.extensions.setdefault("overview", Overview(service()))
    return overview

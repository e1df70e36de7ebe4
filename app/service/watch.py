"""The state of the Ollama servers, asked once for all clients that want it often.

Each server is asked once for all, by a thread, so that one that is slow or gone keeps nobody
waiting.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from app.ollama.client import Ollama
from app.ollama.errors import OllamaError

FRESH_SECONDS = 10.0
MOST_AT_ONCE = 8
_OF_MODEL = ("name", "size", "modified_at", "digest")


def described(server: Ollama) -> dict[str, Any]:
    """A server by its URL: version, whether it takes adapters, and models; or an error, which says
    what keeps it from answering. `takes_adapters` is None where it won't say."""
    try:
        version, tags = server.version(), server.tags()
    except OllamaError as error:
        return {"url": server.url, "error": str(error)}
    return {
        "url": server.url,
        "version": version,
        "takes_adapters": _takes_adapters(server),
        "models": tags,
    }


def _takes_adapters(server: Ollama) -> bool | None:
    try:
        return server.takes_adapters()
    except OllamaError:
        return None


class Watch:
    """Keeps what the servers that `ollamas` gives have said last."""

    def __init__(self, ollamas: Callable[[], Sequence[Ollama]]) -> None:
        self._ollamas = ollamas
        self._known: dict[str, dict[str, Any]] = {}
        self._asked_at = float("-inf")
        self._changed = threading.Condition()
        self._is_asking = False

    def servers(
        self, *, oldest: float = FRESH_SECONDS, patience: float = 0.5
    ) -> list[dict[str, Any]]:
        """Each server as `described`, its models by name, size, time and digest alone; only its
        `url` while it hasn't said anything yet.

        Has them asked again where what is known is older than `oldest` seconds, and waits for that
        `patience` seconds at most.
        """
        wanted = time.monotonic() - oldest
        deadline = time.monotonic() + patience
        with self._changed:
            while self._asked_at < wanted:
                if not self._is_asking:
                    self._is_asking = True
                    threading.Thread(target=self._ask, daemon=True).start()
                if not self._changed.wait(max(0, deadline - time.monotonic())):
                    break
            return [self._known.get(each.url, {"url": each.url}) for each in self._ollamas()]

    def _ask(self) -> None:
        began = time.monotonic()
        try:
            servers = self._ollamas()
            with ThreadPoolExecutor(min(MOST_AT_ONCE, len(servers))) as threads:
                for said in threads.map(_in_short, servers):
                    with self._changed:
                        self._known[said["url"]] = said
        finally:
            with self._changed:
                self._asked_at, self._is_asking = began, False
                self._changed.notify_all()


def _in_short(server: Ollama) -> dict[str, Any]:
    said = described(server)
    if "models" not in said:
        return said
    models = [{key: model.get(key) for key in _OF_MODEL} for model in said["models"]]
    return {**said, "models": models}

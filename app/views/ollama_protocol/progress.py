"""The steps of a creation as the lines that Ollama's clients know."""

import time
from collections.abc import Mapping
from typing import Any

from app.ollama.bounded import number
from app.service.lines import Line

QUICK_SECONDS = 1.0
"""Work of less isn't worth a bar."""

NO_DIGEST = "0" * 19
"""What Ollama gives as the digest of a file that it is still making: clients keep a bar by it."""

_WORKS = {
    "Hashing.": "hashing",
    "Extracting.": "verifying sha256 digest",
    "Converting.": "converting model",
    "Merging.": "merging adapter into model",
    "Verifying.": "loading model",
}
_WITH_BARS = ("Pushing.", "Converting.", "Merging.")


class Progress:
    """Makes Ollama's lines of steps: its own ones, and of long work how far it is; of what is done
    on several servers, those of the first."""

    def __init__(self) -> None:
        self.last: dict[str, Any] = {}
        self._began: dict[str, float] = {}
        self._server: Any = None

    def line(self, step: Line) -> dict[str, Any] | None:
        """The line to send for the step, if any. `success` isn't sent before all is done."""
        server = step.details.get("server")
        self._server = self._server or server
        if server != self._server and server is not None:
            return None
        said = step.details.get("ollama")
        line = _of_ollama(said) if isinstance(said, dict) else self._of_work(step)
        self.last = line or self.last
        return line

    def _of_work(self, step: Line) -> dict[str, Any] | None:
        details = step.details
        sha256 = str(details.get("sha256", ""))
        words = f"pushing {sha256[:12]}" if step.action == "Pushing." else _WORKS.get(step.action)
        if words is None or not step.verbose:
            return None
        began = self._began.setdefault(words, time.monotonic())
        if time.monotonic() - began < QUICK_SECONDS:
            return None
        total, completed = number(details.get("total_bytes")), number(details.get("bytes"))
        if step.action not in _WITH_BARS or not total or not completed:
            return {"status": words} if words != self.last.get("status") else None
        digest = f"sha256:{sha256}" if sha256 else NO_DIGEST
        return {"status": words, "digest": digest, "total": total, "completed": completed}


def _of_ollama(said: Mapping[str, Any]) -> dict[str, Any] | None:
    status = said.get("status")
    if not isinstance(status, str) or status == "success":
        return None
    line: dict[str, Any] = {"status": status}
    if isinstance(said.get("digest"), str):
        line["digest"] = said["digest"]
    return line | {key: said[key] for key in ("total", "completed") if number(said.get(key))}

"""Several Ollama servers at once: none waits for another."""

import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context

from app.ollama.client import Ollama
from app.ollama.errors import OllamaError, OllamaSilent

AT_ONCE = 16
LATER_SECONDS = 10.0
"""How long after another one a server may still answer, to be among those that are there."""


def side_by_side(works: Iterable[Callable[[], None]]) -> None:
    """Do all of it, each on a thread of its own, at most AT_ONCE at a time.

    Returns when all have ended, and raises what the first of them has raised.
    """
    with ThreadPoolExecutor(AT_ONCE, "server") as pool:
        ended = [pool.submit(copy_context().run, work) for work in works]
    for each in ended:
        each.result()


def check_any(servers: Sequence[Ollama]) -> None:
    """Return as soon as one of the servers has said its version. Raises the first one's OllamaError
    where none does."""
    answers = _asked(servers, lambda server: server.version())
    failures = {}
    for _ in servers:
        server, error = answers.get()
        if error is None:
            return
        failures[server.url] = error
    raise failures[servers[0].url]


def prefetch(servers: Sequence[Ollama]) -> dict[str, OllamaError]:
    """Ask all servers at once what a plan needs to know of each, which they then have ready; those
    that don't answer, as `silent` gives them."""
    return silent(servers, _prefetch if len(servers) > 1 else Ollama.recent_version)


def silent(
    servers: Sequence[Ollama],
    ask: Callable[[Ollama], object],
    later_seconds: float | None = None,
) -> dict[str, OllamaError]:
    """Those of the servers, by URL, that don't answer what all are asked at once, with what they
    say instead; so also who doesn't within `later_seconds` (LATER_SECONDS) of another one."""
    answers = _asked(servers, ask)
    missing = {server.url: server for server in servers}
    failures: dict[str, OllamaError] = {}
    patience = LATER_SECONDS if later_seconds is None else later_seconds
    with suppress(queue.Empty):
        while missing:
            has_answered = len(missing) + len(failures) < len(servers)
            server, error = answers.get(timeout=patience if has_answered else None)
            del missing[server.url]
            if isinstance(error, OllamaError):
                failures[server.url] = error
            elif error is not None:
                raise error
    late = {url: OllamaSilent(f"Ollama at {url} doesn't answer in time.") for url in missing}
    return {**failures, **late}


def _prefetch(server: Ollama) -> None:
    server.recent_version()
    with suppress(OllamaError):
        server.takes_adapters()


def _asked(
    servers: Sequence[Ollama], ask: Callable[[Ollama], object]
) -> "queue.SimpleQueue[tuple[Ollama, BaseException | None]]":
    """Each server with what asking it has raised, in the order in which they answer."""
    answers: queue.SimpleQueue[tuple[Ollama, BaseException | None]] = queue.SimpleQueue()

    def run(server: Ollama) -> None:
        try:
            ask(server)
        except BaseException as error:
            answers.put((server, error))
        else:
            answers.put((server, None))

    for server in servers:
        run_here = copy_context().run
        threading.Thread(target=run_here, args=(run, server), name="asked", daemon=True).start()
    return answers

"""What is counted for Prometheus, over all worker processes.

Each process counts in files of its own, in a folder that the first process makes and that the
others are forked with; a scrape adds them up. Source: prometheus_client, "Multiprocess Mode".
"""

import atexit
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

_FOLDER = "PROMETHEUS_MULTIPROC_DIR"


def _make_folder() -> None:
    folder, maker = tempfile.mkdtemp(prefix="model-handler-metrics-"), os.getpid()
    os.environ[_FOLDER] = folder

    def remove() -> None:
        if os.getpid() == maker:
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)


if _FOLDER not in os.environ:
    _make_folder()  # The library looks for it when it is imported.

from prometheus_client import (  # noqa: E402
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Summary,
    generate_latest,
)
from prometheus_client.metrics_core import GaugeMetricFamily  # noqa: E402
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead  # noqa: E402
from prometheus_client.registry import Collector  # noqa: E402

__all__ = ["CONTENT_TYPE_LATEST", "RECEIVED_BYTES", "exposition", "mark_process_dead"]

# Each has a label, and so no file before it counts: a process that only merges makes none.
RECEIVED_BYTES = Counter(
    "model_handler_received_bytes", "Bytes of zips that have arrived, by form or raw.", ["way"]
)
_TASKS = Counter(
    "model_handler_tasks",
    "Tasks by what was asked for and the status they ended with; `left` where the client did.",
    ["kind", "status"],
)
_RUNNING = Gauge(
    "model_handler_running_tasks",
    "Tasks under way, by what was asked for.",
    ["kind"],
    multiprocess_mode="livesum",
)
_PHASES = Summary("model_handler_phase_seconds", "Seconds that each phase has taken.", ["phase"])


class Watched:
    """A task under way; `status` is what it has ended with."""

    status = "left"


@contextmanager
def watched(kind: str) -> Iterator[Watched]:
    """Count a task of that kind: as running inside the block, by its status afterwards."""
    task = Watched()
    running = _RUNNING.labels(kind)
    running.inc()
    try:
        yield task
    finally:
        running.dec()
        _TASKS.labels(kind, task.status).inc()


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Add the seconds that the block takes to those of the phase, however it ends."""
    started = time.monotonic()
    try:
        yield
    finally:
        _PHASES.labels(name).observe(time.monotonic() - started)


class _FreeSpace(Collector):
    def __init__(self, free_bytes: int) -> None:
        self._free_bytes = free_bytes

    def collect(self) -> Iterator[GaugeMetricFamily]:
        yield GaugeMetricFamily(
            "model_handler_free_bytes",
            "Bytes that can still be written to the models directory.",
            self._free_bytes,
        )


def exposition(free_bytes: int) -> bytes:
    """All of it in Prometheus' text format, and the models directory's free bytes."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    registry.register(_FreeSpace(free_bytes))
    return generate_latest(registry)

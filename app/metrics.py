"""What is counted for Prometheus: in this process, or over all worker processes.

Shared between processes, each counts in files of its own, in a folder that the first one makes and
that the others are forked with; a scrape adds them up. Source: prometheus_client, "Multiprocess
Mode".
"""

import atexit
import fcntl
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Summary,
    generate_latest,
    values,
)
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

__all__ = ["CONTENT_TYPE_LATEST", "RECEIVED_BYTES", "exposition"]

_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
_PREFIX = "model-handler-metrics-"
_GONE = "gone"


def share_between_processes() -> None:
    """Count over this process and those that are forked from it; called before anything counts.

    In the folder that PROMETHEUS_MULTIPROC_DIR names, else in one that is removed at the end, or by
    the next start if the one that made it was killed.
    """
    if _FOLDER not in os.environ:
        _sweep(Path(tempfile.gettempdir()))
        folder, maker = _new_folder(), os.getpid()
        os.environ[_FOLDER] = folder

        def remove() -> None:
            if os.getpid() == maker:
                shutil.rmtree(folder, ignore_errors=True)

        atexit.register(remove)
    values.ValueClass = values.MultiProcessValue()  # type: ignore[no-untyped-call]


def _new_folder() -> str:
    """A folder that is held. One that another start sweeps away before that isn't missed."""
    while True:
        folder = tempfile.mkdtemp(prefix=_PREFIX)
        with suppress(OSError):
            held = _hold(folder)
            if os.path.isdir(folder) and os.path.samestat(os.fstat(held), os.stat(folder)):
                return folder
            os.close(held)


def _restore_folder() -> None:
    """Make the folder again where something has removed it, as cleaners of /tmp do."""
    folder = os.environ.get(_FOLDER)
    if folder is not None and not os.path.isdir(folder):
        with suppress(OSError):
            os.mkdir(folder, 0o700)
            _hold(folder)


def _hold(folder: str | Path) -> int:
    """Lock `folder` for as long as this process or one forked from it lives; return the descriptor.

    Raises OSError where another holds it.
    """
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(opened)
        raise
    return opened


def _sweep(temporary: Path) -> None:
    """Remove the folders of those that were killed: nobody holds them any more."""
    for folder in temporary.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if folder.lstat().st_uid == os.getuid():
                opened = _hold(folder)
                shutil.rmtree(folder, ignore_errors=True)
                os.close(opened)


def forget_process(pid: int) -> None:
    """Add what a process that is gone has counted to one file for all of those, so that restarts
    leave no files behind, and drop what it was doing."""
    mark_process_dead(pid)  # type: ignore[no-untyped-call]
    folder = Path(os.environ[_FOLDER])
    for kind in ("counter", "summary"):
        file = folder / f"{kind}_{pid}.db"
        with suppress(FileNotFoundError):
            if file.stat().st_size:  # Nothing is in it yet where the process was killed making it.
                _add(file, folder / f"{kind}_{_GONE}.db")
            file.unlink()


def _add(file: Path, total: Path) -> None:
    counted = MmapedDict.read_all_values_from_file(str(file))  # type: ignore[no-untyped-call]
    sums = MmapedDict(str(total))  # type: ignore[no-untyped-call]
    for key, value, timestamp, _ in counted:
        before, _ = sums.read_value(key)  # type: ignore[no-untyped-call]
        sums.write_value(key, before + value, timestamp)  # type: ignore[no-untyped-call]
    sums.close()  # type: ignore[no-untyped-call]


# Each has a label, and so no file before it counts: a process that only merges makes none.
RECEIVED_BYTES = Counter(
    "model_handler_received_bytes", "Bytes of zips that have arrived, by form or raw.", ["kind"]
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
    """A task under way: `status` is what it has ended with, `received_bytes` what its upload has
    brought, `seconds` what each phase has taken: once, where several threads are in it at a time.
    """

    def __init__(self) -> None:
        self.status = "left"
        self.received_bytes = 0
        self.seconds: dict[str, float] = {}
        self._lock = threading.Lock()
        self._inside: dict[str, tuple[int, float]] = {}

    def enter(self, phase: str) -> None:
        """A thread begins with the phase."""
        with self._lock:
            count, since = self._inside.get(phase, (0, time.monotonic()))
            self._inside[phase] = count + 1, since

    def leave(self, phase: str) -> None:
        """A thread has done with the phase."""
        with self._lock:
            count, since = self._inside.pop(phase)
            if count > 1:
                self._inside[phase] = count - 1, since
            else:
                taken = self.seconds.get(phase, 0.0)
                self.seconds[phase] = taken + time.monotonic() - since


_WATCHED: ContextVar[Watched | None] = ContextVar("watched", default=None)


@contextmanager
def watched(kind: str) -> Iterator[Watched]:
    """Count a task of that kind: as running inside the block, by its status afterwards."""
    task = Watched()
    _WATCHED.set(task)
    with suppress(OSError):  # No task fails because it can't be counted.
        _restore_folder()
        _RUNNING.labels(kind).inc()
    try:
        yield task
    finally:
        _WATCHED.set(None)
        with suppress(OSError):
            _RUNNING.labels(kind).dec()
            _TASKS.labels(kind, task.status).inc()


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Add the seconds that the block takes to those of the phase, however it ends."""
    started, task = time.monotonic(), _WATCHED.get()
    if task:
        task.enter(name)
    try:
        yield
    finally:
        if task:
            task.leave(name)
        with suppress(OSError):
            _PHASES.labels(name).observe(time.monotonic() - started)


def received(kind: str, size: int) -> None:
    """Count `size` bytes of an upload of that kind that have arrived, for all and for the current
    task."""
    with suppress(OSError):
        RECEIVED_BYTES.labels(kind).inc(size)
    if task := _WATCHED.get():
        task.received_bytes += size


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
    registry.register(_FreeSpace(free_bytes))
    if _FOLDER not in os.environ:
        return generate_latest(REGISTRY) + generate_latest(registry)
    _restore_folder()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)

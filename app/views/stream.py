"""Generator views as JSON-line responses: the contract's lines, each sent as it becomes true."""

import logging
import select
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any
from uuid import uuid4

from flask import Response, current_app, request, stream_with_context

from app import metrics
from app.errors import Failure, describe
from app.logs import as_pairs, bounded
from app.service.lines import Line, Steps, Task
from app.storage.tasks import TaskLog, TaskStopped
from app.views.fields import NEW_NAME
from app.views.sentences import in_language

HEARTBEAT_SECONDS = 9.0
GONE = Failure(499, "The client hung up.")
"""By nginx's status for a request whose client closed the connection before its answer."""
FACT_CHARACTERS = 500
FACTS = ("model", "model_name_on_ollama", "server", "upload")
MEDIA_TYPE = "application/x-ndjson"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FailureLine:
    """How a route's line is written where it fails before it says so itself."""

    action: str = "Failed request."
    ratio_key: str = "progress_ratio"


def fails_as(
    action: str, ratio_key: str = "progress_ratio"
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare how a view's failures are written, whoever finds them."""

    def decorate(view: Callable[..., Any]) -> Callable[..., Any]:
        view.failure_line = FailureLine(action, ratio_key)  # type: ignore[attr-defined]
        return view

    return decorate


def streamed(
    failure: str, ratio_key: str = "progress_ratio", *, kept: bool = True
) -> Callable[[Callable[..., Steps[None]]], Callable[..., Response]]:
    """Make a view of a generator that is given a Task and yields Lines.

    What the generator raises before its first line is answered with the HTTP status that
    `errors.STATUS` gives it; after that, it becomes the stream's last line. `failure` is the
    action of that line until the task's own says otherwise. Where `kept`, the lines can be asked
    for later, by the task's uuid.
    """

    def decorate(view: Callable[..., Steps[None]]) -> Callable[..., Response]:
        @fails_as(failure, ratio_key)
        @wraps(view)
        def respond(**arguments: Any) -> Response:
            task = Task(str(uuid4()), failure)
            lines = stream_with_context(_encoded(task, view(task, **arguments), ratio_key, kept))
            try:
                first = next(lines, b"")
            except _Refused as refused:
                return _refused(task, refused.failure, ratio_key)
            except Exception as error:
                return failed(task, error, ratio_key)
            response = line_response(_resumed(first, lines))
            response.headers["X-Task-UUID"] = task.uuid
            response.call_on_close(lines.close)  # type: ignore[attr-defined]
            return response

        return respond

    return decorate


class _Refused(Exception):
    """The task failed before its first line; that stands in the log already."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.error)
        self.failure = failure


def is_verbose() -> bool:
    """Whether the current request's client wants more than the contract's fixed lines and keys."""
    return request.args.get("verbose", "") not in ("", "0", "false")


def failed(task: Task, error: Exception, ratio_key: str = "progress_ratio") -> Response:
    """The response for a task that failed before its first line."""
    return _refused(task, logged(task, error), ratio_key)


def _refused(task: Task, failure: Failure, ratio_key: str) -> Response:
    details = in_language(failure.details(verbose=is_verbose()))
    body = encode(task, failure.status, task.failure, ratio_key, 0, details)
    response = line_response(body, failure.status)
    response.headers["X-Task-UUID"] = task.uuid
    return response


def line_response(body: bytes | Iterator[bytes], status: int = 200) -> Response:
    """JSON lines, to be passed on unbuffered."""
    response = Response(body, status, mimetype=MEDIA_TYPE)
    response.headers["X-Accel-Buffering"] = "no"
    response.headers["Cache-Control"] = "no-store"
    return response


def _resumed(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if first:
        yield first
    yield from rest


def run_to_end(task: Task, steps: Steps[None]) -> tuple[list[Line], int]:
    """All lines of a task, and the HTTP status for them as a whole: that of a failure only where
    it came before the first line. A failure is the last line."""
    lines = []
    with logged_at_its_end(task) as ended:
        try:
            for step in steps:
                if step is not None and not step.verbose:
                    lines.append(step)
        except Exception as error:
            failure = ended.fail(error)
            ratio = lines[-1].ratio if lines else 0
            status = 200 if lines else failure.status
            return [*lines, Line(task.failure, ratio, failure.details())], status
        ended.succeed()
    return lines, 200


def _encoded(task: Task, steps: Steps[None], ratio_key: str, kept: bool) -> Iterator[bytes]:
    """The task's lines as bytes, for as long as its client is there."""
    verbose = is_verbose()
    last: Line | None = None
    sent_at = time.monotonic()
    begun = {"method": request.method, "path": request.path, "bytes": request.content_length}
    log.info("task %s: begun %s", task.uuid, as_pairs(bounded(begun, FACT_CHARACTERS)))
    with ExitStack() as ending:
        ended = ending.enter_context(logged_at_its_end(task))
        keep = ending.enter_context(task_log().writer(task.uuid)) if kept else _drop
        ending.callback(steps.close)
        try:
            for step in steps:
                if kept:
                    look_at_log(task, step)
                if not client_is_there():
                    if step is not None and not step.verbose:  # It is true all the same.
                        keep(encode(task, 200, step.action, ratio_key, step.ratio, step.details))
                    return
                if step is None or (step.verbose and not verbose):
                    silent = time.monotonic() - sent_at
                    if not verbose or last is None or silent < HEARTBEAT_SECONDS:
                        continue
                    step = Line("Still working.", last.ratio, last.details, verbose=True)
                last, sent_at = step, time.monotonic()
                details = {**step.details, **step.more} if verbose else step.details
                line = encode(task, 200, step.action, ratio_key, step.ratio, details)
                if not step.verbose:
                    keep(line)
                yield line
            ended.succeed()
        except Exception as error:
            steps.close()
            failure = ended.fail(error)
            ratio = last.ratio if last else 0
            said = task, failure.status, task.failure, ratio_key, ratio
            details = failure.details(verbose=verbose)
            if not isinstance(error, TaskStopped):
                keep(encode(*said, {**_about(task), **details}))  # in English, for who asks later
            if last is None:
                raise _Refused(failure) from error
            yield encode(*said, in_language(details))


def look_at_log(task: Task, step: Line | None) -> None:
    """Between the fixed lines, note in the log what a task does now, if it has said so. Raises
    TaskStopped where the log says that it is to be stopped."""
    if step is not None and not step.verbose:
        return
    task_log().check(task.uuid)
    if step is not None:
        known = step.details.get("ollama") or {}
        done = {"bytes": known.get("completed"), "total_bytes": known.get("total"), **step.details}
        figures = {key: done[key] for key in ("bytes", "total_bytes")}
        task_log().note(task.uuid, {"action": step.action, "ratio": step.ratio, **figures})


def _about(task: Task) -> dict[str, str]:
    """What a failed task's last line is kept with, for whoever looks later: it may be its only
    one."""
    return {key: task.facts[key] for key in ("model", NEW_NAME) if task.facts.get(key)}


class _Ended:
    """How a task has ended; until it says so, its client has hung up."""

    def __init__(self) -> None:
        self.failure: Failure | None = GONE
        self.unforeseen: Exception | None = None

    def fail(self, error: Exception) -> Failure:
        """Take the error, and return what the client is told of it."""
        told, self.failure = _meaning(error)
        self.unforeseen = error if self.failure.status == 500 else None
        return told

    def succeed(self) -> None:
        """The task has done all of its work."""
        self.failure = None


@contextmanager
def logged_at_its_end(task: Task) -> Iterator[_Ended]:
    """Count the task of the current request, and say in one line of the log how it has ended."""
    started_at = time.monotonic()
    kind = str(request.endpoint).removeprefix("models.")
    ended = _Ended()
    with metrics.watched(kind) as watched:
        try:
            yield ended
        except _Refused:
            raise
        except Exception as error:
            raise _Refused(ended.fail(error)) from error
        finally:
            status = ended.failure.status if ended.failure else 200
            watched.status = "left" if ended.failure is GONE else str(status)
            facts = {
                "task_uuid": task.uuid,
                "kind": kind,
                "status": status,
                "client": request.remote_addr or "",
                **{name: task.facts[name] for name in FACTS if name in task.facts},
                "bytes": watched.received_bytes,
                "seconds": round(time.monotonic() - started_at, 3),
                "phases": {name: round(took, 3) for name, took in watched.seconds.items()},
                "error": ended.failure.error if ended.failure else "",
            }
            facts = bounded(facts, FACT_CHARACTERS)
            level = logging.WARNING if ended.failure else logging.INFO
            log.log(
                *(level, "task %s: ended %s", task.uuid, as_pairs(facts)),
                exc_info=ended.unforeseen,
                extra=facts,
            )


def encode(
    task: Task, status: int, action: str, ratio_key: str, ratio: float, details: dict[str, Any]
) -> bytes:
    """A line of the contract's shape."""
    message = {
        "action": action,
        "task_uuid": task.uuid,
        ratio_key: ratio,
        "details": details,
    }
    return current_app.json.dumps({"status": status, "message": message}).encode() + b"\n"


def _drop(line: bytes) -> None:
    """Keep no line."""


def task_log() -> TaskLog:
    """Where the lines of tasks are kept."""
    tasks: TaskLog = current_app.extensions["service"].tasks
    return tasks


def logged(task: Task, error: Exception) -> Failure:
    """What a client is told of the error, once it stands in the log: with its traceback where
    nothing in errors.STATUS foresees it."""
    told, failure = _meaning(error)
    unforeseen = error if failure.status == 500 else None
    facts = {
        "task_uuid": task.uuid,
        "status": failure.status,
        "client": request.remote_addr or "",
        "method": request.method,
        "path": request.path,
        "error": failure.error,
    }
    facts = bounded(facts, FACT_CHARACTERS)
    said = as_pairs(facts)
    log.warning("task %s: refused %s", task.uuid, said, exc_info=unforeseen, extra=facts)
    return told


def _meaning(error: Exception) -> tuple[Failure, Failure]:
    """What the client is told of the error, and what it is: GONE where it is only that the client
    has hung up within its request. One that has ended just its own half may still read."""
    failure = describe(error)
    if isinstance(error, ConnectionError):
        return (failure, failure) if client_is_there() else (GONE, GONE)
    is_cut_off = failure.status in (400, 422) and not client_is_there()
    return failure, GONE if is_cut_off else failure


def client_is_there() -> bool:
    """Whether the client of the current request still holds its connection open."""
    connection = request.environ.get("gunicorn.socket")
    if not isinstance(connection, socket.socket) or isinstance(connection, ssl.SSLSocket):
        return True
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    try:
        # Something to read that is nothing is the end that the client has sent.
        return not poll.poll(0) or connection.recv(1, socket.MSG_PEEK) != b""
    except OSError:
        return False

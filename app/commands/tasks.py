"""`model-handler tasks`: what a service has done lately, and how one task ended."""

import json
import time
from typing import Any

import click
import requests

from app.commands.asking import TIMEOUT_SECONDS, asking, service_options
from app.commands.sending import Refused, check_answer
from app.logs import escaped

POLL_SECONDS = 0.5
RUNNING, SUCCEEDED = "running", "succeeded"


@click.command()
@click.argument("uuid", required=False)
@click.option("--follow", is_flag=True, help="Print the lines of UUID as they come, to its end.")
@click.option("--stop", is_flag=True, help="Have the task UUID stopped.")
@click.option("--json", "as_json", is_flag=True, help="Print what the service says as it is.")
@service_options
def tasks(
    uuid: str | None, follow: bool, stop: bool, as_json: bool, server: str, key_env: str
) -> None:
    """The recent tasks of a service, newest first; or the lines of the task UUID.

    With UUID it ends with status 0 only where that task has succeeded or still runs.
    """
    for option, is_given in (("--follow", follow), ("--stop", stop)):
        if is_given and uuid is None:
            raise click.UsageError(f"{option} needs the UUID of a task.")
    with asking(server, key_env, "See that it runs, and where: --server URL.") as session:
        if uuid is None:
            for task in _recent(session, server):
                click.echo(json.dumps(task) if as_json else _summary(task))
        elif stop:
            answer = session.delete(f"{server}/tasks/{uuid}", timeout=TIMEOUT_SECONDS)
            check_answer(answer)
            is_late = answer.json()["state"] == "ended"
            click.echo("The task has ended already." if is_late else "The task is being stopped.")
        else:
            _show(session, server, uuid, follow, as_json)


def _recent(session: requests.Session, server: str) -> list[dict[str, Any]]:
    answer = session.get(f"{server}/tasks/", timeout=TIMEOUT_SECONDS)
    check_answer(answer)
    found: list[dict[str, Any]] = answer.json()["tasks"]
    return found


def _summary(task: dict[str, Any]) -> str:
    now = task.get("now") or {}
    ratio, action = now.get("ratio", task["progress_ratio"]), now.get("action", task["action"])
    parts = (
        f"{task['started']}  {task['task_uuid']}  {task['state']:9}",
        f"{ratio or 0:4.0%}  {action or ''}  {task['model'] or ''}",
    )
    return escaped("  ".join(parts))


def _show(session: requests.Session, server: str, uuid: str, follow: bool, as_json: bool) -> None:
    """Print a task's lines. Raises Refused where it has failed or was stopped."""
    shown, line = 0, {}
    while True:
        # Asked for before its lines: those of a task that has ended are all there.
        states = {task["task_uuid"]: task["state"] for task in _recent(session, server)}
        answer = session.get(f"{server}/tasks/{uuid}", timeout=TIMEOUT_SECONDS)
        check_answer(answer)
        whole = answer.content[: answer.content.rfind(b"\n") + 1].splitlines()
        for text in whole[shown:]:
            line = json.loads(text)
            click.echo(text.decode() if as_json else _said(line))
        shown = len(whole)
        state = states.get(uuid, RUNNING)
        if state != RUNNING or not follow:
            break
        time.sleep(POLL_SECONDS)
    if state not in (RUNNING, SUCCEEDED):
        details = line.get("message", {}).get("details", {})
        stopped = "The task was stopped: its client left, or its process was killed."
        raise Refused(details.get("error", stopped), details.get("hint"))


def _said(line: dict[str, Any]) -> str:
    message = line["message"]
    ratio = message.get("progress_ratio", message.get("progress", 0))
    return escaped(f"{ratio:4.0%} {message['action']}")

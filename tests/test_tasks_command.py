"""`model-handler tasks`, on a running service."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from click.testing import CliRunner, Result

from app.commands import main
from tests.conftest import Zips, litter
from tests.serving import Served
from tests.standin import Standin


def tasks(served: Served, *arguments: str, **environ: str) -> Result:
    environ = {"MODEL_HANDLER_SERVER": served.url, **environ}
    return CliRunner().invoke(main, ["tasks", *arguments], env=environ, catch_exceptions=False)


def upload(served: Served, zips: Zips, name: str = "tiny_lora") -> list[dict[str, Any]]:
    with zips.both.open("rb") as body:
        url = f"{served.url}/models/upload/{name}.zip"
        return [json.loads(line) for line in requests.put(url, data=body, timeout=60).iter_lines()]


def create(served: Served, model: str) -> str:
    """The uuid of a task that creates a model."""
    fields = {"model": model, "model_name_on_ollama": "tasks-test"}
    answer = requests.post(f"{served.url}/models/create/", json=fields, timeout=60)
    uuid: str = json.loads(answer.text.splitlines()[0])["message"]["task_uuid"]
    return uuid


def test_the_recent_tasks_are_listed_newest_first(served: Served, zips: Zips) -> None:
    uuid = upload(served, zips)[0]["message"]["task_uuid"]
    failed = create(served, "nothing")
    first, second = tasks(served).output.splitlines()
    assert failed in first
    assert "  failed   " in first
    for part in (uuid, "succeeded  100%  Success upload model file.  tiny_lora"):
        assert part in second
    listed = [json.loads(line) for line in tasks(served, "--json").output.splitlines()]
    assert [task["task_uuid"] for task in listed] == [failed, uuid]


def test_the_lines_of_a_task_and_how_it_ended(served: Served, zips: Zips) -> None:
    lines = upload(served, zips)
    uuid = lines[0]["message"]["task_uuid"]
    done = tasks(served, uuid)
    assert (done.exit_code, done.output.splitlines()[-1]) == (0, "100% Success upload model file.")
    shown = tasks(served, uuid, "--json", "--follow").output.splitlines()
    assert [json.loads(line) for line in shown] == lines
    done = tasks(served, create(served, "nothing"))
    assert done.exit_code == 1
    assert "There is no model 'nothing'." in done.output


def test_a_running_task_is_followed_to_its_end(
    served: Served, standin: Standin, zips: Zips, new_name: str
) -> None:
    upload(served, zips)
    fields = {"model": "tiny_lora", "model_name_on_ollama": new_name}
    results: list[Result] = []
    with standin.hold("/api/create") as gate:
        url = f"{served.url}/models/create/"
        with requests.post(url, json=fields, stream=True, timeout=60) as answer:
            gate.wait_reached(20)
            uuid = tasks(served).output.split()[1]
            assert tasks(served, uuid).exit_code == 0
            following = threading.Thread(
                target=lambda: results.append(tasks(served, uuid, "--follow"))
            )
            following.start()
            gate.open()
            assert b'"Success create model"' in answer.content
    following.join(60)
    [done] = results
    assert done.exit_code == 0
    said = done.output.splitlines()
    assert said == [
        " 33% Started to create model.",
        " 66% Start structure template",
        "100% Success create model",
    ]


STOPPED = {"error": "The task was stopped on request."}


def test_a_running_task_is_stopped(
    served: Served, standin: Standin, zips: Zips, new_name: str, models_dir: Path
) -> None:
    upload(served, zips)
    fields = {"model": "tiny_lora", "model_name_on_ollama": new_name}
    with standin.hold("/api/create") as gate:
        url = f"{served.url}/models/create/"
        with requests.post(url, json=fields, stream=True, timeout=60) as answer:
            gate.wait_reached(20)
            uuid = tasks(served).output.split()[1]
            running = json.loads(tasks(served, "--json").output.splitlines()[0])
            assert running["now"]["action"].startswith(("Pushing.", "Hashing.", "Ollama: "))
            assert tasks(served, uuid, "--stop").output == "The task is being stopped.\n"
            last = json.loads(answer.content.splitlines()[-1])
    assert (last["status"], last["message"]["details"]) == (409, STOPPED)
    assert f"{uuid}  stopped     66%  Start structure template" in tasks(served).output
    assert tasks(served, uuid, "--stop").output == "The task has ended already.\n"
    assert not litter(models_dir)
    assert (models_dir / "tiny_lora").is_dir()


def test_an_upload_under_way_is_stopped(served: Served, zips: Zips, models_dir: Path) -> None:
    content = zips.both.read_bytes()
    half = len(content) // 2

    def halves() -> Iterator[bytes]:
        yield content[:half]
        uuid = wait_for(lambda: tasks(served).output.split()[1])
        tasks(served, uuid, "--stop")
        yield content[half:]

    answer = requests.put(f"{served.url}/models/upload/x.zip", data=halves(), timeout=60)
    assert (answer.status_code, answer.json()["message"]["details"]) == (409, STOPPED)
    assert tasks(served).output.split()[2] == "stopped"
    assert not litter(models_dir)
    assert not (models_dir / "x").exists()


def wait_for(look: Callable[[], str]) -> str:
    """What `look` finds, once it raises no IndexError."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return look()
        except IndexError:
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--follow"], 2, "--follow needs the UUID"),
        (["--stop"], 2, "--stop needs the UUID"),
        (["no-such-task"], 1, "There is no task 'no-such-task'"),
        (["--server", "http://127.0.0.1:1"], 1, "can't be reached"),
        (["--server", "127.0.0.1:1"], 1, "http://127.0.0.1:1 can't be reached"),
        (["--server", "ftp://127.0.0.1"], 2, "isn't like http://"),
        (["--server", "http://"], 2, "isn't like http://"),
    ],
)
def test_what_cannot_be_told_is_said(
    served: Served, arguments: list[str], code: int, said: str
) -> None:
    done = tasks(served, *arguments)
    assert (done.exit_code, said in done.output) == (code, True), done.output

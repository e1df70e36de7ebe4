"""Several Ollama servers: the model goes to all, or to one; one failing doesn't stop the rest."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from flask import Flask

from app import create_app
from app.config import SettingError, from_environ
from tests.callers import Answer, FlaskCaller
from tests.conftest import Zips, litter
from tests.standin import Standin

OLD, NEW = "0.32.15", "0.34.1"
LINES = ["Started to create model.", "Start structure template", "Success create model"]


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Standin, Standin]]:
    """A server that takes adapters, and one that doesn't."""
    with Standin(tmp_path / "a", version=OLD) as a, Standin(tmp_path / "b", version=NEW) as b:
        yield a, b


def make_app(models_dir: Path, *urls: str) -> Flask:
    return create_app({"MODELS_DIR": models_dir, "OLLAMA_HOST": ",".join(urls)})


@pytest.fixture
def service(models_dir: Path, two: tuple[Standin, Standin], zips: Zips) -> FlaskCaller:
    caller = FlaskCaller(make_app(models_dir, *(one.url for one in two)).test_client())
    caller.send_form("/models/upload/", [("Model", zips.both)])
    return caller


def create(caller: FlaskCaller, name: str, query: str = "") -> Answer:
    body = {"model": "tiny_lora", "model_name_on_ollama": name}
    return caller.send_json("POST", f"/models/create/{query}", body)


def has(server: Standin, name: str) -> bool:
    tags = requests.get(f"{server.url}/api/tags", timeout=30).json()["models"]
    return f"{name}:latest" in {model["name"] for model in tags}


def actions(answer: Answer) -> list[str]:
    return [line["message"]["action"] for line in answer.lines]


def details(answer: Answer) -> list[dict[str, Any]]:
    return [line["message"]["details"] for line in answer.lines]


def test_create_goes_to_all(service: FlaskCaller, two: tuple[Standin, Standin]) -> None:
    answer = create(service, "x")
    assert actions(answer) == LINES
    assert all("server" not in one and "servers" not in one for one in details(answer))
    assert all(has(server, "x") for server in two)


def test_verbose_lines_say_which_server(service: FlaskCaller, two: tuple[Standin, Standin]) -> None:
    said = details(create(service, "x", "?verbose=1"))
    ways = {way["server"]: way["adapter"] for way in said[0]["servers"]}
    assert ways == {two[0].url: "sent", two[1].url: "merged"}
    assert {one["server"] for one in said if "server" in one} == {one.url for one in two}


def test_create_goes_to_the_one_that_is_asked_for(
    service: FlaskCaller, two: tuple[Standin, Standin]
) -> None:
    assert create(service, "x", f"?server={two[1].url}").last["status"] == 200
    assert [has(server, "x") for server in two] == [False, True]
    answer = create(service, "x", "?server=elsewhere")
    assert answer.status == 400
    assert two[0].url in answer.last["details"]["error"]


def test_one_that_fails_does_not_stop_the_other(
    service: FlaskCaller, two: tuple[Standin, Standin]
) -> None:
    two[0].fail_next("/api/create", body=b'{"error": "disk on fire"}')
    answer = create(service, "x")
    said = answer.last["details"]
    assert actions(answer) == [*LINES[:2], "Failed create model"]
    assert answer.last["status"] == 502
    assert said["error"].startswith(f"On {two[0].url}: ")
    assert "disk on fire" in said["error"]
    assert f"On {two[1].url} the model was made." in said["hint"]
    assert f"?server={two[0].url}" in said["hint"]
    assert [has(server, "x") for server in two] == [False, True]


def test_deploy_with_one_server_down(
    models_dir: Path, two: tuple[Standin, Standin], zips: Zips
) -> None:
    app = make_app(models_dir, "http://127.0.0.1:9", two[0].url)
    fields = [("model_name_on_ollama", "x"), ("Model", zips.both)]
    answer = FlaskCaller(app.test_client()).send_form("/models/deploy/", fields)
    assert answer.status == 200
    assert answer.last["status"] == 502
    assert has(two[0], "x")
    assert (models_dir / "tiny_lora").is_dir()
    assert not litter(models_dir)
    ready = app.test_client().get("/readyz")
    assert ready.status_code == 200
    checks = ready.json["checks"]  # type: ignore[index]
    assert checks[f"ollama {two[0].url}"]["ok"]
    assert not checks["ollama http://127.0.0.1:9"]["ok"]


def test_all_failing_is_known_at_once(models_dir: Path, zips: Zips) -> None:
    app = make_app(models_dir, "http://127.0.0.1:9", "http://127.0.0.1:10")
    fields = [("model_name_on_ollama", "x"), ("Model", zips.both)]
    answer = FlaskCaller(app.test_client()).send_form("/models/deploy/", fields)
    assert answer.status == 502
    assert not (models_dir / "tiny_lora").exists()


def test_the_setting_takes_a_list() -> None:
    urls = from_environ({"OLLAMA_HOST": "one, two:80,http://one:11434"})["OLLAMA_HOST"]
    assert urls == ("http://one:11434", "http://two:80")
    with pytest.raises(SettingError):
        from_environ({"OLLAMA_HOST": "one,ftp://two"})

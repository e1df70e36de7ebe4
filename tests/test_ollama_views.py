"""What the page asks of Ollama through the service: its models, and an answer to one prompt."""

import json
from pathlib import Path

from flask import Flask

from app import create_app
from tests.callers import Caller, FlaskCaller
from tests.conftest import Zips
from tests.standin import Standin


def deploy(caller: Caller, zips: Zips) -> None:
    fields = [("model_name_on_ollama", "x"), ("Model", zips.base)]
    assert caller.send_form("/models/deploy/", fields).last["status"] == 200


def test_servers_and_their_models(app: Flask, standin: Standin, zips: Zips) -> None:
    caller = FlaskCaller(app.test_client())
    deploy(caller, zips)
    [server] = json.loads(caller.get("/ollama/").body)["servers"]
    assert server["url"] == standin.url
    assert server["version"] == standin.version
    assert [model["name"] for model in server["models"]] == ["x:latest"]


def test_a_server_that_is_down_says_why(models_dir: Path, standin: Standin) -> None:
    hosts = f"{standin.url},http://127.0.0.1:9"
    app = create_app({"MODELS_DIR": models_dir, "OLLAMA_HOST": hosts})
    answer = FlaskCaller(app.test_client()).get("/ollama/")
    assert answer.status == 200
    up, down = json.loads(answer.body)["servers"]
    assert up["models"] == []
    assert down["url"] == "http://127.0.0.1:9"
    assert "can't be reached" in down["error"]


def test_generate_passes_ollama_s_lines_on(caller: Caller, standin: Standin, zips: Zips) -> None:
    deploy(caller, zips)
    answer = caller.send_json("POST", "/ollama/generate", {"model": "x", "prompt": "Hello"})
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in answer.body.splitlines()]
    assert "".join(line["response"] for line in lines) == "The stand-in has read 5 characters."
    assert [line["done"] for line in lines[-2:]] == [False, True]


def test_the_server_that_has_the_model_answers(
    models_dir: Path, standin: Standin, zips: Zips
) -> None:
    hosts = f"http://127.0.0.1:9,{standin.url}"
    caller = FlaskCaller(create_app({"MODELS_DIR": models_dir, "OLLAMA_HOST": hosts}).test_client())
    fields = [("model_name_on_ollama", "x"), ("Model", zips.base)]
    path = f"/models/deploy/?server={standin.url}"
    assert caller.send_form(path, fields).last["status"] == 200
    answer = caller.send_json("POST", "/ollama/generate", {"model": "x", "prompt": "Hello"})
    assert answer.status == 200


def test_refusals_of_generate(app: Flask, standin: Standin) -> None:
    caller = FlaskCaller(app.test_client())
    unknown = caller.send_json("POST", "/ollama/generate", {"model": "no", "prompt": "Hello"})
    assert unknown.status == 404
    assert unknown.last["action"] == "Failed generate."
    assert unknown.last["details"]["error"] == "Ollama has no model 'no'."
    assert caller.send_json("POST", "/ollama/generate", {"model": "no"}).status == 400
    assert caller.send_json("POST", "/ollama/generate", []).status == 400
    asked = {"model": "no", "prompt": "Hello"}
    assert caller.send_json("POST", "/ollama/generate?server=elsewhere", asked).status == 400
    standin.stop()
    assert caller.send_json("POST", "/ollama/generate", asked).status == 502


def test_a_failure_within_the_answer_is_a_line_of_it(
    app: Flask, standin: Standin, zips: Zips
) -> None:
    caller = FlaskCaller(app.test_client())
    deploy(caller, zips)
    lines = [b'{"response": "On"}\n', b'{"error": "out of memory"}\n']
    standin.fail_next("/api/generate", lines=lines)
    answer = caller.send_json("POST", "/ollama/generate", {"model": "x", "prompt": "Hello"})
    assert [json.loads(line) for line in answer.body.splitlines()] == [
        {"response": "On"},
        {"error": "out of memory"},
    ]


def test_ollama_s_own_refusal_is_passed_on(app: Flask, standin: Standin, zips: Zips) -> None:
    caller = FlaskCaller(app.test_client())
    deploy(caller, zips)
    standin.fail_next("/api/generate", body=b'{"error": "needs more memory"}')
    answer = caller.send_json("POST", "/ollama/generate", {"model": "x", "prompt": "Hello"})
    assert answer.status == 502
    assert "needs more memory" in answer.last["details"]["error"]

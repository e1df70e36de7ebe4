"""The description is true: it has every route and nothing else, and answers are as it says."""

import html
import os
import re
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from flask import Flask
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from app import create_app
from app.views import BLUEPRINTS
from app.views.openapi import WHY, description
from tests.callers import FlaskCaller
from tests.conftest import Zips, require_program
from tests.serving import Served
from tests.standin import Standin


def _operations() -> dict[str, dict[str, Any]]:
    """What is described of each route, such as `GET /models/`."""
    app = Flask(__name__)
    for blueprint in BLUEPRINTS:
        app.register_blueprint(blueprint)
    return {
        f"{method.upper()} {path}": operation
        for path, item in description(app)["paths"].items()
        for method, operation in item.items()
    }


OPERATIONS = _operations()
EXAMPLES = {route: said["x-codeSamples"][0]["source"] for route, said in OPERATIONS.items()}
LINES = {route: said["x-lines"] for route, said in OPERATIONS.items() if "x-lines" in said}


def test_every_route_is_described(app: Flask) -> None:
    described = {
        (path, method.upper())
        for path, item in app.test_client().get("/openapi.json").json["paths"].items()  # type: ignore[index]
        for method in item
    }
    routes = {
        (re.sub(r"<(\w+)>", r"{\1}", rule.rule), method)
        for rule in app.url_map.iter_rules()
        if rule.endpoint != "static"
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert described == routes


def test_docs_show_every_route(app: Flask) -> None:
    page = app.test_client().get("/docs").text
    for rule in app.url_map.iter_rules():
        if rule.endpoint != "static":
            assert re.sub(r"<(\w+)>", r"{\1}", rule.rule) + "</code>" in page
    assert "http://" not in page
    assert "https://" not in page


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, zips: Zips) -> object:
    folder = tmp_path_factory.mktemp("api")
    with Standin(folder / "ollama") as standin:
        app = create_app({"MODELS_DIR": folder / "models", "OLLAMA_HOST": standin.url})
        with zips.base.open("rb") as file:
            app.test_client().post("/models/upload/", data={"Model": (file, "tiny.zip")})
        yield schemathesis.openapi.from_wsgi("/openapi.json", app)


@schemathesis.serializer("application/zip")
def _as_it_is(context: object, value: object) -> bytes:
    return getattr(value, "data", str(value).encode())


# A status that isn't described fails, and so 500 does.
CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]
UNPACKED = {"Accept-Encoding": "identity"}  # in process, nobody unpacks an answer


@pytest.mark.parametrize("route", OPERATIONS)
def test_answers_are_as_described(api: Any, route: str) -> None:
    method, path = route.split()

    @given(case=api[path][method].as_strategy())
    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    def call(case: schemathesis.Case) -> None:
        case.call_and_validate(checks=CHECKS, headers=UNPACKED)

    call()


def in_order(route: str) -> int:
    """What makes the model that other examples are about comes first, what deletes it last."""
    return {"POST /models/upload/": 0, "POST /uploads/": 0}.get(
        route, 2 if "DELETE" in route else 1
    )


def test_each_route_has_an_example_that_works(
    served: Served, standin: Standin, zips: Zips, tmp_path: Path
) -> None:
    require_program("curl")
    (tmp_path / "my_model.zip").write_bytes(zips.both.read_bytes())
    with zipfile.ZipFile(zips.both) as archive:
        archive.extract("base.gguf", tmp_path)
    environ = {**os.environ, "service": served.url}
    tasks = requests.get(f"{served.url}/tasks/", timeout=30).json()["tasks"]
    for route, source in sorted(EXAMPLES.items(), key=lambda example: in_order(example[0])):
        environ["task"] = tasks[0]["task_uuid"] if tasks else ""
        code = re.sub(r"\bcurl\b", "curl -sS --fail-with-body", source)
        result = subprocess.run(
            ["bash", "-ec", code], cwd=tmp_path, env=environ, capture_output=True, timeout=60
        )
        said = result.stdout.decode(errors="replace")
        assert result.returncode == 0, (route, said, result.stderr)
        assert '"error": "' not in said, route
        if location := re.search(r"Location: \S*/uploads/(\w+)", said):
            environ["upload"] = location[1]
        tasks = requests.get(f"{served.url}/tasks/", timeout=30).json()["tasks"]


@pytest.mark.parametrize("route", LINES)
def test_the_lines_are_as_the_description_says(
    app: Flask, standin: Standin, zips: Zips, route: str
) -> None:
    caller = FlaskCaller(app.test_client())
    caller.send_form("/models/upload/", [("Model", zips.both)])
    name, new = "tiny_lora", ("model_name_on_ollama", "new")
    answer = {
        "GET /models/": lambda: caller.get("/models/"),
        "DELETE /models/": lambda: caller.send_json("DELETE", "/models/", {"model": name}),
        "POST /models/upload/": lambda: caller.send_form("/models/upload/", [("Model", zips.both)]),
        "PUT /models/upload/{filename}": lambda: caller.send_file("/models/upload/", zips.both),
        "POST /models/create/": lambda: caller.send_json(
            "POST", "/models/create/", {"model": name, new[0]: new[1]}
        ),
        "POST /models/deploy/": lambda: caller.send_form(
            "/models/deploy/", [new, ("Model", zips.both)]
        ),
        "PUT /models/deploy/{filename}": lambda: caller.send_file(
            "/models/deploy/", zips.both, f"?{new[0]}={new[1]}"
        ),
    }[route]()
    values: dict[str, Any] = {"FILE": zips.both.name, "NAME": name, "NEW": "new", "k/n": 1.0}
    key = "progress" if "deploy" in route else "progress_ratio"
    assert [
        {
            "action": line["action"],
            "ratio": values.get(line["ratio"], line["ratio"]),
            "details": {key: values[value] for key, value in line["details"].items()},
        }
        for line in LINES[route]
    ] == [
        {"action": message["action"], "ratio": message[key], "details": message["details"]}
        for message in (line["message"] for line in answer.lines)
    ]


def test_docs_show_examples_statuses_and_lines(app: Flask) -> None:
    page = html.unescape(app.test_client().get("/docs").text)
    for source in EXAMPLES.values():
        assert source in page
    for lines in LINES.values():
        for line in lines:
            assert f"<td>{line['action']}</td><td>{line['ratio']}</td>" in page
    for status, why in WHY.items():
        assert f"<li>{status}: {why}</li>" in page

"""The description is true: it has every route and nothing else, and answers are as it says."""

import re
from typing import Any

import pytest
import schemathesis
from flask import Flask
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from app import create_app
from app.views.openapi import description
from tests.conftest import Zips
from tests.standin import Standin


def test_every_route_is_described(app: Flask) -> None:
    described = {
        (path, method.upper())
        for path, item in app.test_client().get("/openapi.json").json["paths"].items()  # type: ignore[index]
        for method in item
        if method != "parameters"
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
OPERATIONS = [
    (path, method)
    for path, item in description()["paths"].items()
    for method in item
    if method != "parameters"
]


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_answers_are_as_described(api: Any, path: str, method: str) -> None:
    @given(case=api[path][method].as_strategy())
    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    def call(case: schemathesis.Case) -> None:
        case.call_and_validate(checks=CHECKS, headers=UNPACKED)

    call()

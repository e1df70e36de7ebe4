"""What an open page asks again and again: one answer, sent only where it has changed."""

import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from flask.testing import FlaskClient

from app import create_app
from app.ollama.errors import OllamaError
from app.service.watch import Watch
from tests.callers import RequestsCaller
from tests.conftest import Zips
from tests.serving import Served, serve
from tests.standin import Standin

PAGES = 30


@pytest.fixture
def client(models_dir: Path, ollama: str) -> FlaskClient:
    return create_app({"MODELS_DIR": models_dir, "OLLAMA_HOST": ollama}).test_client()


def deploy(client: FlaskClient, path: Path, name: str) -> None:
    with path.open("rb") as file:
        form = {"Model": (file, path.name), "model_name_on_ollama": name}
        assert "Success create model" in client.post("/models/deploy/", data=form).text


def test_it_is_sent_again_once_something_has_changed(client: FlaskClient, zips: Zips) -> None:
    first = client.get("/state/")
    known = {"If-None-Match": first.headers["ETag"]}
    assert client.get("/state/", headers=known).status_code == 304
    deploy(client, zips.base, "new")
    after = client.get("/state/", headers={**known, "Cache-Control": "no-cache"})
    assert after.status_code == 200
    assert [model["model"] for model in after.json["models"]] == ["tiny_base"]
    assert after.json["tasks"][0]["model_name_on_ollama"] == "new"
    assert [model["name"] for model in after.json["servers"][0]["models"]] == ["new:latest"]
    known = {"If-None-Match": after.headers["ETag"]}
    assert client.get("/state/", headers=known).status_code == 304
    assert "Success" in client.delete("/models/", json={"model": "tiny_base"}).text
    assert client.get("/state/", headers=known).json["models"] == []


def test_it_is_told_also_where_the_models_directory_has_gone(
    client: FlaskClient, models_dir: Path, zips: Zips
) -> None:
    deploy(client, zips.base, "new")
    shutil.rmtree(models_dir)
    assert client.get("/state/").json["models"] == []


def test_a_failure_is_told_with_its_model_and_reason(
    client: FlaskClient, zips: Zips, standin: Standin
) -> None:
    deploy(client, zips.base, "new")
    standin.fail_next("/api/create", body=b'{"error": "disk on fire"}')
    for model, name in (("tiny_base", "again"), ("nothing", "it")):
        fields = {"model": model, "model_name_on_ollama": name}
        assert "Failed" in client.post("/models/create/", json=fields).text
    absent, failed = client.get("/state/").json["tasks"][:2]
    assert (failed["model"], failed["model_name_on_ollama"]) == ("tiny_base", "again")
    assert "disk on fire" in failed["error"]
    assert (absent["model"], absent["model_name_on_ollama"]) == ("nothing", "it")
    assert "There is no model" in absent["error"]


@pytest.mark.parametrize("version", ["0.32.15", "0.34.1"])
def test_each_server_says_whether_it_takes_adapters(
    tmp_path: Path, models_dir: Path, version: str
) -> None:
    with Standin(tmp_path / "ollama", version=version) as standin:
        config = {"MODELS_DIR": models_dir, "OLLAMA_HOST": f"{standin.url},127.0.0.1:9"}
        client = create_app(config).test_client()
        fresh = {"Cache-Control": "no-cache"}
        one, gone = client.get("/state/", headers=fresh).json["servers"]
    assert (one["version"], one["takes_adapters"]) == (version, version == "0.32.15")
    assert "error" in gone


class SlowOllama:
    """A server that says nothing until it is let."""

    url = "http://slow"

    def __init__(self) -> None:
        self.let = threading.Event()
        self.asked = 0

    def version(self) -> str:
        self.asked += 1
        self.let.wait(20)
        raise OllamaError("gone")


def test_a_server_that_hangs_keeps_nobody_waiting_and_is_asked_once() -> None:
    slow: Any = SlowOllama()
    watch = Watch(lambda: [slow])
    with ThreadPoolExecutor(PAGES) as pages:
        answers = list(pages.map(lambda _: watch.servers(patience=0.01), range(PAGES)))
    assert answers == [[{"url": "http://slow"}]] * PAGES
    assert slow.asked == 1
    slow.let.set()
    assert watch.servers(patience=20) == [{"url": "http://slow", "error": "gone"}]
    assert slow.asked == 1


def test_thirty_open_pages_leave_deploys_alone_and_the_log_empty(
    models_dir: Path, tmp_path: Path, zips: Zips
) -> None:
    """Each page keeps its connection, as a browser does, and asks as often as while a task runs."""
    with Standin(tmp_path / "ollama") as standin, serve(models_dir, standin.url) as served:
        over = threading.Event()
        pages = [threading.Thread(target=keep_asking, args=(served, over)) for _ in range(PAGES)]
        for page in pages:
            page.start()
        try:
            for number in range(3):
                form = [("model_name_on_ollama", f"new{number}"), ("Model", zips.both)]
                last = RequestsCaller(served.url).send_form("/models/deploy/", form).last
                assert last["action"] == "Success create model"
        finally:
            over.set()
            for page in pages:
                page.join()
        assert requests.get(f"{served.url}/healthz", timeout=20).ok
        deadline = time.monotonic() + 10
        while not any("/healthz" in line for line in served.log) and time.monotonic() < deadline:
            over.wait(0.01)
    asked = [line for line in served.log if "GET /state/" in line]
    assert asked
    assert all('" 304 ' not in line for line in asked)


def keep_asking(served: Served, over: threading.Event) -> None:
    with requests.Session() as session:
        etag = ""
        while not over.is_set():
            answer = session.get(
                f"{served.url}/state/", headers={"If-None-Match": etag}, timeout=60
            )
            assert answer.status_code in (200, 304)
            etag = answer.headers["ETag"]
            over.wait(0.2)

"""What is said of the service's own state."""

from pathlib import Path

import pytest
import requests
from flask import Flask

from app import create_app
from tests.callers import RequestsCaller
from tests.conftest import Zips
from tests.serving import serve
from tests.standin import Standin


def test_ready_says_what_it_has_found(app: Flask, standin: Standin) -> None:
    answer = app.test_client().get("/readyz")
    checks = answer.json["checks"]  # type: ignore[index]
    assert answer.status_code == 200
    assert checks["ollama"] == {"ok": True, "version": standin.version}
    assert checks["models_dir"] == {"ok": True}
    assert checks["space"]["free_bytes"] > 0


def test_not_ready_without_ollama(models_dir: Path) -> None:
    app = create_app({"MODELS_DIR": models_dir, "OLLAMA_HOST": "http://127.0.0.1:9"})
    answer = app.test_client().get("/readyz")
    checks = answer.json["checks"]  # type: ignore[index]
    assert answer.status_code == 503
    assert [name for name, check in checks.items() if not check["ok"]] == ["ollama"]
    assert "127.0.0.1:9" in checks["ollama"]["error"]


def test_not_ready_without_space(app: Flask) -> None:
    app.config["MIN_FREE_BYTES"] = 2**60
    answer = app.test_client().get("/readyz")
    assert answer.status_code == 503
    assert "Delete models" in answer.json["checks"]["space"]["error"]  # type: ignore[index]


def test_not_ready_where_nothing_can_be_written(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("os.rename", refuse)
    answer = app.test_client().get("/readyz")
    assert answer.status_code == 503
    assert "Read-only" in answer.json["checks"]["models_dir"]["error"]  # type: ignore[index]


def test_the_key_guards_all_but_the_probes_and_the_page(models_dir: Path, ollama: str) -> None:
    app = create_app({"MODELS_DIR": models_dir, "OLLAMA_HOST": ollama, "API_KEY": "secret"})
    client = app.test_client()
    statuses = {path: client.get(path).status_code for path in ("/", "/healthz", "/readyz")}
    assert set(statuses.values()) == {200}
    assert client.get("/models/").status_code == client.post("/deploy").status_code == 401


def _metrics(url: str) -> dict[str, float]:
    lines = requests.get(f"{url}/metrics", timeout=30).text.splitlines()
    return {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[0] != "#"
    }


def test_metrics_add_up_over_all_workers(models_dir: Path, standin: Standin, zips: Zips) -> None:
    with serve(models_dir, standin.url, {"MODEL_HANDLER_WORKERS": "3"}) as served:
        caller = RequestsCaller(served.url)
        for _ in range(6):
            caller.send_form("/models/upload/", [("Model", zips.both)])
        caller.send_form("/models/upload/", [("Model", zips.both), ("Model", zips.both)])
        with standin.hold("/api/create") as gate:
            fields = {"model": "tiny_lora", "model_name_on_ollama": "x"}
            url = f"{served.url}/models/create/"
            with requests.post(url, json=fields, stream=True, timeout=30) as creating:
                gate.wait_reached(10)
                assert _metrics(served.url)['model_handler_running_tasks{kind="create"}'] == 1
                gate.open()
                assert creating.content
        found = _metrics(served.url)
    assert found['model_handler_tasks_total{kind="upload",status="200"}'] == 6
    assert found['model_handler_tasks_total{kind="upload",status="400"}'] == 1
    assert found['model_handler_tasks_total{kind="create",status="200"}'] == 1
    assert found['model_handler_received_bytes_total{kind="form"}'] == 7 * zips.both.stat().st_size
    assert found['model_handler_phase_seconds_count{phase="extract"}'] == 6
    assert found['model_handler_running_tasks{kind="create"}'] == 0
    assert found["model_handler_free_bytes"] > 0

"""The files in `deploy/`: that they parse, and agree with the service's settings."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from app.config import SETTINGS
from tests.serving import ROOT

DEPLOY = ROOT / "deploy"
FILES = [path for path in DEPLOY.rglob("*") if path.is_file()]
MANIFESTS = sorted((DEPLOY / "kubernetes").iterdir())
DEFAULTS = {setting.name: setting.default for setting in SETTINGS}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_setting_that_is_named_exists(path: Path) -> None:
    named = set(re.findall(r"\b(?:MODEL_HANDLER|OLLAMA)_[A-Z_]+\b", path.read_text()))
    assert named <= {setting.variable for setting in SETTINGS}


@pytest.mark.parametrize(
    ("file", "pattern", "unit", "setting"),
    [
        ("nginx/model-handler.conf", r"proxy_read_timeout (\d+)s;", 1, "SILENCE_TIMEOUT"),
        ("nginx/model-handler.conf", r"client_body_timeout (\d+)s;", 1, "UPLOAD_TIMEOUT"),
        ("systemd/model-handler.service", r"TimeoutStopSec=(\d+)\n", 1, "GRACEFUL_TIMEOUT"),
        ("container/compose.yaml", r"stop_grace_period: (\d+)m", 60, "GRACEFUL_TIMEOUT"),
        ("kubernetes/model-handler.yaml", r"GracePeriodSeconds: (\d+)\n", 1, "GRACEFUL_TIMEOUT"),
        ("kubernetes/model-handler.yaml", r'read-timeout: "(\d+)"', 1, "SILENCE_TIMEOUT"),
    ],
)
def test_what_stands_around_waits_longer(file: str, pattern: str, unit: int, setting: str) -> None:
    [found] = re.findall(pattern, (DEPLOY / file).read_text())
    assert int(found) * unit > int(DEFAULTS[setting])


def test_kubernetes_takes_the_manifests() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("kubernetes-validate"), "--strict", *MANIFESTS],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze isn't here")
    for unit in (DEPLOY / "systemd").iterdir():
        text = unit.read_text().replace(
            "/opt/model-handler/bin/gunicorn", shutil.which("true") or ""
        )
        (tmp_path / unit.name).write_text(text)
    units = [str(path) for path in tmp_path.iterdir()]
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True)
    assert "model-handler" not in done.stderr, done.stderr


def test_docker_is_sent_nothing_that_git_ignores() -> None:
    ignored, sent = (
        {line.removeprefix("**/").strip("/") for line in (ROOT / name).read_text().splitlines()}
        for name in (".gitignore", ".dockerignore")
    )
    assert ignored | {".git"} <= sent


def test_the_container_is_made_of_this_checkouts_wheel() -> None:
    said = (DEPLOY / "container" / "Dockerfile").read_text()
    stages = re.split(r"^FROM ", said, flags=re.M)[1:]
    assert len(stages) == 2
    assert "--constraint /source/constraints.txt --wheel-dir /wheels /source" in stages[0]
    assert "--no-index --find-links /wheels model-handler" in stages[1]
    assert "COPY" not in stages[1]

"""The files in `deploy/`: that they parse, and agree with the service's settings."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import requests
import yaml
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from app.config import SETTINGS
from tests.serving import ROOT
from tests.test_nginx import free_port

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
            "/opt/model-handler/bin/model-handler", shutil.which("true") or ""
        )
        (tmp_path / unit.name).write_text(text)
    units = [str(path) for path in tmp_path.iterdir()]
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True)
    assert "model-handler" not in done.stderr, done.stderr


def test_the_units_command_serves_on_the_socket_that_systemd_opens(tmp_path: Path) -> None:
    if shutil.which("systemd-socket-activate") is None:
        pytest.skip("systemd-socket-activate isn't here")
    [command] = re.findall(
        r"^ExecStart=/opt/model-handler/bin/(.*)$",
        (DEPLOY / "systemd" / "model-handler.service").read_text(),
        re.M,
    )
    port = free_port()
    program, *arguments = command.split()
    environ = {"MODEL_HANDLER_MODELS_DIR": str(tmp_path / "models"), "PATH": os.environ["PATH"]}
    process = subprocess.Popen(
        [
            *("systemd-socket-activate", f"--listen=127.0.0.1:{port}"),
            *(f"--setenv={name}={value}" for name, value in environ.items()),
            *(str(Path(sys.executable).with_name(program)), *arguments),
        ],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        session = requests.Session()
        session.mount("http://", HTTPAdapter(max_retries=Retry(40, backoff_factor=0.05)))
        answer = session.get(f"http://127.0.0.1:{port}/healthz", timeout=60)
        assert answer.status_code == 200
    finally:
        process.terminate()
        process.wait(30)


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


def test_the_manifests_are_of_one_service_that_many_pods_serve() -> None:
    documents = yaml.safe_load_all(MANIFESTS[0].read_text())
    by_kind = {document["kind"]: document["spec"] for document in documents}
    deployment = by_kind["Deployment"]
    pod = deployment["template"]["spec"]
    [container] = pod["containers"]
    assert deployment["replicas"] > 1
    assert by_kind["PersistentVolumeClaim"]["accessModes"] == ["ReadWriteMany"]
    labels = deployment["template"]["metadata"]["labels"].items()
    assert by_kind["Service"]["selector"].items() <= labels
    assert by_kind["PodDisruptionBudget"]["selector"]["matchLabels"].items() <= labels
    assert by_kind["Service"]["ports"][0]["targetPort"] == container["ports"][0]["name"]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["path"] == "/healthz"
    assert pod["securityContext"]["runAsUser"] == 10001  # the Dockerfile's
    asked, most = (container["resources"][each]["memory"] for each in ("requests", "limits"))
    assert (asked, most) == ("512Mi", "2Gi")
    rule = by_kind["Ingress"]["rules"][0]
    trusted = {entry["name"]: entry.get("value", "") for entry in container["env"]}
    assert rule["host"] in trusted["MODEL_HANDLER_TRUSTED_HOSTS"].split(",")
    assert by_kind["Ingress"]["tls"][0]["hosts"] == [rule["host"]]

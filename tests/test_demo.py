"""`make demo`: installs only what it needs, deploys, and leaves nothing behind."""

import os
import socket
import subprocess
import sys

import pytest
import requests

from tests.conftest import require_program
from tests.demo import NAME, NEXT
from tests.serving import ROOT
from tests.standin import Standin


def test_it_installs_nothing_of_the_tests() -> None:
    said = subprocess.run(
        ["make", "--dry-run", "--always-make", "demo", "VENV=/nowhere"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "pip install --quiet --editable .\n" in said
    assert "system-packages demo" in said
    for more in ("[test]", "system-packages test"):
        assert more not in said


@pytest.mark.parametrize("ollama_version", ["0.34.1"])
def test_it_deploys_removes_its_model_and_says_what_comes_next(standin: Standin) -> None:
    require_program("curl")
    done = subprocess.run(
        [sys.executable, "-m", "tests.demo"],
        cwd=ROOT,
        env={**os.environ, "OLLAMA_HOST": standin.url},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"\n{NAME}:latest\n" in done.stdout
    assert done.stdout.splitlines()[-3:] == list(NEXT)
    assert requests.get(f"{standin.url}/api/tags", timeout=30).json()["models"] == []


def test_a_port_in_use_is_said_without_a_traceback(standin: Standin) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = subprocess.run(
            [sys.executable, "-m", "tests.demo", "--port", str(taken.getsockname()[1])],
            cwd=ROOT,
            env={**os.environ, "OLLAMA_HOST": standin.url},
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 1
    assert "Address already in use" in done.stderr
    assert "Traceback" not in done.stderr

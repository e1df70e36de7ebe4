"""Real clients that are written in JavaScript, run by Node.js; tests/node/ pins them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "node"


def run_node(script: str, *arguments: str | Path, seconds: float = 60) -> str:
    """What a script in tests/node/ writes to its standard output; it imports the packages by their
    names. Skips the test where Node.js or the packages are missing; under CI=true, fails it. Raises
    CalledProcessError, with `stderr`, where the script fails."""
    command = [_node(), str(FOLDER / script), *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=seconds)
    return done.stdout


def _node() -> str:
    beside_python = Path(sys.executable).parent
    node = shutil.which("node", path=f"{beside_python}{os.pathsep}{os.environ.get('PATH', '')}")
    if node is None or not (FOLDER / "node_modules").is_dir():
        say = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        say("Node.js or its packages aren't installed: make .venv/.test-installed")
    return node

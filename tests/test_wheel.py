"""The wheel, installed elsewhere, serves and deploys."""

import os
import re
import subprocess
import sys
from datetime import date
from importlib import metadata
from pathlib import Path

import pytest

from tests.callers import RequestsCaller
from tests.conftest import Zips
from tests.constraints import installed
from tests.documents import example
from tests.serving import ROOT, serve


@pytest.mark.installs
def test_wheel_works_elsewhere(tmp_path: Path, zips: Zips, ollama: str, new_name: str) -> None:
    """Installed by the commands of docs/operations.rst."""
    code = example("docs/operations.rst", "python3 -m pip wheel").code
    for place, here in (("/opt", tmp_path), ("dist", tmp_path / "dist")):
        code = re.sub(rf"(?<![\w/]){place}(?=[/ ])", str(here), code)
    done = subprocess.run(
        ["bash", "-euc", code],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith(f"model-handler, version {metadata.version('model-handler')}\n")

    command = (str(tmp_path / "model-handler" / "bin" / "model-handler"), "serve")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with serve(tmp_path / "models", ollama, command=command, folder=elsewhere) as served:
        caller = RequestsCaller(served.url)
        assert caller.get("/").headers["content-type"].startswith("text/html")
        assert caller.get("/static/page.js").status == 200
        fields = [("model_name_on_ollama", new_name), ("Model", zips.both)]
        assert caller.send_form("/models/deploy/", fields).last["action"] == "Success create model"


def test_the_constraints_name_all_that_is_needed_and_nothing_else() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    only_before_3_14 = {"backports-zstd"}
    assert pinned.keys() - only_before_3_14 == installed().keys() - only_before_3_14


def test_the_newest_dated_changes_are_of_this_version() -> None:
    said = (ROOT / "CHANGES.rst").read_text()
    versions = re.findall(r"^(\d+\.\d+\.\d+) \((\d{4}-\d\d-\d\d)\)\n-+$", said, re.M)
    assert versions[0][0] == metadata.version("model-handler")
    dates = [date.fromisoformat(when) for _, when in versions]
    assert dates == sorted(dates, reverse=True)

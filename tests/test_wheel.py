"""The wheel, installed elsewhere, serves and deploys."""

import subprocess
import sys
import venv
from pathlib import Path

from tests.callers import RequestsCaller
from tests.conftest import Zips
from tests.serving import ROOT, serve


def test_wheel_works_elsewhere(tmp_path: Path, zips: Zips, ollama: str, new_name: str) -> None:
    def run(*command: str | Path) -> None:
        subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)

    run(sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path / "dist", ROOT)
    venv.create(tmp_path / "venv", with_pip=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    programs = tmp_path / "venv" / "bin"
    run(programs / "python", "-m", "pip", "install", "--quiet", wheel)

    command = (str(programs / "gunicorn"), "-c", "python:app.gunicorn_conf")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with serve(tmp_path / "models", ollama, command=command, folder=elsewhere) as served:
        caller = RequestsCaller(served.url)
        assert caller.get("/").headers["content-type"].startswith("text/html")
        assert caller.get("/static/page.js").status == 200
        fields = [("model_name_on_ollama", new_name), ("Model", zips.both)]
        assert caller.send_form("/models/deploy/", fields).last["action"] == "Success create model"

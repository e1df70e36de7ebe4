"""The shell function of docs/scripts.rst: its exit status is the truth, however a deploy ends."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Zips, require_program
from tests.documents import URL, example
from tests.serving import Served
from tests.standin import Standin

BEGUN = '{"status": 200, "message": {"action": "Start create model.", "progress": 0.67}}'


def deploy(url: str, folder: Path, name: str, before: str = "") -> tuple[int, str]:
    """What the function ends with and prints on stderr; `before` is run first."""
    require_program("curl")
    code = example("docs/scripts.rst", "deploy() {").code.replace(URL, url)
    function, _, call = code.rpartition("\n}\n")
    script = f"{before}\n{function}\n}}\n{call.replace(' my-model ', f' {name!r} ')}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert ("my-model is there" in done.stdout) == (done.returncode == 0)
    return done.returncode, done.stderr


@pytest.fixture
def folder(zips: Zips, tmp_path: Path) -> Path:
    """Where `my_model.zip` is."""
    (tmp_path / "here").mkdir()
    shutil.copy(zips.both, tmp_path / "here" / "my_model.zip")
    return tmp_path / "here"


def test_it_succeeds_where_the_model_was_made(served: Served, folder: Path, new_name: str) -> None:
    assert deploy(served.url, folder, new_name)[0] == 0


def test_it_fails_where_the_service_refuses(served: Served, folder: Path) -> None:
    code, said = deploy(served.url, folder, "not a name")
    assert code != 0
    assert '"status": 400' in said


def test_it_fails_where_the_last_line_of_a_200_does(
    served: Served, standin: Standin, folder: Path, new_name: str
) -> None:
    standin.fail_next("/api/create", lines=[b'{"error": "no room left"}\n'])
    code, said = deploy(served.url, folder, new_name)
    assert code != 0
    assert '"Start create model."' in said
    assert "no room left" in said


def test_it_fails_where_nobody_answers(folder: Path) -> None:
    assert deploy("http://127.0.0.1:1", folder, "any")[0] != 0


def test_it_fails_where_the_answer_is_cut_off(folder: Path) -> None:
    code, said = deploy(URL, folder, "any", f"curl() {{ echo '{BEGUN}'; return 18; }}")
    assert code != 0
    assert BEGUN in said

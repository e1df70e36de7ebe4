"""The documents: well-formed, their links lead somewhere, and their examples work as they stand."""

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import docutils.core
import docutils.utils
import pytest

from tests.conftest import Zips, require_program
from tests.serving import ROOT, Served

DOCUMENTS = [*ROOT.glob("*.rst"), *ROOT.glob("docs/*.rst"), *ROOT.glob("benchmarks/*.rst")]
WITH_EXAMPLES = ["docs/quickstart.rst", "docs/api.rst"]
EXAMPLE = re.compile(r"^\.\. code-block:: (?P<language>\w+)\n\n(?P<code>(?:(?: {3}.*)?\n)+)", re.M)
UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_documents_are_well_formed_and_their_links_lead_somewhere(path: Path) -> None:
    level = docutils.utils.Reporter.WARNING_LEVEL
    settings = {"halt_level": level, "report_level": level, "syntax_highlight": "none"}
    html = docutils.core.publish_string(
        path.read_text(), str(path), writer="html5", settings_overrides=settings
    ).decode()
    links = re.findall(r'(?:href|src)="([^":#]+)"', html)
    assert [link for link in links if not (path.parent / link).exists()] == []


@pytest.mark.parametrize("document", WITH_EXAMPLES)
def test_examples_work(document: str, served: Served, zips: Zips, tmp_path: Path) -> None:
    require_program("curl")
    shutil.copy(zips.both, tmp_path / "my_model.zip")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environ = {**os.environ, "PATH": path, "XDG_CACHE_HOME": str(tmp_path)}
    output = ""
    for example in EXAMPLE.finditer((ROOT / document).read_text()):
        code = textwrap.dedent(example["code"]).replace("http://127.0.0.1:8000", served.url)
        if example["language"] == "json":
            assert code.strip() == UUID.sub(UUID.findall(code)[0], output.strip())
            continue
        shell = ["bash", "-euc", code.replace("curl ", "curl -sS --fail-with-body ")]
        command = shell if example["language"] == "sh" else [sys.executable, "-c", code]
        done = subprocess.run(
            command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60
        )
        output = done.stdout
        assert done.returncode == 0, f"{code}\n{output}\n{done.stderr}"
        statuses = [
            json.loads(line).get("status", 200)
            for line in output.splitlines()
            if line.startswith("{")
        ]
        assert set(statuses) <= {200}, output

"""What stands in the documents: their literal blocks by language, and those that can't be run."""

import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import docutils.core
import docutils.nodes

from tests.serving import ROOT

URL = "http://127.0.0.1:8000"
"""Where the documents' service is."""

DOCUMENTS = (ROOT / "README.rst", *sorted((ROOT / "docs").glob("*.rst")))
RUN = ("sh", "python")
SHOWN = ("json", "nginx", "text")

NOT_RUN = {
    "make demo": ".ci/run runs it in a fresh checkout",
    "make test": "runs this",
    ".venv/bin/model-handler serve": "serves until interrupted; as the fixture `served` does",
    "git clone <this repository>": "it has no address yet; `make run` is model-handler serve",
    "OLLAMA_HOST=127.0.0.1:8000 ollama create": "Ollama's own program, which isn't here",
    "ollama run my-model": "Ollama's own program, which isn't here; the tests talk to its API",
    "make oracles ARGS=NAME": "wants torch and transformers; .ci/run has its tests",
    "cp deploy/systemd/* /etc/systemd/system/": "wants systemd; test_deploy_files checks the units",
    "/opt/model-handler/bin/pip": "wants systemd; test_wheel installs so",
    "docker compose": "wants a docker daemon; test_wheel builds as the Dockerfile does",
    "kubectl": "wants a cluster; test_deploy_files checks the manifests against its schemas",
}
"""How a block begins that no test can run, and why."""

RUN_BY = {
    "python3 -m pip wheel": "tests/test_wheel.py",
    "tar --create": "tests/test_backup.py",
    "tar --extract": "tests/test_backup.py",
    "deploy() {": "tests/test_scripts.py",
}
"""How a block begins that a test of its own runs, and where that is."""


@dataclass(frozen=True)
class Example:
    """A literal block of a document."""

    document: str
    language: str
    code: str

    def begins_as(self, known: dict[str, str]) -> bool:
        """Whether its first line is among those."""
        return any(self.code.startswith(beginning) for beginning in known)


@cache
def examples(path: Path) -> tuple[Example, ...]:
    """The literal blocks of a document, in order; `language` is empty where none is given."""
    settings = {"syntax_highlight": "none", "report_level": 5}
    tree = docutils.core.publish_doctree(path.read_text(), str(path), settings_overrides=settings)
    name = path.relative_to(ROOT).as_posix()
    found = []
    for node in tree.findall(docutils.nodes.literal_block):
        language = next((each for each in node["classes"] if each != "code"), "")
        found.append(Example(name, language, node.astext()))
    return tuple(found)


def example(document: str, beginning: str) -> Example:
    """The block of a document that begins so."""
    [found] = [each for each in examples(ROOT / document) if each.code.startswith(beginning)]
    return found


def run(code: str, folder: Path, url: str, language: str = "sh", **environ: str) -> str:
    """What an example prints that is run in `folder`, on the service at `url`."""
    programs = Path(sys.executable).parent
    if not (folder / ".venv").exists():
        (folder / ".venv").symlink_to(programs.parent)
    code = code.replace(URL, url)
    shell = ["bash", "-euo", "pipefail", "-c", code.replace("curl ", "curl -sS --fail-with-body ")]
    done = subprocess.run(
        shell if language == "sh" else [sys.executable, "-c", code],
        cwd=folder,
        env={
            **os.environ,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "XDG_CACHE_HOME": str(folder / ".cache"),
            "MODEL_HANDLER_SERVER": url,
            **environ,
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
    return done.stdout

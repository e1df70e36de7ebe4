"""The documents: well-formed, what they name is there, and their examples work as they stand."""

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import docutils.core
import docutils.nodes
import docutils.utils
import pytest

from app.commands import COMMANDS, main
from tests.conftest import Zips, require_program
from tests.documents import DOCUMENTS, NOT_RUN, RUN, RUN_BY, SHOWN, Example, examples, run
from tests.serving import ROOT, Served

ALL = (*DOCUMENTS, *ROOT.glob("C*.rst"), *ROOT.glob("benchmarks/*.rst"))
EXAMPLES = [example for path in DOCUMENTS for example in examples(path)]
UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
PLACES = ("app/", "tests/", "docs/", "deploy/", "benchmarks/", "templates/", "modelfiles/", ".ci/")


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_documents_are_well_formed_and_their_links_lead_somewhere(path: Path) -> None:
    level = docutils.utils.Reporter.WARNING_LEVEL
    settings = {"halt_level": level, "report_level": level, "syntax_highlight": "none"}
    html = docutils.core.publish_string(
        path.read_text(), str(path), writer="html5", settings_overrides=settings
    ).decode()
    links = re.findall(r'(?:href|src)="([^":#]+)"', html)
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_every_block_says_what_it_is_and_commands_are_run_or_named_with_a_reason() -> None:
    assert [each for each in EXAMPLES if each.language not in (*RUN, *SHOWN)] == []
    for beginning in (*NOT_RUN, *RUN_BY):
        assert any(each.code.startswith(beginning) for each in EXAMPLES), beginning
    for test in RUN_BY.values():
        assert (ROOT / test).is_file(), test


def is_run_here(example: Example) -> bool:
    elsewhere = example.begins_as(NOT_RUN) or example.begins_as(RUN_BY)
    return example.language == "json" or (example.language in RUN and not elsewhere)


@pytest.mark.parametrize(
    "document",
    [path for path in DOCUMENTS if any(map(is_run_here, examples(path)))],
    ids=lambda path: path.name,
)
def test_examples_work(
    document: Path, served: Served, zips: Zips, models_dir: Path, tmp_path: Path
) -> None:
    require_program("curl")
    folder = tmp_path / "here"
    folder.mkdir()
    shutil.copy(zips.both, folder / "my_model.zip")
    output = ""
    for example in filter(is_run_here, examples(document)):
        if example.language == "json":
            shown = example.code.strip()
            assert shown == UUID.sub(UUID.findall(shown)[0], output.strip())
            continue
        output = run(
            *(example.code, folder, served.url, example.language),
            MODEL_HANDLER_MODELS_DIR=str(models_dir),
        )
        statuses = [
            json.loads(line).get("status", 200)
            for line in output.splitlines()
            if line.startswith("{")
        ]
        assert set(statuses) <= {200}, output


def literals(path: Path) -> Iterator[str]:
    """What stands between double backquotes."""
    settings = {"syntax_highlight": "none", "report_level": 5}
    tree = docutils.core.publish_doctree(path.read_text(), settings_overrides=settings)
    for node in tree.findall(docutils.nodes.literal):
        yield node.astext().replace("\n", " ")


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_files_and_commands_that_are_named_are_there(path: Path) -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M)
    for text in literals(path):
        if text.startswith(PLACES) and not set(text) & set("<*… "):
            place = ROOT / text
            assert place.exists() or place.with_suffix(".py").exists(), text
        elif text.startswith("make ") and "=" not in text.split()[1]:
            assert text.split()[1] in targets, text
        elif text.startswith("python -m benchmarks."):
            assert find_spec(text.split()[2]), text
        elif text.startswith("model-handler "):
            check_command(text)


def check_command(text: str) -> None:
    _, name, *arguments = shlex.split(text)
    if name == "--help":
        return
    assert name in COMMANDS, text
    command = main.get_command(None, name)  # type: ignore[arg-type]
    options = {option for parameter in command.params for option in parameter.opts}  # type: ignore
    given = {each.partition("=")[0] for each in arguments if each.startswith("--")}
    assert given <= options | {"--help"}, text

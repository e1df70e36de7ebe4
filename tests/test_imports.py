"""The rooms have one-way doors; CONTRIBUTING.rst says the rule in words."""

import ast
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.serving import ROOT

APP = ROOT / "app"
RANKS = (
    ("commands",),
    ("views",),
    ("service",),
    ("planning", "storage", "weights"),
    ("archive", "modelfile", "ollama"),
    ("formats",),
)
FOR_ALL = ("progress", "metrics", "connection", "logs")
WIRING = ("__init__", "factory", "gunicorn_conf", "start", "worker", "config", "errors", "__main__")
WEB = ("flask", "werkzeug", "gunicorn", "jinja2")
MODULES = sorted(APP.rglob("*.py"))


def name_of(path: Path) -> str:
    """A module's name below `app`, with `__init__` for a package's own."""
    return ".".join(path.relative_to(APP).with_suffix("").parts)


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


@cache
def imported(path: Path) -> frozenset[str]:
    """The full names that a module imports, also within functions."""
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    for node in list(ast.walk(tree)):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body.clear()  # never run
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "app." * bool(node.level) + (node.module or "")
            names = [f"{base}.{alias.name}" for alias in node.names]
            found.update(name if is_module(name) else base for name in names)
    return frozenset(found)


@cache
def of_app(path: Path) -> set[str]:
    """The modules of `app` that a module imports."""
    known = {name_of(module).removesuffix(".__init__") for module in MODULES}
    names = {name.removeprefix("app.") for name in imported(path) if name.startswith("app.")}
    return names & known - {name_of(path).removesuffix(".__init__")}


def rank(room: str) -> int:
    return next(number for number, rooms in enumerate(RANKS) if room in rooms)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_one_way(path: Path) -> None:
    room = path.relative_to(APP).parts[0].removesuffix(".py")
    if room in WIRING:
        return
    for name in of_app(path):
        other = name.split(".")[0]
        if other == room or other in FOR_ALL:
            continue
        if room in FOR_ALL:
            assert other in FOR_ALL, name
        elif other == "errors":
            assert room == "views"
        elif other in ("config", "start"):
            assert room == "commands"
        elif room == "weights":
            assert other == "formats"
        else:
            assert rank(other) > rank(room), name


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_views_know_the_web(path: Path) -> None:
    room = path.relative_to(APP).parts[0].removesuffix(".py")
    if room in ("views", "commands", "connection", *WIRING):
        return
    found = {name for name in imported(path) if name.split(".")[0] in WEB}
    allowed = {"jinja2"} if room == "modelfile" else set()
    assert {name.split(".")[0] for name in found} <= allowed


def test_no_cycles() -> None:
    TopologicalSorter(
        {name_of(path).removesuffix(".__init__"): of_app(path) for path in MODULES}
    ).prepare()

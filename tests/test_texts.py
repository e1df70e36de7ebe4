"""The page's catalogues hold what it says, and its files come small and are kept."""

import gzip
import re
from pathlib import Path

import pytest
from babel.messages.pofile import read_po
from flask import Flask
from flask.testing import FlaskClient

from tests import catalogues
from tests.serving import ROOT

PLACEHOLDER = re.compile(r"%\(\w+\)[sd]")


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.mark.parametrize("path", catalogues.sources(), ids=lambda path: path.parts[-3])
def test_every_text_is_translated(path: Path) -> None:
    with path.open("rb") as file:
        catalog = read_po(file)
    known = {message.id: message.string for message in catalog if message.id}
    assert set(known) == set(catalogues.said()), "make texts, then translate what is new"
    for text, translated in known.items():
        one = text if isinstance(text, str) else text[0]
        other = translated if isinstance(translated, str) else translated[0]
        assert other, f"{text!r} isn't translated"
        assert set(PLACEHOLDER.findall(other)) <= set(PLACEHOLDER.findall(f"{one}%(num)d"))


def test_files_are_kept_for_good_by_their_version(client: FlaskClient) -> None:
    page = client.get("/").text
    addresses = set(re.findall(r'(?:src|href|data-icons)="(/static/[^"#]+)', page))
    assert len(addresses) >= 7
    for address in addresses:
        answer = client.get(address, headers={"Accept-Encoding": "gzip"})
        assert answer.status_code == 200
        assert "immutable" in answer.headers["Cache-Control"]
        plain = client.get(address)
        assert "Content-Encoding" not in plain.headers
        packed = answer.headers.get("Content-Encoding") == "gzip"
        assert (gzip.decompress(answer.data) if packed else answer.data) == plain.data
        old = client.get(re.sub("/static/[^/]+", "/static/0123456789ab", address))
        assert (old.data, old.headers["Cache-Control"]) == (plain.data, "no-cache")


def test_what_is_known_is_not_sent_again(client: FlaskClient) -> None:
    for path in ("/", "/static/page.js"):
        etag = client.get(path).headers["ETag"]
        again = client.get(path, headers={"If-None-Match": etag})
        assert (again.status_code, again.data) == (304, b"")


def test_a_file_that_is_not_the_page_s_is_not_found(client: FlaskClient) -> None:
    for name in ("nothing.js", "..%2flayout.html", "1/2", "0123456789ab/nothing.js"):
        assert client.get(f"/static/{name}").status_code == 404


IMPORT = re.compile(r'^import (?:\{([^}]*)\} from )?"\./(\w+\.js)";', re.MULTILINE)
EXPORT = re.compile(r"^export (?:async )?(?:function\*?|const|let|class) (\w+)", re.MULTILINE)
SCRIPTS = sorted((ROOT / "templates" / "static").glob("*.js"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_what_a_script_imports_is_there(script: Path) -> None:
    """One name that isn't leaves the page without any script."""
    for names, module in IMPORT.findall(script.read_text()):
        exported = set(EXPORT.findall((script.parent / module).read_text()))
        assert {name.strip() for name in names.split(",") if name.strip()} <= exported, module

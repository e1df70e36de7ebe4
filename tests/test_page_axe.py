"""The page under axe-core in each of its states: light and dark, wide and narrow, two languages.

And its layout with the names, widths and zooms that people have.
"""

from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests

from tests.browser import Page
from tests.conftest import Zips
from tests.serving import ROOT, Served
from tests.standin import Standin

AXE = ROOT / "tests" / "node" / "node_modules" / "axe-core" / "axe.min.js"
RULES = """
const done = arguments[arguments.length - 1];
const said = ({ id, nodes }) => [id, ...nodes.map(node => node.html.slice(0, 120))].join(" | ");
axe.run(document, { resultTypes: ["violations"] })
  .then(({ violations }) => done(violations.map(said)));
"""
LOOKS = {
    "en": [("light", 1280), ("dark", 360)],
    "zh-TW": [("dark", 1280), ("light", 360)],
}
OVERFLOW = """
const { scrollWidth, clientWidth } = document.documentElement;
return scrollWidth - clientWidth;
"""
# As long as a model's name can be, in two directions, and without a place to break.
HEBREW_AND_LONG = "מודל-" + "x" * 120 + "-" + "名" * 20


class Checked:
    """The page in one language, held to axe-core's rules in the looks that are asked for."""

    def __init__(self, page: Page, language: str) -> None:
        self.page = page
        self.language = language
        self.load()

    def load(self) -> None:
        cookie = {"name": "language", "value": self.language, "path": "/"}
        self.page.driver.add_cookie(cookie)
        self.page.driver.refresh()
        self.page.wait_until("document.querySelector('#servers li .good')")
        self.page.run_script(AXE.read_text())

    def check(self, state: str) -> None:
        for scheme, width in LOOKS[self.language]:
            self.page.prefer(scheme)
            self.page.resize(width)
            self.page.take_screenshot(f"axe-{state}-{self.language}-{scheme}-{width}")
            found = self.page.driver.execute_async_script(RULES)  # type: ignore[no-untyped-call]
            assert not found, f"{state}, {scheme}, {width}"
            assert self.page.run_script(OVERFLOW) == 0, f"{state}, {width}"
        self.page.resize(1280)


@pytest.fixture(params=LOOKS)
def checked(request: pytest.FixtureRequest, page: Page) -> Any:
    yield Checked(page, request.param)
    page.emulate("clearDeviceMetricsOverride")
    page.prefer("")
    page.driver.delete_all_cookies()


def test_no_state_has_a_violation(
    checked: Checked, zips: Zips, standin: Standin, served: Served
) -> None:
    page = checked.page
    checked.check("empty")
    page.drop(zips.lora)
    page.wait_until("!document.getElementById('choose-base').hidden")
    checked.check("problem")
    page.drop(zips.both)
    page.wait_until("document.getElementById('becomes').textContent")
    checked.check("chosen")
    with standin.hold("/api/create") as gate:
        page.click("#send")
        gate.wait_reached(20)
        page.wait_for("#said", "Ollama")
        checked.check("running")
        gate.open()
    page.wait_until("!document.getElementById('made').hidden")
    page.wait_until("document.querySelector('#models tr') && document.querySelector('#tasks li')")
    checked.check("done")
    page.click("#models [data-bs-toggle=dropdown]")
    checked.check("menu")
    page.run_script("document.body.click()")
    standin.fail_next("/api/create", body=b'{"error": "disk on fire"}')
    page.click("#send")
    page.wait_until("document.querySelector('#next-steps button')")
    page.wait_for("#tasks", "disk on fire")
    checked.check("failed")


def test_dialogs_and_states_of_the_service(checked: Checked, zips: Zips, served: Served) -> None:
    page = checked.page
    with zips.both.open("rb") as file:
        requests.post(f"{served.url}/models/upload/", files={"Model": file}, timeout=30)
    begin = {"Tus-Resumable": "1.0.0", "Upload-Length": "9", "Upload-Metadata": "filename YS56aXA="}
    requests.post(f"{served.url}/uploads/", headers=begin, timeout=30)
    checked.load()
    page.wait_until("document.querySelector('#uploads li')")
    page.run_script("document.querySelector('.navbar [data-bs-toggle=dropdown]').click()")
    checked.check("settings")
    page.run_script("document.body.click()")
    page.run_script("document.getElementById('key-dialog').showModal()")
    checked.check("key")
    page.run_script("document.getElementById('key-dialog').close()")
    page.run_script(
        "document.documentElement.classList.add('is-stale');"
        "document.getElementById('stale').hidden = false;"
    )
    checked.check("stale")


@pytest.mark.parametrize(("width", "zoom"), [(360, 1), (1280, 2), (1280, 1)])
def test_names_of_any_length_and_direction_break_nothing(
    page: Page, zips: Zips, served: Served, tmp_path: Path, width: int, zoom: int
) -> None:
    path = tmp_path / f"{HEBREW_AND_LONG}.zip"
    path.write_bytes(zips.both.read_bytes())
    address = f"{served.url}/models/upload/{quote(path.name)}"
    assert requests.put(address, data=path.read_bytes(), timeout=30).ok
    page.resize(width // zoom)  # what zooming does to a page
    page.driver.refresh()
    page.drop(path)
    page.wait_until("document.getElementById('becomes').textContent")
    page.wait_until("document.querySelector('#models tr') && document.querySelector('#tasks li')")
    page.take_screenshot(f"long-{width}-{zoom}")
    assert page.run_script(OVERFLOW) == 0
    page.emulate("clearDeviceMetricsOverride")

"""The page under axe-core in each of its states: its places Deploy and Activity, its header, and
what it is without scripts.

And its layout with the names, widths and zooms that people have.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.browser import Page
from tests.conftest import Zips
from tests.looks import WIDE, Checked
from tests.serving import Served
from tests.standin import Standin
from tests.stored import begin_upload, store, task

LONG = "llama-3.1-8b-customer-support-" + "x" * 170
RIGHT_TO_LEFT = "מודל-" + "م" * 60 + "-" + "名" * 20
SEVERAL_SERVERS = """
const done = arguments[0], [one, other] = ["http://one:11434", "http://other:11434"];
import(new URL("phases.js", document.querySelector("script[type=module]").src)).then(phases => {
  phases.showPhases(["upload", "push"]);
  phases.enter("push");
  phases.showServers("push", [one, other]);
  phases.progress("push", { bytes: 1e6, total: 2e6, server: one });
  phases.failServer(other, "disk on fire");
  done();
});
"""
TROUBLE = """
document.documentElement.classList.add("is-stale");
for (const id of ["stale", "sign-in", "forget-key"]) document.getElementById(id).hidden = false;
document.getElementById("space").classList.add("error");
document.getElementById("server-choice").hidden = false;
"""
ENDED = [
    ("Success create model", 1, 200, {"model": "a", "model_name_on_ollama": "a:v2"}),
    ("Failed upload model file.", 0.3, 422, {"model": "b.zip", "error": "No.", "hint": "Yes."}),
    ("Start create model.", 0.67, 200, {"model": "c"}),
]


@pytest.fixture(params=["en", "zh-TW"])
def checked(request: pytest.FixtureRequest, page: Page) -> Iterator[Checked]:
    yield Checked(page, request.param)
    page.emulate("clearDeviceMetricsOverride")
    page.driver.delete_all_cookies()


def test_a_deploy_in_each_of_its_states(checked: Checked, zips: Zips, standin: Standin) -> None:
    page = checked.page
    checked.check("empty")
    page.drop(zips.lora)
    page.wait_until("!document.getElementById('choose-base').hidden")
    checked.check("problem", "#deploy-place")
    page.drop(zips.both)
    page.wait_until("document.getElementById('becomes').textContent")
    checked.check("chosen", "#deploy-place")
    name = page.find("#name").get_attribute("value")
    page.run_script("document.getElementById('options').open = true")
    page.fill("#name", "a@b")
    checked.check("options", "#deploy-place")
    page.fill("#name", str(name))
    with standin.hold("/api/create") as gate:
        page.click("#send")
        gate.wait_reached(20)
        page.wait_until("document.getElementById('create-figures').textContent")
        checked.check("running", "#task", "#activity-place")
        gate.open()
    page.wait_until("!document.getElementById('made').hidden")
    page.wait_until("document.querySelector('#models tr') && document.querySelector('#tasks li')")
    checked.check("done")
    page.click("#models [data-bs-toggle=dropdown]")
    checked.check("menu", "#models")
    page.run_script("document.body.click()")
    standin.fail_next("/api/create", body=b'{"error": "disk on fire"}')
    page.click("#send")
    page.wait_until("document.querySelector('#next-steps button')")
    page.wait_for("#tasks", "disk on fire")
    page.run_script("document.querySelector('#task details').open = true")
    checked.check("failed", "#task", "#activity-place")
    page.driver.execute_async_script(SEVERAL_SERVERS)  # type: ignore[no-untyped-call]
    checked.check("servers", "#task")


@pytest.fixture
def past(models_dir: Path, served: Served) -> Iterator[None]:
    """Tasks that have ended in each way, one that runs, and uploads that are whole and not."""
    for action, ratio, status, details in ENDED:
        with task(models_dir, action, ratio, status=status, **details):
            pass
    begin_upload(served.url, "a.zip", 9)
    begin_upload(served.url, "b.zip", 0)
    now = {"action": "Pushing.", "ratio": 0.7, "bytes": 10**6, "total_bytes": 2 * 10**6}
    with task(models_dir, "Start create model.", 0.67, model="d", now=now):
        yield


@pytest.mark.usefixtures("past")
def test_the_header_and_what_has_run(checked: Checked) -> None:
    page = checked.page
    page.wait_until("document.querySelectorAll('#uploads li').length === 2")
    page.wait_for("#tasks", "50 % · ")
    assert page.run_script("return document.querySelector('#tasks progress').value") == 0.5
    page.run_script("document.querySelectorAll('#tasks details').forEach(each => each.open = true)")
    page.wait_until("document.querySelectorAll('#tasks pre').length === 4")
    checked.check("activity", "#activity-place")
    page.click("#tasks [aria-label$=': b.zip']")
    page.wait_until("document.activeElement.id === 'zip'")
    page.run_script("document.querySelector('.navbar [data-bs-toggle=dropdown]').click()")
    checked.check("settings", ".navbar")
    page.run_script("document.body.click()")
    page.run_script("document.getElementById('key-dialog').showModal()")
    page.fill("#key", "guessed")
    page.run_script("document.getElementById('key-said').textContent = 'No.'")
    checked.check("key", "#key-dialog")
    page.run_script("document.getElementById('key-dialog').close()")
    page.run_script(TROUBLE)
    checked.check("trouble", ".navbar", "#deploy-place")


def test_pages_without_scripts(
    checked: Checked, served: Served, models_dir: Path, zips: Zips
) -> None:
    store(models_dir, "a", last_create={"model_name_on_ollama": "a"})
    with task(models_dir, "Failed create model", 0.5, status=502, model="a", error="No."):
        pass
    ask = requests.Session()
    ask.headers.update({"Accept-Language": checked.language, "Accept": "text/html"})
    with zips.both.open("rb") as file:
        form = {"model_name_on_ollama": "b"}
        made = ask.post(f"{served.url}/deploy", form, files={"Model": file}, timeout=60)
    pages = {
        "plain": ask.get(served.url, timeout=30),
        "plain-list": ask.get(f"{served.url}/list", timeout=30),
        "plain-made": made,
        "plain-failed": ask.post(f"{served.url}/deploy", timeout=30),
        "plain-deleted": ask.post(f"{served.url}/delete", {"model": "a"}, timeout=30),
        "not-found": ask.get(f"{served.url}/nothing", timeout=30),
    }
    if checked.language == "en":  # The only one that it is written in.
        pages["api"] = ask.get(f"{served.url}/docs", timeout=30)
    for state, answer in pages.items():
        checked.show(answer.text)
        checked.check(state)


LONG_NAMES = """
const [name, done] = arguments;
const script = document.querySelector("script[type=module]").src;
const load = module => import(new URL(module, script));
Promise.all([load("chat.js"), load("phases.js")]).then(([chat, phases]) => {
  chat.offerTrial(name);
  for (const id of ["task-title", "said", "run"]) document.getElementById(id).textContent = name;
  for (const id of ["task", "made"]) document.getElementById(id).hidden = false;
  phases.showPhases(["push"]);
  phases.enter("push");
  phases.showServers("push", [`http://${name}:11434`, "http://other"]);
  phases.failServer("http://other", name);
  done();
});
"""


def test_no_name_breaks_the_page(
    page: Page, zips: Zips, served: Served, models_dir: Path, tmp_path: Path
) -> None:
    new_name = "y" * 80 + "/" + "w" * 80 + ":" + "z" * 80
    last = {"model_name_on_ollama": new_name}
    store(models_dir, LONG, 10**12, created_at="2025-12-31T10:00:00Z", last_create=last)
    store(models_dir, RIGHT_TO_LEFT, parameter_count=8_030_261_248)
    failed = {"model": f"{LONG}.zip", "error": LONG, "hint": LONG}
    for status, details in ((422, failed), (200, {"model": LONG, **last})):
        with task(models_dir, "Success create model", 1, status=status, **details):
            pass
    begin_upload(served.url, f"{LONG}.zip", 9)
    page.wait_until("document.querySelectorAll('#models tr').length === 2")
    path = tmp_path / f"{LONG}.zip"
    path.write_bytes(zips.both.read_bytes())
    page.drop(path)
    page.wait_until("document.getElementById('becomes').textContent")
    page.driver.execute_async_script(LONG_NAMES, LONG)  # type: ignore[no-untyped-call]
    check_widths(page, "long")
    page.run_script("document.querySelector('.model-name').click()")
    page.wait_until("document.querySelector('#panel-failed:not([hidden]), #panel-said dl')")
    check_widths(page, "long-model")
    for number, dialog in enumerate(("create", "delete")):
        buttons = "document.querySelectorAll('#panel-actions button')"
        page.run_script(f"{buttons}[{2 * number}].click()")
        page.wait_until("document.querySelector('dialog[open]')")
        check_widths(page, f"long-{dialog}")
        page.run_script("document.querySelector('dialog[open]').close()")
    page.run_script(f"document.getElementById('download-line').textContent = '{LONG}'")
    page.run_script("document.getElementById('download-dialog').showModal()")
    check_widths(page, "long-download")


def check_widths(page: Page, state: str) -> None:
    """Nothing is wider than its place on a phone, on a desk, and there at 200 % zoom: 640 pixels
    of a window of 1280."""
    try:
        for width in (360, 640, 1280):
            page.resize(width)
            page.take_screenshot(f"{state}-{width}")
            assert page.run_script(f"{WIDE} return wide()") == [], (state, width)
    finally:
        page.emulate("clearDeviceMetricsOverride")

"""The models' place under axe-core: the list, one in full, its Modelfile, a chat, in each state."""

from pathlib import Path

import pytest
import requests

from tests.conftest import Zips
from tests.serving import Served
from tests.standin import Standin
from tests.test_page_axe import Checked, checked

__all__ = ["checked"]
SHOW_ONLY = """
for (const { id } of document.querySelectorAll("#models-place .card-body > [id]")) {
  document.getElementById(id).hidden = !["models-title", "model-tools", arguments[0]].includes(id);
}
"""
STATES = ("models-loading", "models-failed", "models-closed", "models-stale", "none-found")


@pytest.fixture
def stored(checked: Checked, served: Served, standin: Standin, zips: Zips) -> Checked:
    """With a model that was created twice, once in vain, and one that has a problem."""
    for path in (zips.both, zips.lora):
        with path.open("rb") as file:
            requests.post(f"{served.url}/models/upload/", files={"Model": file}, timeout=30)
    body = {"model": "tiny_lora", "model_name_on_ollama": "tiny", "system": "You are terse."}
    requests.post(f"{served.url}/models/create/", json=body, timeout=60)
    standin.fail_next("/api/create", body=b'{"error": "disk on fire"}')
    requests.post(f"{served.url}/models/create/", json=body, timeout=60)
    checked.load()
    checked.page.wait_until("document.querySelectorAll('#models tr').length === 2")
    return checked


def open_model(stored: Checked, name: str) -> None:
    names = "[...document.querySelectorAll('.model-name')]"
    stored.page.run_script(f"{names}.find(each => each.textContent === '{name}').click()")
    stored.page.wait_until("document.querySelector('#panel-said .files')")


def test_each_state_of_the_list(stored: Checked) -> None:
    for state in STATES:
        stored.page.driver.execute_script(SHOW_ONLY, state)  # type: ignore[no-untyped-call]
        stored.check(state)


def test_a_model_in_full_and_its_dialogs(stored: Checked) -> None:
    page = stored.page
    open_model(stored, "tiny_adapter")
    stored.check("problem-of-a-model")
    page.run_script("bootstrap.Offcanvas.getInstance('#model-panel').hide()")
    open_model(stored, "tiny_lora")
    stored.check("model")
    page.run_script("document.querySelector('.creates button').click()")
    page.wait_until("document.getElementById('modelfile').value.includes('FROM')")
    page.find("#modelfile").send_keys("\nPARAMETER temprature 1")
    page.wait_until("document.getElementById('modelfile-said').textContent")
    stored.check("modelfile-error")
    page.click("#show-changes")
    stored.check("modelfile-changes")
    page.click("#create-dialog button[value='']")
    page.run_script("document.querySelector('#panel-actions button:last-child').click()")
    stored.check("delete")


def test_a_chat(stored: Checked, standin: Standin) -> None:
    page = stored.page
    open_model(stored, "tiny_lora")
    page.run_script("document.querySelector('#panel-actions button').click()")
    page.run_script("document.querySelector('#question details').open = true")
    page.fill("#prompt", "Hello\n")
    page.wait_for("#chat .answer", "The stand-in has read")
    standin.fail_next("/api/chat", lines=[b'{"error": "out of memory"}\n'])
    page.fill("#prompt", "Again\n")
    page.wait_for("#chat .error", "out of memory")
    stored.check("chat")


def test_the_window_of_a_phone_shows_the_editor_whole(stored: Checked, tmp_path: Path) -> None:
    page = stored.page
    page.resize(360, 740)
    open_model(stored, "tiny_lora")
    page.run_script("document.querySelector('.creates button').click()")
    page.wait_until("document.getElementById('modelfile').value.includes('FROM')")
    dialog = "document.getElementById('create-dialog')"
    assert page.run_script(f"return {dialog}.scrollWidth - {dialog}.clientWidth") <= 0

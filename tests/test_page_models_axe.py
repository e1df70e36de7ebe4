"""The models' place under axe-core: the list, one in full, its Modelfile, a chat, in each state."""

import json

import pytest

from tests.browser import Page
from tests.conftest import Zips
from tests.looks import Checked
from tests.serving import Served
from tests.standin import Standin
from tests.stored import create, upload
from tests.test_page_axe import checked

__all__ = ["checked"]
SHOW_ALL = """
for (const { id } of document.querySelectorAll("#models-place .card-body > [id]")) {
  document.getElementById(id).hidden = false;
}
"""
SAID = [
    {"message": {"role": "assistant", "thinking": "Hm."}},
    {"message": {"role": "assistant", "content": "Hello"}},
    {"error": "out of memory"},
]


@pytest.fixture
def stored(served: Served, standin: Standin, zips: Zips) -> None:
    """A model that was created twice, once in vain, and one that has a problem."""
    upload(served.url, zips.both)
    upload(served.url, zips.lora)
    create(served.url, "tiny_lora", "tiny", system="You are terse.")
    standin.fail_next("/api/create", body=b'{"error": "disk on fire"}')
    create(served.url, "tiny_lora", "tiny", system="You are terse.")


def open_model(page: Page, name: str) -> None:
    names = "[...document.querySelectorAll('.model-name')]"
    page.run_script(f"{names}.find(each => each.textContent === '{name}').click()")
    page.wait_until("document.querySelector('#panel-said .files')")


@pytest.mark.usefixtures("stored")
def test_the_models_in_each_state(checked: Checked, standin: Standin) -> None:
    page = checked.page
    page.wait_until("document.querySelectorAll('#models tr').length === 2")
    open_model(page, "tiny_adapter")
    checked.check("problem-of-a-model", "#model-panel")
    page.run_script("bootstrap.Offcanvas.getInstance('#model-panel').hide()")
    open_model(page, "tiny_lora")
    page.run_script("document.querySelectorAll('.creates details').forEach(e => e.open = true)")
    checked.check("model", "#model-panel")
    page.run_script("for (const id of ['panel-loading', 'panel-failed']) window[id].hidden = false")
    page.run_script("document.getElementById('panel-failed').textContent = 'No.'")
    checked.check("model-failed", "#model-panel")
    page.run_script("document.querySelector('.creates button').click()")
    page.wait_until("document.getElementById('modelfile').value.includes('FROM')")
    page.find("#modelfile").send_keys("\nPARAMETER temprature 1")
    page.wait_until("document.getElementById('modelfile-said').textContent")
    checked.check("modelfile-error", "#create-dialog")
    page.click("#show-changes")
    checked.check("modelfile-changes", "#create-dialog")
    page.click("#create-dialog button[value='']")
    page.run_script("document.querySelector('#panel-actions button:last-child').click()")
    checked.check("delete", "#delete-dialog")
    page.run_script("document.getElementById('delete-dialog').close()")
    page.run_script("document.getElementById('download-dialog').showModal()")
    checked.check("download", "#download-dialog")
    page.run_script("document.getElementById('download-dialog').close()")
    page.run_script("document.querySelector('#panel-actions button').click()")
    page.run_script("document.querySelector('#question details').open = true")
    standin.fail_next("/api/chat", lines=[json.dumps(line).encode() + b"\n" for line in SAID])
    page.fill("#prompt", "Hello\n")
    page.wait_for("#chat .error", "out of memory")
    checked.check("chat", "#trial")
    page.run_script(SHOW_ALL)
    checked.check("list", "#models-place")

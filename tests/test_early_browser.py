"""A browser is told while it still sends; its folder field brings a whole folder."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.browser import WebDriver
from tests.conftest import Zips, litter
from tests.serving import Served
from tests.test_several_files import stored

SEND = """
const [path, requests, done] = arguments;
const content = new Uint8Array(90_000_000);
function send([name, query], number) {
  const form = new FormData();
  form.append("model_name_on_ollama", name);
  form.append("Model", new File(["<html>", content], `big${number}.zip`));
  return fetch(path + query, { method: "POST", body: form })
    .then(async (answer) => [answer.status, await answer.text()])
    .catch((error) => [0, `${error}`]);
}
Promise.all(requests.map(send)).then(done);
"""
FOLDER = """
document.body.innerHTML = "<form><input type=file name=Model webkitdirectory></form>";
"""
SEND_FOLDER = """
const done = arguments[0];
const [form] = document.forms;
function send() {  // once the browser has looked through the folder
  if (!form.elements.Model.files.length) {
    setTimeout(send, 20);
    return;
  }
  fetch("/models/upload/", { method: "POST", body: new FormData(form) })
    .then(async (answer) => done([answer.status, await answer.text()]))
    .catch((error) => done([0, `${error}`]));
}
send();
"""


@pytest.fixture
def browser(chromium: WebDriver, served: Served) -> WebDriver:
    chromium.get(served.url)
    chromium.set_script_timeout(60)
    return chromium


def answered(said: list[Any]) -> tuple[int, dict[str, Any]]:
    status, text = said
    assert status, text
    return status, json.loads(text.splitlines()[-1])["message"]


@pytest.mark.usefixtures("standin")
def test_a_browser_reads_each_refusal(browser: WebDriver, models_dir: Path) -> None:
    """All are sent at once: a browser takes some seconds to give each up."""
    refused = {
        ("a@b", ""): (400, "'a@b' can't be a model's name on Ollama."),
        ("new", ""): (422, "The uploaded file is an HTML page."),
        ("new", "?replaec=false"): (400, "There is no field 'replaec'. Did you mean 'replace'?"),
    }
    said = browser.execute_async_script(SEND, "/models/deploy/", list(refused))  # type: ignore[no-untyped-call]
    for (status, error), (found, message) in zip(
        refused.values(), map(answered, said), strict=True
    ):
        assert found == status
        assert message["details"]["error"].startswith(error)
    assert not litter(models_dir)


def test_a_folder_field(browser: WebDriver, zips: Zips, models_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "my tuned model"
    (folder / "adapter").mkdir(parents=True)
    for name, path in {"base.gguf": "base.gguf", "lora.gguf": "adapter/lora.gguf"}.items():
        with zipfile.ZipFile(zips.both) as archive:
            (folder / path).write_bytes(archive.read(name))
    (folder / ".DS_Store").write_bytes(b"x")
    browser.execute_script(FOLDER)  # type: ignore[no-untyped-call]
    browser.find_element("css selector", "input").send_keys(str(folder))
    status, message = answered(browser.execute_async_script(SEND_FOLDER))  # type: ignore[no-untyped-call]
    assert (status, message["details"]) == (200, {"model": "my tuned model"})
    assert stored(models_dir) == {"my tuned model": ["adapter/lora.gguf", "base.gguf"]}

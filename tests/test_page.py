"""The page, in a real Chromium, and without any script."""

import base64
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.ui import WebDriverWait

from tests.conftest import Zips, litter, require_program
from tests.gguf_files import write_zip
from tests.serving import Served
from tests.standin import Standin

DROP = """
const [name, content] = arguments;
const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0));
const data = new DataTransfer();
data.items.add(new File([bytes], name, { type: "application/zip" }));
document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true }));
"""
WATCH_BARS = """
window.seen = { upload: [], extract: [], push: [], create: [] };
setInterval(() => Object.keys(seen).forEach(id => {
  const { value } = document.getElementById(id);
  if (seen[id].at(-1) !== value) seen[id].push(value);
}), 5);
"""
CANCEL_ONCE_UPLOADING = """
const said = document.getElementById("said");
new MutationObserver((_, observer) => {
  if (!said.textContent.includes("/s, ")) return;
  observer.disconnect();
  document.getElementById("cancel").click();
}).observe(said, { childList: true });
"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[WebDriver]:
    require_program("chromium")
    require_program("chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    service = webdriver.ChromeService(shutil.which("chromedriver") or "")
    driver = webdriver.Chrome(options, service)
    yield driver
    driver.quit()


class Page:
    """The page, open in the browser."""

    def __init__(self, driver: WebDriver, url: str) -> None:
        self.driver = driver
        driver.get(url)

    def find(self, selector: str):  # type: ignore[no-untyped-def]
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def wait_for(self, selector: str, text: str) -> None:
        """Wait until an element says `text`."""
        waiting = WebDriverWait(self.driver, 30, ignored_exceptions=[Exception])
        waiting.until(lambda _: text in self.find(selector).text, f"{selector} doesn't say {text}")

    def drop(self, path: Path) -> None:
        content = base64.b64encode(path.read_bytes()).decode()
        self.driver.execute_script(DROP, path.name, content)  # type: ignore[no-untyped-call]

    def run_script(self, script: str) -> object:
        return self.driver.execute_script(script)  # type: ignore[no-untyped-call]

    def answer(self, text: str) -> None:
        """Type into the question that the page asks."""
        alert = WebDriverWait(self.driver, 10).until(lambda driver: driver.switch_to.alert)
        alert.send_keys(text)
        alert.accept()

    def take_screenshot(self, name: str) -> None:
        """Keep a picture in the folder that SCREENSHOTS names, where it does."""
        if folder := os.environ.get("SCREENSHOTS"):
            self.driver.save_screenshot(str(Path(folder) / f"{name}.png"))


@pytest.fixture
def page(chromium: WebDriver, served: Served) -> Page:
    return Page(chromium, served.url)


def test_deploy_by_the_form_and_delete(page: Page, zips: Zips, models_dir: Path) -> None:
    page.find("#zip").send_keys(str(zips.both))
    page.wait_for("#listing", "base.gguf, lora.gguf")
    assert page.find("#name").get_attribute("value") == "tiny_lora"
    page.run_script(WATCH_BARS)
    page.find("form button").click()
    page.wait_for("#said", "tiny_lora is on Ollama")
    assert page.find("#run").text == "ollama run tiny_lora"
    seen = page.run_script("return seen")
    assert isinstance(seen, dict)
    assert all(values[-1] == 1 for values in seen.values())
    page.wait_for("#models", "llama")
    page.wait_for("#tasks", "succeeded")
    page.take_screenshot("deployed")
    page.find("[aria-label='Modelfile tiny_lora']").click()
    page.wait_for("#modelfile", "FROM ")
    page.find("[aria-label='Delete tiny_lora']").click()
    page.answer("tiny_lore")
    assert (models_dir / "tiny_lora").exists()
    page.find("[aria-label='Delete tiny_lora']").click()
    page.answer("tiny_lora")
    page.wait_for("#said", "Success delete model.")
    assert not (models_dir / "tiny_lora").exists()


def test_deploy_by_drop_then_create_again(page: Page, zips: Zips, standin: Standin) -> None:
    page.drop(zips.base)
    page.wait_for("#listing", "base.gguf")
    page.find("form button").click()
    page.wait_for("#said", "tiny_base is on Ollama")
    page.wait_for("#models", "tiny_base")
    page.find("[aria-label='Create tiny_base']").click()
    page.answer("another")
    page.wait_for("#said", "another is on Ollama")


def test_bars_stand_where_the_work_is(page: Page, zips: Zips, standin: Standin) -> None:
    page.drop(zips.both)
    page.wait_for("#listing", "base.gguf")
    with standin.hold("/api/create") as gate:
        page.find("form button").click()
        gate.wait_reached(20)
        page.wait_for("#said", "Ollama")
        page.take_screenshot("creating")
        values = [page.find(f"#{bar}").get_attribute("value") for bar in ("upload", "push")]
        assert values == ["1", "1"]
        assert page.find("#create").get_attribute("value") == "0"
        gate.open()
    page.wait_for("#said", "tiny_lora is on Ollama")


def test_a_failure_is_shown_with_its_hint(page: Page, zips: Zips, standin: Standin) -> None:
    page.drop(zips.both)
    page.wait_for("#listing", "base.gguf")
    standin.fail_next("/api/create", body=b'{"error": "disk on fire"}')
    page.find("form button").click()
    page.wait_for("#said", "disk on fire")
    page.wait_for("#said", "The upload is kept")
    assert page.find("#said").get_attribute("class") == "error"
    page.take_screenshot("failed")


def test_what_is_no_model_is_said_before_it_is_sent(page: Page, tmp_path: Path) -> None:
    page.drop(write_zip(tmp_path / "notes.zip", {"notes.txt": b"nothing"}))
    page.wait_for("#listing", "no .gguf")
    (tmp_path / "broken.zip").write_bytes(b"PK\3\4 and no end")
    page.drop(tmp_path / "broken.zip")
    page.wait_for("#listing", "isn't a zip")
    page.find("form button").click()
    assert not page.find("#task").is_displayed()


def test_cancelling_an_upload_keeps_nothing(
    page: Page, zips: Zips, models_dir: Path, tmp_path: Path
) -> None:
    large = write_zip(tmp_path / "large.zip", {"base.gguf": b"GGUF", "rest": bytes(300_000_000)})
    page.find("#zip").send_keys(str(large))
    page.wait_for("#listing", "base.gguf")
    page.run_script(CANCEL_ONCE_UPLOADING)
    page.find("form button").click()
    page.wait_for("#said", "Cancelled")
    assert 0 < float(page.find("#upload").get_attribute("value") or 0) < 1
    WebDriverWait(page.driver, 20).until(lambda _: not litter(models_dir))
    assert not (models_dir / "large").exists()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_window_scrolls_only_downwards(page: Page, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})  # type: ignore[attr-defined]
    metrics = {"width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)  # type: ignore[attr-defined]
    assert page.run_script("return document.documentElement.scrollWidth") == 360
    background = page.run_script("return getComputedStyle(document.documentElement).colorScheme")
    assert background == "light dark"
    page.take_screenshot(f"narrow-{scheme}")
    page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})  # type: ignore[attr-defined]


def test_the_page_s_own_errors(page: Page) -> None:
    """Nothing is refused by the page's policy, and no script fails."""
    page.wait_for("#tasks", "None yet.")
    errors = [
        entry for entry in page.driver.get_log("browser") if "favicon" not in entry["message"]
    ]  # type: ignore[attr-defined]
    assert not errors


def test_without_scripts_the_result_is_a_page(served: Served, zips: Zips) -> None:
    form = {"model_name_on_ollama": "plain"}
    with zips.both.open("rb") as file:
        answer = requests.post(f"{served.url}/deploy", form, files={"Model": file}, timeout=60)
    assert answer.status_code == 200
    assert "<pre>ollama run plain</pre>" in answer.text
    with zips.both.open("rb") as file:
        answer = requests.post(f"{served.url}/deploy", files={"Model": file}, timeout=60)
    assert answer.status_code == 400
    assert "&#39;model_name_on_ollama&#39; is missing" in answer.text


@pytest.mark.parametrize(
    ("wanted", "language", "words"),
    [
        ("zh-TW,zh;q=0.9", "zh-TW", "將模型部署到 Ollama"),
        ("zh", "zh-TW", "將模型部署到 Ollama"),
        ("de", "en", "Deploy a model to Ollama"),
    ],
)
def test_the_page_speaks_the_browser_s_language(
    served: Served, wanted: str, language: str, words: str
) -> None:
    page = requests.get(served.url, headers={"Accept-Language": wanted}, timeout=30).text
    assert f'<html lang="{language}">' in page
    assert words in page

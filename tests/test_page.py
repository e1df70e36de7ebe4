"""The page, in a real Chromium, and without any script."""

import shlex
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
import requests
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.ui import WebDriverWait

from tests.browser import Page
from tests.conftest import Zips, litter, show
from tests.gguf_files import write_zip
from tests.serving import Served, serve_inside
from tests.standin import Standin
from tests.stored import received, upload

WATCH_BARS = """
window.seen = { upload: [], push: [], create: [], verify: [] };
setInterval(() => Object.keys(seen).forEach(id => {
  const { value } = document.getElementById(id);
  if (seen[id].at(-1) !== value) seen[id].push(value);
}), 5);
"""
COUNT_LISTS = """
return performance.getEntriesByType("resource").filter(
  ({ name }) => new URL(name).pathname === "/state/").length;
"""
ASKED = """
const links = [...document.querySelectorAll("[href], [src], [action]")];
return [...performance.getEntriesByType("resource").map(({ name }) => name), ...links.map(
  link => new URL(link.getAttribute("href") ?? link.src ?? link.action, location).href)];
"""
SERVERS_BARS = """
return [...document.querySelectorAll(".of-server[data-phase=push]")].map(
  row => [row.querySelector("label").title, row.querySelector("progress").value]);
"""
TAKES = "arguments[0].value = arguments[1]; return arguments[0].checkValidity()"
CANCEL_ONCE_UPLOADING = """
const figures = document.getElementById("upload-figures");
new MutationObserver((_, observer) => {
  if (!/^[1-9]/.test(figures.textContent)) return;
  observer.disconnect();
  document.getElementById("cancel").click();
}).observe(figures, { childList: true });
"""


def test_deploy_by_the_form_and_delete(
    page: Page, zips: Zips, standin: Standin, models_dir: Path
) -> None:
    page.find("#zip").send_keys(str(zips.both))
    page.wait_for("#listing", "base.gguf, lora.gguf")
    assert page.find("#name").get_attribute("value") == "tiny_lora"
    page.run_script(WATCH_BARS)
    page.find("#send").click()
    page.wait_for("#said", "tiny_lora is on Ollama")
    assert page.find("#run").text == "ollama run tiny_lora"
    seen = page.run_script("return seen")
    assert isinstance(seen, dict)
    assert all(values[-1] == 1 for values in seen.values())
    page.wait_for("#models", "llama")
    page.wait_for("#tasks", "succeeded")
    page.take_screenshot("deployed")
    loaded = [sent.json for sent in standin.requests if sent.path == "/api/generate"]
    assert [body["model"] for body in loaded] == ["tiny_lora"]  # once, to prove it
    assert not nameless(page)
    page.choose("Delete", "tiny_lora")
    page.fill("#typed-name", "tiny_lore")
    page.click("#delete-dialog [value=yes]")
    assert page.find("#delete-dialog").is_displayed()
    assert (models_dir / "tiny_lora").exists()
    page.fill("#typed-name", "tiny_lora")
    page.click("#delete-dialog [value=yes]")
    page.wait_for("#said", "Deleted here.")
    assert not (models_dir / "tiny_lora").exists()
    page.wait_for("#no-models", "No models yet")


def nameless(page: Page) -> list[dict[str, Any]]:
    """The fields, buttons and other parts of the page that a screen reader has no name for."""
    tree = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]  # type: ignore[attr-defined]
    roles = ("button", "textbox", "combobox", "progressbar", "table", "link", "region")
    return [
        node
        for node in tree
        if node.get("role", {}).get("value") in roles and not node.get("name", {}).get("value")
    ]


def test_deploy_by_drop_then_create_with_another_modelfile(
    page: Page, zips: Zips, standin: Standin
) -> None:
    page.deploy(zips.base)
    page.wait_for("#said", "tiny_base is on Ollama")
    page.choose("Create", "tiny_base")
    waiting = WebDriverWait(page.driver, 10)
    waiting.until(lambda _: "FROM" in page.find("#modelfile").get_attribute("value"))
    page.find("#modelfile").send_keys("\nSYSTEM You are terse.")
    page.fill("#new-name", "another")
    page.take_screenshot("create")
    page.click("#create-dialog [value=yes]")
    page.wait_for("#said", "another is on Ollama")
    assert show(standin.url, "another")["system"] == "You are terse."
    assert "system" not in show(standin.url, "tiny_base")
    page.wait_for("#models", "another")


def test_an_adapter_alone_is_created_on_a_base_that_is_chosen(
    page: Page, zips: Zips, served: Served, standin: Standin
) -> None:
    for zipped in (zips.base, zips.lora):
        upload(served.url, zipped)
    page.choose("Create", "tiny_adapter")
    page.wait_for("#modelfile-said", "Name the base in the field 'from'.")
    bases = page.run_script(
        "return [...document.querySelectorAll('#bases option')].map(o => o.value)"
    )
    assert bases == ["tiny_adapter", "tiny_base"]
    page.fill("#new-from", "tiny_base")
    page.find("#new-name").click()
    waiting = WebDriverWait(page.driver, 10)
    waiting.until(lambda _: "ADAPTER" in page.find("#modelfile").get_attribute("value"))
    page.click("#create-dialog [value=yes]")
    page.wait_for("#said", "tiny_adapter is on Ollama")


def test_try_a_prompt_and_copy_the_line(page: Page, zips: Zips, standin: Standin) -> None:
    page.deploy(zips.base)
    page.wait_for("#trial-model", "tiny_base")
    page.find("#prompt").send_keys("Hello")
    page.find("#ask").click()
    page.wait_for("#chat", "The stand-in has read 5 characters.")
    standin.fail_next("/api/chat", body=b'{"error": "needs more memory"}')
    page.find("#prompt").send_keys("Again" + Keys.ENTER)
    page.wait_for("#chat", "needs more memory")
    assert page.find("#copy").text == "Copy"
    page.find("#copy").click()
    page.wait_for("#copy", "Copied")
    assert page.run_script("return getSelection().toString()") == "ollama run tiny_base"
    page.take_screenshot("tried")
    page.load()
    page.choose("Try", "tiny_base")
    assert page.find("#trial-model").text == "tiny_base"


def test_an_api_key_is_asked_for_once(
    chromium: WebDriver, models_dir: Path, standin: Standin, zips: Zips
) -> None:
    with serve_inside(models_dir, standin.url, API_KEY="secret") as url:
        page = Page(chromium, url)
        page.wait_for("#sign-in", "Enter the API key")
        page.deploy(zips.base)
        page.fill("#key", "guessed")
        page.click("#key-dialog [value=yes]")
        page.wait_for("#key-said", "The service doesn't take this key.")
        page.fill("#key", "secret")
        page.click("#key-dialog [value=yes]")
        page.wait_for("#said", "tiny_base is on Ollama")
        page.choose("Download", "tiny_base")
        page.wait_for("#download-line", 'curl -H "X-API-Key: $API_KEY"')
        name = "it's $(touch x) `id`"
        (models_dir / name).mkdir()
        page.load()
        page.choose("Download", name)
        page.wait_for("#download-line", "touch")
        words = shlex.split(page.find("#download-line").text)
        assert words[3:5] == ["-o", f"{name}.zip"]
        line = page.find("#download-line").text.removeprefix("curl")
        said = subprocess.run(
            ["bash", "-c", f"printf '%s\\n' {line}"], capture_output=True, cwd=models_dir
        )
        assert f"{name}.zip" in said.stdout.decode().split("\n")
        page.run_script("sessionStorage.clear()")


def test_below_a_prefix_all_that_is_asked_for_is_below_it(
    chromium: WebDriver, models_dir: Path, standin: Standin, zips: Zips
) -> None:
    with serve_inside(models_dir, standin.url, prefix="/models-service", TRUSTED_PROXIES=1) as url:
        page = Page(chromium, f"{url}/")
        page.deploy(zips.base)
        page.wait_for("#said", "tiny_base is on Ollama")
        page.find("#prompt").send_keys("Hello" + Keys.ENTER)
        page.wait_for("#chat", "The stand-in has read")
        page.click("#tasks summary")
        page.wait_for("#tasks pre", "Success create model")
        page.click(".model-name")
        page.wait_for("#panel-said", "FROM")
        page.run_script("document.querySelector('.creates button').click()")
        page.wait_until("document.getElementById('modelfile').value.includes('FROM')")
        page.click("#create-dialog button[value='']")
        page.choose("Delete", "tiny_base")
        page.fill("#typed-name", "tiny_base" + Keys.ENTER)
        page.wait_for("#no-models", "No models yet")
        asked = page.run_script(ASKED)
        assert isinstance(asked, list)
        assert not [address for address in asked if not address.startswith(url)]
        page.click("[data-bs-toggle=dropdown]")
        page.click("[data-choose-language='zh-TW']")
        page.wait_for("#deploy-title", "將模型部署到")
        chromium.delete_all_cookies()


def test_one_of_several_servers_is_chosen(
    chromium: WebDriver, models_dir: Path, tmp_path: Path, zips: Zips
) -> None:
    with (
        Standin(tmp_path / "a") as a,
        Standin(tmp_path / "b", version="0.34.1") as b,
        serve_inside(models_dir, f"{a.url},{b.url}") as url,
    ):
        page = Page(chromium, url)
        page.click(f"#server option[value='{b.url}']")
        page.deploy(zips.base)
        page.wait_for("#said", "tiny_base is on Ollama")
        page.find("#prompt").send_keys("Hello")
        page.find("#ask").click()
        page.wait_for("#chat", "The stand-in has read")
        names = [
            [
                model["name"]
                for model in requests.get(f"{url}/api/tags", timeout=30).json()["models"]
            ]
            for url in (a.url, b.url)
        ]
        assert names == [[], ["tiny_base:latest"]]
        page.click("#server option[value='']")
        page.click("#clear")
        page.drop(zips.both)
        page.wait_for("#becomes", f"{b.url.removeprefix('http://')}: The adapter is merged")
        page.click("#send")
        page.wait_for("#said", "tiny_lora is on Ollama")
        assert page.run_script(SERVERS_BARS) == [[a.url, 1], [b.url, 1]]
        b.stop()
        page.load()
        page.wait_for("#servers", "doesn't answer")


def test_download_from_the_page(page: Page, zips: Zips, tmp_path: Path) -> None:
    downloads = tmp_path / "downloads"
    behaviour = {"behavior": "allow", "downloadPath": str(downloads)}
    page.driver.execute_cdp_cmd("Browser.setDownloadBehavior", behaviour)  # type: ignore[attr-defined]
    page.deploy(zips.base)
    page.wait_for("#said", "tiny_base is on Ollama")
    page.choose("Download", "tiny_base")
    file = downloads / "tiny_base.zip"
    WebDriverWait(page.driver, 20).until(lambda _: file.exists())
    assert zipfile.ZipFile(file).namelist() == ["base.gguf"]


def test_the_keyboard_alone_deletes_a_model(page: Page, zips: Zips, models_dir: Path) -> None:
    page.drop(zips.base)
    page.wait_for("#listing", "base.gguf")
    page.find("#name").send_keys(Keys.ENTER)
    page.wait_for("#said", "tiny_base is on Ollama")
    page.wait_for("#models", "tiny_base")
    page.run_script("document.querySelector(\"[aria-label='Actions for tiny_base']\").focus()")
    # The lists are asked for again meanwhile: what has the focus keeps it.
    for _ in range(2):
        asked = page.run_script(COUNT_LISTS)
        page.look_again()
        WebDriverWait(page.driver, 20).until(lambda _: page.run_script(COUNT_LISTS) > asked)  # noqa: B023
    press(page, Keys.ARROW_UP)
    page.wait_until("document.activeElement.getAttribute('aria-label') === 'Delete tiny_base'")
    press(page, Keys.ENTER)
    page.wait_until("document.activeElement.id === 'typed-name'")
    press(page, "tiny_base" + Keys.ENTER)
    page.wait_for("#said", "Deleted here.")
    assert not (models_dir / "tiny_base").exists()


def press(page: Page, keys: str) -> None:
    """Press keys, wherever the focus is."""
    ActionChains(page.driver).send_keys(keys).perform()


def test_bars_stand_where_the_work_is(page: Page, zips: Zips, standin: Standin) -> None:
    with standin.hold("/api/create") as gate:
        page.deploy(zips.both)
        gate.wait_reached(20)
        page.wait_until("document.getElementById('create-figures').textContent")
        page.take_screenshot("creating")
        values = [page.find(f"#{bar}").get_attribute("value") for bar in ("upload", "push")]
        assert values == ["1", "1"]
        assert page.find("#create").get_attribute("value") == "0"
        gate.open()
    page.wait_for("#said", "tiny_lora is on Ollama")


def test_cancelling_a_create_keeps_the_upload(
    page: Page, zips: Zips, standin: Standin, models_dir: Path
) -> None:
    with standin.hold("/api/create") as gate:
        page.deploy(zips.both)
        gate.wait_reached(20)
        page.wait_until("document.getElementById('create-figures').textContent")
        page.click("#cancel")
        page.wait_for("#said", "The model is kept here")
    assert (models_dir / "tiny_lora").is_dir()


def test_a_failure_is_shown_with_its_hint(page: Page, zips: Zips, standin: Standin) -> None:
    standin.fail_next("/api/create", body=b'{"error": "disk on fire"}')
    page.deploy(zips.both)
    page.wait_for("#said", "disk on fire")
    page.wait_for("#said", "The upload is kept as model 'tiny_lora'")
    page.wait_for("#said", "“Create again” makes it")
    assert page.find("#said").get_attribute("class") == "error"
    assert page.find(".failed label").text == "Create"
    page.take_screenshot("failed")


def test_a_refusal_is_shown_before_anything_is_sent(
    page: Page, served: Served, standin: Standin, zips: Zips
) -> None:
    standin.stop()
    before = received(served.url)
    page.deploy(zips.base)
    page.wait_for("#said", "Check that it runs")
    assert received(served.url) == before


def test_what_is_no_model_is_said_before_it_is_sent(page: Page, tmp_path: Path) -> None:
    page.drop(write_zip(tmp_path / "notes.zip", {"notes.txt": b"nothing"}))
    page.wait_for("#problem", "no .gguf")
    (tmp_path / "broken.zip").write_bytes(b"PK\3\4 and no end")
    page.drop(tmp_path / "broken.zip")
    page.wait_for("#problem", "isn't a zip")
    page.find("#name").send_keys("x")
    page.find("#send").click()
    assert not page.find("#task").is_displayed()


def test_a_name_that_ollama_would_not_take_is_said_before_anything_is_sent(
    page: Page, zips: Zips, tmp_path: Path
) -> None:
    named_otherwise = tmp_path / "我的模型.zip"
    named_otherwise.write_bytes(zips.both.read_bytes())
    page.drop(named_otherwise)
    page.wait_for("#listing", "base.gguf")
    field = page.find("#name")
    assert field.get_attribute("value") == "my-model"
    for name, is_taken in [
        *(("a@b", False), ("-a", False), ("a/b/c/d", False), ("", False)),
        *(("my-model", True), ("library/my_model:v1.2", True), ("host:80/library/m", True)),
    ]:
        assert page.driver.execute_script(TAKES, field, name) == is_taken, name  # type: ignore[no-untyped-call]
    page.fill("#name", "a@b")
    page.find("#send").click()
    assert not page.find("#task").is_displayed()


def test_cancelling_an_upload_keeps_nothing(page: Page, large: Path, models_dir: Path) -> None:
    page.find("#zip").send_keys(str(large))
    page.wait_for("#listing", "base.gguf")
    page.run_script(CANCEL_ONCE_UPLOADING)
    with page.slowed():
        page.find("#send").click()
        page.wait_for("#said", "Cancelled")
    assert 0 < float(page.find("#upload").get_attribute("value") or 0) < 1
    WebDriverWait(page.driver, 20).until(lambda _: not litter(models_dir))
    assert not (models_dir / "large").exists()


def test_a_narrow_window_scrolls_only_downwards(page: Page) -> None:
    page.resize(360)
    try:
        for scheme in ("light", "dark"):
            page.prefer(scheme)
            colours = "getComputedStyle(document.documentElement).colorScheme"
            page.wait_until(f"{colours} == '{scheme}'")
            widths = page.run_script(
                "const { scrollWidth, clientWidth } = document.documentElement;"
                " return [scrollWidth, clientWidth, innerWidth];"
            )
            assert isinstance(widths, list)
            assert widths[0] == widths[1]
            assert widths[2] == 360
            page.take_screenshot(f"narrow-{scheme}")
    finally:
        page.emulate("clearDeviceMetricsOverride")
        page.prefer("")


def test_the_page_s_own_errors(page: Page) -> None:
    """Nothing is refused by the page's policy, and no script fails."""
    page.wait_for("#no-tasks", "Nothing has run yet")
    assert not page.driver.get_log("browser")  # type: ignore[attr-defined]


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
    assert f'<html lang="{language}"' in page
    assert words in page

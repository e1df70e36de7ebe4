"""The page's places Deploy and Activity, and its header, in a real Chromium."""

import base64
import io
import json
import re
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.ui import WebDriverWait

from app.archive.names import OWN_PREFIX
from tests.browser import Page
from tests.conftest import Zips, litter
from tests.serving import Served, serve_inside
from tests.standin import Standin
from tests.stored import create, received, store, upload

ONCE_UNDER_WAY = """
const bar = document.getElementById("upload"), act = document.getElementById(arguments[0]);
const look = () => bar.value > 0.02 ? act.click() : setTimeout(look, 1);
look();
"""


def choose(page: Page, *paths: Path) -> None:
    page.find("#zip").send_keys("\n".join(map(str, paths)))
    page.wait_until("!document.getElementById('file').hidden")


def act_under_way(page: Page, button: str) -> None:
    page.driver.execute_script(ONCE_UNDER_WAY, button)  # type: ignore[no-untyped-call]


def test_a_file_is_described_and_what_will_happen_to_it(page: Page, zips: Zips) -> None:
    choose(page, zips.both)
    page.wait_for("#what", "llama 27K (F32) and a LoRA adapter")
    page.wait_for("#becomes", "Ollama puts the adapter on its base: about 125.2 kB on Ollama.")
    page.find("#quantize").send_keys("Q8_0")
    page.wait_for("#becomes", "The adapter is merged into its base, and that is quantised to Q8_0")
    page.click("#clear")
    assert not page.find("#file").is_displayed()
    assert page.find("#name").get_attribute("value") == ""
    assert page.driver.switch_to.active_element.get_attribute("id") == "zip"


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_it_is_read_out_of_any_zip(page: Page, zips: Zips, tmp_path: Path, method: int) -> None:
    path = tmp_path / "packed.zip"
    with zipfile.ZipFile(path, "w", method) as packed:
        packed.writestr("__MACOSX/._base.gguf", b"not a model")
        packed.writestr("folder/base.gguf", zipfile.ZipFile(zips.base).read("base.gguf"))
    choose(page, path)
    page.wait_for("#what", "llama 27K (F32)")


def test_several_files_are_one_model(
    page: Page, zips: Zips, tmp_path: Path, models_dir: Path
) -> None:
    name = "轉接器-" + "x" * 120 + ".gguf"
    both = zipfile.ZipFile(zips.both)
    (tmp_path / "base.gguf").write_bytes(both.read("base.gguf"))
    (tmp_path / name).write_bytes(both.read("lora.gguf"))
    choose(page, tmp_path / "base.gguf", tmp_path / name)
    page.wait_for("#what", "llama 27K (F32) and a LoRA adapter")
    page.fill("#name", "several")
    page.click("#send")
    page.wait_for("#said", "several is on Ollama")
    (model,) = (each for each in models_dir.iterdir() if not each.name.startswith(OWN_PREFIX))
    found = {path.name: path.read_bytes() for path in model.iterdir() if path.suffix == ".gguf"}
    assert found == {"base.gguf": both.read("base.gguf"), name: both.read("lora.gguf")}


def test_a_folder_is_one_model(page: Page, zips: Zips, tmp_path: Path, models_dir: Path) -> None:
    folder = tmp_path / "my folder"
    zipfile.ZipFile(zips.both).extractall(folder)
    (folder / ".hidden").write_text("not sent")
    page.find("#folder").send_keys(str(folder))
    page.wait_for("#what", "and a LoRA adapter")
    assert page.find("#name").get_attribute("value") == "my-folder"
    page.click("#clear")
    page.drag(folder)
    page.wait_for("#what", "and a LoRA adapter")
    assert ".hidden" not in page.find("#listing").text
    page.click("#send")
    page.wait_for("#said", "my-folder is on Ollama")
    assert {path.name for path in (models_dir / "my folder").iterdir()} >= {
        "base.gguf",
        "lora.gguf",
    }
    assert not (models_dir / "my folder" / ".hidden").exists()


NAMES = [
    ("我的模型", "my-model"),
    ("()", "my-model"),
    ("modèle été (2)", "modele-ete-2"),
    ("-a--b-.v2", "a-b.v2"),
    ("x" * 200, "x" * 80),
]


def test_any_file_name_suggests_a_name_that_ollama_takes(
    page: Page, zips: Zips, tmp_path: Path
) -> None:
    for file, name in NAMES:
        path = tmp_path / f"{file}.zip"
        path.write_bytes(zips.base.read_bytes())
        choose(page, path)
        assert page.find("#name").get_attribute("value") == name
        assert page.run_script("return document.getElementById('name').checkValidity()"), name
        page.click("#clear")


def test_the_name_s_rule_and_what_it_replaces_are_said(page: Page, zips: Zips) -> None:
    page.deploy(zips.base)
    page.wait_for("#said", "tiny_base is on Ollama")
    page.wait_for("#name-said", "replaces tiny_base:latest")
    page.fill("#name", "a@b")
    page.wait_for("#name-said", "Letters, digits, dots")
    assert "is-invalid" in str(page.find("#name").get_attribute("class"))
    page.fill("#name", "TINY_base")
    page.wait_for("#name-said", "replaces tiny_base:latest")
    page.fill("#name", "new")
    assert not page.find("#name-said").is_displayed()


def test_an_upload_is_paused_survives_a_reload_and_goes_on(
    page: Page, served: Served, large: Path, models_dir: Path
) -> None:
    choose(page, large)
    page.wait_for("#what", "llama")
    before = received(served.url)
    with page.slowed():
        act_under_way(page, "pause")
        page.click("#send")
        page.wait_for("#said", "Paused. What has arrived is kept.")
    assert 0 < float(page.find("#upload").get_attribute("value") or 0) < 1
    page.load()
    page.wait_for("#uploads", "have arrived; kept until")
    choose(page, large)
    page.click("#send")
    page.wait_for("#said", "large is on Ollama")
    rest = (models_dir / "large" / "rest.bin").read_bytes()
    assert rest == zipfile.ZipFile(large).read("rest.bin")
    assert received(served.url) - before == large.stat().st_size
    WebDriverWait(page.driver, 20).until(lambda _: not litter(models_dir))


def test_an_upload_outlives_a_lost_connection(page: Page, served: Served, large: Path) -> None:
    choose(page, large)
    page.wait_for("#what", "llama")
    before = received(served.url)
    with page.slowed():
        page.run_script(
            "setInterval(() => upload.value > 0.02 && (document.body.dataset.begun = 'yes'), 1)"
        )
        page.click("#send")
        page.wait_until("document.body.dataset.begun")
        with page.slowed(offline=True):
            page.wait_for("#said", "The connection is lost. It goes on as soon as it is back.")
    page.run_script("dispatchEvent(new Event('online'))")
    page.wait_for("#said", "large is on Ollama")
    assert received(served.url) - before == large.stat().st_size


def test_an_upload_that_stopped_is_deleted(page: Page, large: Path, models_dir: Path) -> None:
    choose(page, large)
    page.wait_for("#what", "llama")
    with page.slowed():
        act_under_way(page, "pause")
        page.click("#send")
        page.wait_for("#said", "Paused")
    page.load()
    page.click("[aria-label='Delete large.zip']")
    page.wait_until("!document.querySelector('#uploads li')")
    WebDriverWait(page.driver, 20).until(lambda _: not litter(models_dir))
    assert not any((models_dir / OWN_PREFIX / "uploads").iterdir())


def test_a_whole_upload_is_deployed_without_its_file(
    page: Page, served: Served, zips: Zips
) -> None:
    """As after a tab that was closed between upload and deploy, or a program that went away."""
    content = zips.both.read_bytes()
    begin = {
        "Tus-Resumable": "1.0.0",
        "Upload-Length": str(len(content)),
        "Upload-Metadata": f"filename {base64.b64encode(b'sent before.zip').decode()}",
        "Content-Type": "application/offset+octet-stream",
    }
    answer = requests.post(f"{served.url}/uploads/", content, headers=begin, timeout=30)
    assert answer.status_code == 201
    page.load()
    page.wait_for("#uploads", "The upload is whole")
    page.click("[aria-label='Deploy it sent before.zip']")
    assert page.find("#name").get_attribute("value") == "sent-before"
    page.click("#send")
    page.wait_for("#said", "sent-before is on Ollama")


LIST_TARS = """
const done = arguments[1];
const text = new TextDecoder();
const first = async ({ name, size, start }) => [name, size, text.decode(await start(3))];
import(new URL("tar.js", document.querySelector("script[type=module]").src))
  .then(({ tarListing }) => Promise.all(arguments[0].map(async text => {
    const bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
    const entries = await tarListing(new File([bytes], "a.tar"));
    return entries && Promise.all(entries.map(first));
  }))).then(done);
"""
IN_TAR = {"./base.gguf": b"GGUF", "a/empty": b"", "名前/" + "n" * 80 + "/" + "x" * 90: b"y" * 3000}


def tarred(form: int) -> bytes:
    """A tar of IN_TAR, a folder and a link, in one of tarfile's formats."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=form) as archive:
        (folder := tarfile.TarInfo("folder")).type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, data in IN_TAR.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "base.gguf"
        archive.addfile(link)
    return content.getvalue()


def test_a_tar_is_looked_into_before_it_is_sent(page: Page, zips: Zips, tmp_path: Path) -> None:
    whole = [
        tarred(form) for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
    ]
    tars = [*whole, whole[0][:-8000], whole[0][1:], b"", b"x" * 2000]
    texts = [base64.b64encode(content).decode() for content in tars]
    found = page.driver.execute_async_script(LIST_TARS, texts)  # type: ignore[no-untyped-call]
    entries = [
        [name.removeprefix("./"), len(data), data[:3].decode()] for name, data in IN_TAR.items()
    ]
    assert found == [entries, entries, entries, None, None, None, None]
    with tarfile.open(tmp_path / "both.tar", "w") as archive:
        for name in ("base.gguf", "lora.gguf"):
            data = zipfile.ZipFile(zips.both).read(name)
            (member := tarfile.TarInfo(f"./{name}")).size = len(data)
            archive.addfile(member, io.BytesIO(data))
    choose(page, tmp_path / "both.tar")
    page.wait_for("#what", "llama 27K (F32) and a LoRA adapter")
    assert "base.gguf, lora.gguf" in page.find("#listing").text
    page.click("#clear")
    (tmp_path / "cut.tar").write_bytes(whole[0][:-8000])
    choose(page, tmp_path / "cut.tar")
    page.wait_for("#problem", "This isn't a tar, or not a whole one.")


def test_what_only_the_service_can_look_into_is_deployed_too(
    page: Page, zips: Zips, tmp_path: Path
) -> None:
    with tarfile.open(tmp_path / "packed.tar.gz", "w:gz") as packed:
        content = zipfile.ZipFile(zips.base).read("base.gguf")
        member = tarfile.TarInfo("base.gguf")
        member.size = len(content)
        packed.addfile(member, io.BytesIO(content))
    choose(page, tmp_path / "packed.tar.gz")
    page.wait_for("#becomes", "What is in it is seen once it has arrived.")
    page.click("#send")
    page.wait_for("#said", "packed is on Ollama")


def test_what_turns_out_to_be_broken_leads_to_another_file(page: Page, tmp_path: Path) -> None:
    (tmp_path / "broken.tar.gz").write_bytes(bytes(10_000))
    choose(page, tmp_path / "broken.tar.gz")
    page.click("#send")
    page.wait_for("#next-steps", "Choose another file")
    assert page.find(".failed label").text == "Upload"
    page.click("#next-steps button")
    assert not page.find("#file").is_displayed()


def test_what_failed_on_ollama_is_created_again_without_an_upload(
    page: Page, served: Served, zips: Zips, standin: Standin
) -> None:
    standin.fail_next("/api/create", body=b'{"error": "disk on fire"}')
    page.deploy(zips.both)
    page.wait_for("#said", "disk on fire")
    assert page.find(".failed label").text == "Create"
    assert float(page.find("#create").get_attribute("value") or 1) < 1
    before = received(served.url)
    page.wait_for("#tasks", "disk on fire")
    page.find("#next-steps button").click()
    page.wait_for("#said", "tiny_lora is on Ollama")
    assert received(served.url) == before
    assert page.find("#task .phase:not([hidden]) label").text == "Push"


def test_what_another_client_has_begun_is_cancelled(
    page: Page, served: Served, zips: Zips, standin: Standin
) -> None:
    upload(served.url, zips.base)
    with standin.hold("/api/create") as gate, ThreadPoolExecutor() as elsewhere:
        answer = elsewhere.submit(create, served.url, "tiny_base", "other")
        gate.wait_reached(20)
        page.wait_for("#running-count", "1")
        page.click("[aria-label='Cancel tiny_base']")
        page.wait_for("#tasks li", "stopped")
        said = json.loads(answer.result(20).text.splitlines()[-1])
    assert said["status"] == 409
    page.wait_for("#tasks button", "Create again")


def test_an_adapter_without_its_base_leads_to_the_choice_of_one(
    page: Page, served: Served, zips: Zips
) -> None:
    upload(served.url, zips.base)
    choose(page, zips.lora)
    page.wait_for("#problem", "Name the base in the field 'from'.")
    page.click("#choose-base")
    assert page.driver.switch_to.active_element.get_attribute("id") == "from"
    page.driver.switch_to.active_element.send_keys("tiny_base", Keys.TAB)
    page.wait_for("#becomes", "on Ollama")
    page.click("#send")
    page.wait_for("#said", "tiny_adapter is on Ollama")


def test_when_the_service_goes_away_its_last_state_stays(
    chromium: WebDriver, models_dir: Path, standin: Standin
) -> None:
    store(models_dir, "tiny_base")
    with serve_inside(models_dir, standin.url) as url:
        page = Page(chromium, url)
        with page.hurried():
            page.wait_for("#models", "tiny_base")
    page.look_again()
    page.wait_for("#stale", "The service doesn't answer: this is what it said last.")
    assert "tiny_base" in page.find("#models").text
    assert "Ollama 0.32.15" in page.find("#servers").text
    with serve_inside(models_dir, standin.url, port=int(url.rpartition(":")[2])):
        page.wait_until("document.getElementById('stale').hidden")
        chromium.get("about:blank")


def test_the_tab_says_how_long_it_takes_and_is_itself_again(page: Page, large: Path) -> None:
    choose(page, large)
    page.wait_for("#what", "llama")
    page.run_script(
        "window.titles = new Set(); new MutationObserver(() => titles.add(document.title))"
        ".observe(document.querySelector('title'), { childList: true })"
    )
    with page.slowed():
        page.click("#send")
        page.wait_for("#said", "large is on Ollama")
    titles = page.run_script("return [...titles]")
    assert any(re.fullmatch(r"\d+:\d\d left · large", title) for title in titles)
    assert page.driver.title == "model handler"


def test_the_keyboard_alone_deploys(page: Page, zips: Zips) -> None:
    """From the top of the page by Tab: skip link, places, settings, the form."""
    page.find("#zip").send_keys(str(zips.base))
    page.wait_for("#what", "llama")
    page.run_script("document.activeElement.blur()")
    reached = []
    for _ in range(30):
        ActionChains(page.driver).send_keys(Keys.TAB).perform()
        focused = page.driver.switch_to.active_element
        reached.append(focused.get_attribute("id"))
        if reached[-1] == "send":
            break
    assert [name for name in reached if name] == ["clear", "name", "quantize", "send"]
    ActionChains(page.driver).send_keys(Keys.ENTER).perform()
    page.wait_for("#said", "tiny_base is on Ollama")


def test_without_scripts_one_deploys_lists_and_deletes(
    page: Page, zips: Zips, models_dir: Path
) -> None:
    page.emulate("setScriptExecutionDisabled", value=True)
    try:
        page.load()
        page.find("#zip").send_keys(str(zips.both))
        page.find("#name").send_keys("plain")
        page.click("#send")
        page.wait_for("main pre", "ollama run plain")
        page.driver.get(page.driver.current_url.replace("/deploy", "/"))
        page.click("noscript a")
        page.wait_for("main", "tiny_lora")
        page.click("main summary")
        page.click("main form button")
        page.wait_for("main h1", "tiny_lora: deleted here")
        assert not (models_dir / "tiny_lora").exists()
    finally:
        page.emulate("setScriptExecutionDisabled", value=False)

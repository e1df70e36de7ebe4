"""The models on the page: found, shown in full, created with another Modelfile, talked to."""

import json
from pathlib import Path
from typing import Any

import pytest
import requests
from selenium.webdriver import Keys
from selenium.webdriver.remote.webdriver import WebDriver

from tests.browser import Page
from tests.conftest import Zips
from tests.serving import Served, serve_inside
from tests.standin import Standin
from tests.stored import create, store, upload

ROWS = "[...document.querySelectorAll('#models .model-name')].map(name => name.textContent)"
# Where the mark stands among the editor's lines, the first being 1.
MARKED = """(() => {
  const mark = document.getElementById("modelfile-mark");
  const field = document.getElementById("modelfile"), style = getComputedStyle(field);
  const top = parseFloat(mark.style.top) + field.scrollTop - parseFloat(style.paddingTop);
  return mark.hidden ? 0 : Math.round(top / parseFloat(style.lineHeight)) + 1;
})()"""
IN_VIEW = """(() => {
  const { top, bottom } = document.getElementById("prompt").getBoundingClientRect();
  return top >= 0 && bottom <= innerHeight && document.activeElement.id === "prompt";
})()"""


def wait_for_rows(page: Page, names: list[str]) -> None:
    """Wait until the list shows these models, in this order."""
    page.wait_until(f"JSON.stringify({ROWS}) === JSON.stringify({json.dumps(names)})")


def reload(page: Page, count: int) -> None:
    """Load the page, and wait until it shows `count` models."""
    page.load()
    page.wait_until(f"document.querySelectorAll('#models tr').length === {count}")


@pytest.fixture
def several(page: Page, models_dir: Path) -> Page:
    """The page with three models of different names, sizes and dates."""
    store(models_dir, "b-large", 3000, created_at="2026-01-02T00:00:00Z", architecture="qwen3")
    store(models_dir, "a-new", 2000, created_at="2026-03-02T00:00:00Z")
    store(models_dir, "c-old 10", 1000, created_at="2025-01-02T00:00:00Z", kind="base+adapter")
    reload(page, 3)
    return page


ORDERS = {
    "size": ["b-large", "a-new", "c-old 10"],
    "name": ["a-new", "b-large", "c-old 10"],
    "date": ["a-new", "b-large", "c-old 10"],
}
FOUND_BY = {
    "QWEN ": ["b-large"],
    "old q4 ": ["c-old 10"],
    "adapter ": ["c-old 10"],
    "10 c- ": ["c-old 10"],
    " ": ["a-new", "b-large", "c-old 10"],
}


def test_models_in_each_order_and_found_by_what_they_are(several: Page) -> None:
    for order, names in ORDERS.items():
        several.click(f"#model-order [value={order}]")
        wait_for_rows(several, names)
    for words, names in FOUND_BY.items():
        several.fill("#model-search", words)
        wait_for_rows(several, names)


def test_nothing_found_and_back(several: Page) -> None:
    several.fill("#model-search", "nothing like it")
    several.wait_for("#none-found", "No model matches.")
    assert not several.find("#model-table").is_displayed()
    several.click("#search-all")
    assert len(several.run_script(f"return {ROWS}")) == 3


def test_a_thousand_models_are_shown_a_page_at_a_time(page: Page, models_dir: Path) -> None:
    for number in range(1000):
        store(models_dir, f"model {number}", 1000 + number)
    reload(page, 50)
    assert page.find("#model-count").text == "1,000"
    page.click("#model-order [value=name]")
    assert page.find("#model-range").text == "1\u201350 of 1,000"
    assert page.run_script(f"return {ROWS}[10]") == "model 10"
    page.click("#model-after")
    assert page.run_script(f"return {ROWS}[0]") == "model 50"
    page.fill("#model-search", "model 99")
    found = [f"model {number}" for number in range(1000) if "99" in str(number)]
    wait_for_rows(page, found)
    assert not page.find("#model-pages").is_displayed()


def test_the_header_marks_the_place_that_is_read(page: Page, models_dir: Path) -> None:
    for number in range(40):
        store(models_dir, f"model {number}")
    reload(page, 40)
    current = "document.querySelector('#places [aria-current=location]')?.hash"
    assert page.run_script(f"return {current}") == "#deploy-place"
    page.run_script("scrollTo(0, document.body.scrollHeight)")
    page.wait_until(f"{current} === '#models-place'")
    page.run_script("scrollTo(0, 0)")
    page.wait_until(f"{current} === '#deploy-place'")
    page.click("#places [href='#activity-place']")
    page.wait_until(f"{current} === '#activity-place'")


def test_each_state_of_the_list(page: Page, models_dir: Path) -> None:
    page.wait_for("#no-models", "No models yet")
    with page.unanswered(), page.hurried():
        page.wait_for("#models-failed", "can't be loaded")
    store(models_dir, "kept")
    reload(page, 1)
    with page.unanswered():
        page.look_again()
        page.wait_for("#models-stale", "doesn't answer")
        wait_for_rows(page, ["kept"])
    page.look_again()
    page.wait_until("document.getElementById('models-stale').hidden")


def test_an_open_menu_and_what_has_the_focus_outlive_a_change(
    page: Page, served: Served, zips: Zips
) -> None:
    upload(served.url, zips.base)
    upload(served.url, zips.both)
    reload(page, 2)
    page.click('[aria-label="Actions for tiny_base"]')
    page.wait_until("document.querySelector('#models .dropdown-menu.show')")
    create(served.url, "tiny_base", "tiny")
    create(served.url, "tiny_lora", "other")
    page.look_again()
    page.wait_for("#models", "other")
    assert "tiny:" not in page.find("#models").text
    assert page.find("#models .dropdown-menu.show").is_displayed()
    page.find("#models .dropdown-menu.show button").send_keys(Keys.ESCAPE)
    page.wait_until("document.querySelectorAll('#models .dot').length === 2")
    label = "document.activeElement.getAttribute('aria-label')"
    assert page.run_script(f"return {label}") == "Actions for tiny_base"


def test_a_model_in_full(page: Page, served: Served, zips: Zips, standin: Standin) -> None:
    upload(served.url, zips.both)
    create(served.url, "tiny_lora", "first", system="You are terse.", quantize="Q8_0")
    standin.fail_next("/api/create", body=b'{"error": "disk on fire"}')
    create(served.url, "tiny_lora", "second")
    reload(page, 1)
    page.click(".model-name")
    page.wait_for("#panel-said", "disk on fire")
    said = page.find("#panel-said").text
    for part in ("base.gguf", "sha256:", "ADAPTER ./lora.gguf", "system: You are terse.", "Q8_0"):
        assert part in said
    assert page.find("#panel-title").text == "tiny_lora"
    page.find("#model-panel").send_keys(Keys.ESCAPE)
    page.wait_until("document.activeElement.classList.contains('model-name')")
    page.click(".model-name")
    page.wait_for("#panel-said", "first")
    page.click(".creates li:last-child button")
    page.wait_until("document.getElementById('modelfile').value.includes('SYSTEM You are terse.')")
    assert page.find("#new-name").get_attribute("value") == "first"
    assert page.find("#new-quantize").get_attribute("value") == "Q8_0"
    page.wait_for("#new-name-said", "Replaces first:latest")


def test_what_is_wrong_with_a_model_is_in_its_panel(page: Page, served: Served, zips: Zips) -> None:
    upload(served.url, zips.lora)
    reload(page, 1)
    page.click(".model-name")
    page.wait_for("#panel-said .alert", "Found an adapter without a base model")


def open_create(page: Page) -> None:
    page.choose("Create", "tiny_base")
    page.wait_until("document.getElementById('modelfile').value.includes('FROM')")


def test_an_error_in_a_modelfile_is_marked_at_its_line_and_nothing_is_sent(
    page: Page, served: Served, zips: Zips, standin: Standin
) -> None:
    upload(served.url, zips.base)
    reload(page, 1)
    open_create(page)
    page.find("#modelfile").send_keys("\nSYSTEM Hi\nPARAMETER temprature 1")
    page.wait_for("#modelfile-said", "Did you mean 'temperature'?")
    assert page.run_script(f"return {MARKED}") == 4
    page.click("#create-dialog [value=yes]")
    page.wait_for("#modelfile-said", "Line 4")
    assert page.find("#create-dialog").is_displayed()
    assert not [sent for sent in standin.requests if sent.path == "/api/create" and sent.json]
    page.find("#modelfile").send_keys(Keys.BACKSPACE * len("temprature 1") + "temperature 1")
    page.wait_until("document.getElementById('modelfile-said').textContent === ''")
    assert page.run_script(f"return {MARKED}") == 0


def test_what_was_typed_is_kept_until_it_is_taken_back(
    page: Page, served: Served, zips: Zips, standin: Standin
) -> None:
    upload(served.url, zips.base)
    reload(page, 1)
    open_create(page)
    page.find("#modelfile").send_keys("\nSYSTEM You are terse.")
    page.click("#show-changes")
    assert page.find("#modelfile-changes ins").text == "+ SYSTEM You are terse."
    assert not page.find("#modelfile").is_displayed()
    standin.fail_next("/api/create", body=b'{"error": "disk on fire"}')
    page.click("#create-dialog [value=yes]")
    page.wait_for("#said", "disk on fire")
    page.load()
    open_create(page)
    page.wait_for("#draft-said", "which were kept")
    page.wait_for("#modelfile-said", "disk on fire")
    assert "SYSTEM You are terse." in str(page.find("#modelfile").get_attribute("value"))
    page.click("#reset-modelfile")
    assert "SYSTEM" not in str(page.find("#modelfile").get_attribute("value"))
    page.click("#show-changes")
    assert page.find("#modelfile-changes").text == "Nothing has been changed."


def test_a_template_that_ollama_refuses_is_marked_and_one_that_it_takes_is_no_draft(
    page: Page, served: Served, zips: Zips
) -> None:
    upload(served.url, zips.base)
    reload(page, 1)
    open_create(page)
    page.find("#modelfile").send_keys('\nTEMPLATE """a\n{{ nothing }}"""')
    page.click("#create-dialog [value=yes]")
    page.wait_for("#said", "template: :2:")
    page.click("#next-steps button:last-child")
    page.wait_until("document.getElementById('modelfile').value.includes('FROM')")
    page.wait_for("#modelfile-said", "template: :2:")
    assert page.run_script(f"return {MARKED}") == 4
    page.find("#modelfile").send_keys(Keys.BACKSPACE * len('nothing }}"""') + '.Prompt }}"""')
    page.click("#create-dialog [value=yes]")
    page.wait_for("#said", "is on Ollama")
    open_create(page)
    page.wait_until("!document.getElementById('modelfile').value.includes('TEMPLATE')")


def test_one_of_several_servers_is_chosen_for_a_create(
    chromium: WebDriver, models_dir: Path, tmp_path: Path, zips: Zips
) -> None:
    with (
        Standin(tmp_path / "a") as a,
        Standin(tmp_path / "b") as b,
        serve_inside(models_dir, f"{a.url},{b.url}") as url,
    ):
        upload(url, zips.base)
        page = Page(chromium, url)
        open_create(page)
        page.click(f"#new-server option[value='{b.url}']")
        page.click("#create-dialog [value=yes]")
        page.wait_for("#said", "is on Ollama")
        page.wait_for("#models", b.url.removeprefix("http://"))
        made = requests.get(f"{a.url}/api/tags", timeout=30).json()["models"]
        assert made == []


DIFFS = """
const done = arguments[1];
const differences = ({ diff }) => arguments[0].map(
  ([before, after]) => diff(before, after).map(parts => parts.join("")));
import(new URL("diff.js", document.querySelector("script[type=module]").src))
  .then(module => done(differences(module)));
"""
CHANGES: list[tuple[str, str, list[str]]] = [
    ("a", "a", []),
    ("a\nb\nc", "a\nc", [" a", "-b", " c"]),
    ("", "a", ["-", "+a"]),
    ("a\nb\nc\nd\ne\nf", "a\nb\nc\nd\ne\nX", ["…", " d", " e", "-f", "+X"]),
    ("a\nb\nc", "a\nx\nb\ny\nc", [" a", "+x", " b", "+y", " c"]),
    (
        *("1\n2\n3\n4\n5\n6\n7", "X\n2\n3\n4\n5\n6\nY"),
        ["-1", "+X", " 2", " 3", "…", " 5", " 6", "-7", "+Y"],
    ),
    ("x\n" * 9000, "y\n" * 9000, ["-x"] * 9000 + ["+y"] * 9000 + [" "]),
]


def test_the_changes_of_a_text(page: Page) -> None:
    texts = [(before, after) for before, after, _ in CHANGES]
    found = page.driver.execute_async_script(DIFFS, texts)  # type: ignore[no-untyped-call]
    assert found == [lines for *_, lines in CHANGES]


def last_chat(standin: Standin) -> Any:
    return [sent.json for sent in standin.requests if sent.path == "/api/chat"][-1]


def say(page: Page, text: str) -> None:
    page.find("#prompt").send_keys(text + Keys.ENTER)


@pytest.fixture
def trial(page: Page, served: Served, models_dir: Path, zips: Zips) -> Page:
    """A chat with the last of many models, begun from its row."""
    upload(served.url, zips.base)
    create(served.url, "tiny_base", "tiny")
    for number in range(40):
        store(models_dir, f"other {number}", created_at="2030-01-01T00:00:00Z")
    reload(page, 41)
    page.choose("Try", "tiny_base")
    return page


def test_a_chat_with_a_model_begins_where_its_prompt_is_seen(trial: Page, standin: Standin) -> None:
    trial.wait_until(IN_VIEW)
    say(trial, "Hello")
    trial.wait_for("#chat", "The stand-in has read 5 characters.")
    say(trial, "And now?")
    trial.wait_until("document.querySelectorAll('#chat .answer').length === 2")
    assert [message["role"] for message in last_chat(standin)["messages"]] == [
        *("user", "assistant", "user")
    ]
    trial.click("#trial-anew")
    assert trial.find("#chat").text == ""


def test_a_chat_with_system_text_temperature_and_stop_words(trial: Page, standin: Standin) -> None:
    trial.click("#question summary")
    trial.fill("#chat-system", "You are terse.")
    trial.fill("#chat-temperature", "0.3")
    trial.fill("#chat-stop", "END, <|stop|>")
    say(trial, "Hello")
    trial.wait_for("#chat", "The stand-in has read")
    sent = last_chat(standin)
    assert sent["messages"][0] == {"role": "system", "content": "You are terse."}
    assert sent["options"]["temperature"] == 0.3
    assert sent["options"]["stop"] == ["END", "<|stop|>"]


def test_the_speed_of_an_answer_is_ollama_s_own(trial: Page, standin: Standin) -> None:
    said = {"message": {"role": "assistant", "content": "Hi"}, "done": False}
    last = {"done": True, "done_reason": "length", "eval_count": 20, "eval_duration": 500_000_000}
    lines = [json.dumps(line).encode() + b"\n" for line in (said, last)]
    standin.fail_next("/api/chat", lines=lines)
    say(trial, "Hello")
    trial.wait_for("#trial-speed", "40 tokens/s")
    trial.wait_for("#chat", "Stopped at its longest length.")


def test_an_answer_is_stopped(trial: Page, standin: Standin) -> None:
    with standin.hold("/api/chat") as gate:
        say(trial, "Hello")
        gate.wait_reached(20)
        trial.click("#stop")
        trial.wait_for("#chat", "Stopped.")
        assert trial.find("#ask").is_displayed()
    say(trial, "Again")
    trial.wait_for("#chat", "The stand-in has read 5 characters.")
    assert [message["content"] for message in last_chat(standin)["messages"]] == ["Again"]


def test_an_error_is_no_answer(trial: Page, standin: Standin) -> None:
    standin.fail_next("/api/chat", lines=[b'{"error": "out of memory"}\n'])
    say(trial, "Hello")
    trial.wait_for("#chat .error", "out of memory")
    say(trial, "Again")
    trial.wait_for("#chat", "The stand-in has read 5 characters.")

"""The page in a real Chromium, for the tests of the page."""

import base64
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.ui import WebDriverWait

POLL_SECONDS = 0.05
DROP = """
const [name, content] = arguments;
const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0));
const data = new DataTransfer();
data.items.add(new File([bytes], name, { type: "application/zip" }));
document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true }));
"""
HURRY = """
const wait = window.setTimeout;
window.setTimeout = (work, milliseconds) => wait(work, milliseconds / 10);
"""


def open_chromium() -> WebDriver:
    """A headless Chromium, in which nothing moves smoothly, so that what is seen can be clicked."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    arguments = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage")
    for argument in (*arguments, "--force-prefers-reduced-motion"):
        options.add_argument(argument)
    return webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver") or ""))


class Page:
    """The page, open in the browser."""

    def __init__(self, driver: WebDriver, url: str) -> None:
        self.driver = driver
        everything = {"origin": url, "storageTypes": "all"}
        driver.execute_cdp_cmd("Storage.clearDataForOrigin", everything)  # type: ignore[attr-defined]
        driver.get(url)

    def find(self, selector: str):  # type: ignore[no-untyped-def]
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def wait_for(self, selector: str, text: str) -> None:
        """Wait until an element says `text`."""
        waiting = WebDriverWait(self.driver, 30, POLL_SECONDS, [Exception])
        waiting.until(lambda _: text in self.find(selector).text, f"{selector} doesn't say {text}")

    def wait_until(self, script: str) -> Any:
        """Wait until a script's expression is true; its value."""
        waiting = WebDriverWait(self.driver, 30, POLL_SECONDS)
        return waiting.until(lambda _: self.run_script(f"return {script}"), f"never: {script}")

    def drop(self, path: Path) -> None:
        content = base64.b64encode(path.read_bytes()).decode()
        self.driver.execute_script(DROP, path.name, content)  # type: ignore[no-untyped-call]

    def deploy(self, path: Path) -> None:
        """Drop a zip and send it."""
        self.drop(path)
        self.wait_for("#listing", "base.gguf")
        self.click("#send")

    def run_script(self, script: str) -> Any:
        return self.driver.execute_script(script)  # type: ignore[no-untyped-call]

    @contextmanager
    def hurried(self) -> Iterator[None]:
        """Load the page again with its timers running ten times as fast, for the block."""
        run = self.driver.execute_cdp_cmd  # type: ignore[attr-defined]
        script = run("Page.addScriptToEvaluateOnNewDocument", {"source": HURRY})
        self.driver.refresh()
        yield
        run("Page.removeScriptToEvaluateOnNewDocument", script)

    def fill(self, selector: str, text: str) -> None:
        """Put `text` into a field in place of what it says."""
        waiting = WebDriverWait(self.driver, 10, POLL_SECONDS, [Exception])
        field = waiting.until(lambda _: self.find(selector).is_enabled() and self.find(selector))
        waiting.until(lambda _: field.is_displayed(), f"{selector} isn't shown")
        field.clear()
        field.send_keys(text)

    def click(self, selector: str) -> None:
        """Click, once it is there to be clicked."""
        waiting = WebDriverWait(self.driver, 10, POLL_SECONDS, [Exception])
        waiting.until(lambda _: self.find(selector).click() or True)

    def choose(self, action: str, model: str) -> None:
        """Choose from the menu of a model's row."""
        self.click(f'[aria-label="Actions for {model}"]')
        self.click(f'.dropdown-menu [aria-label="{action} {model}"]')

    def emulate(self, command: str, **arguments: Any) -> None:
        """Have Chromium emulate something (Chrome DevTools protocol, Emulation.`command`)."""
        self.driver.execute_cdp_cmd(f"Emulation.{command}", arguments)  # type: ignore[attr-defined]

    def resize(self, width: int, height: int = 800) -> None:
        """Have the page so many CSS pixels wide."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.emulate("setDeviceMetricsOverride", **size)

    def prefer(self, scheme: str) -> None:
        """Have the system prefer `light` or `dark`."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.emulate("setEmulatedMedia", features=[feature])

    def take_screenshot(self, name: str) -> None:
        """Keep a picture in the folder that SCREENSHOTS names, where it does."""
        if folder := os.environ.get("SCREENSHOTS"):
            self.driver.save_screenshot(str(Path(folder) / f"{name}.png"))

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
MEGABYTE = 2**20
# A page that is left is thrown away with its process: none waits to be gone back to.
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-features=BackForwardCache,RenderDocument,SpareRendererForSitePerProcess",
    "--force-prefers-reduced-motion",
)
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
    for argument in ARGUMENTS:
        options.add_argument(argument)
    return webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver") or ""))


class Page:
    """The page at `url`, as nobody has seen it before. It opens once it is looked at."""

    def __init__(self, driver: WebDriver, url: str) -> None:
        self._driver = driver
        self._url = url
        self._is_open = False
        self._command("Storage.clearDataForOrigin", origin=url, storageTypes="all")

    @property
    def driver(self) -> WebDriver:
        """The browser with the page in it."""
        if not self._is_open:
            self.load()
        return self._driver

    def load(self) -> None:
        """Open the page, or load it again."""
        if self._is_open:
            return self._driver.refresh()
        self._is_open = True
        return self._driver.get(self._url)

    def _command(self, command: str, /, **arguments: Any) -> Any:
        """A command of the Chrome DevTools protocol."""
        return self._driver.execute_cdp_cmd(command, arguments)  # type: ignore[attr-defined]

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

    def drag(self, path: Path) -> None:
        """Drag a file or a folder from the desktop onto the page."""
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        _ = self.driver
        for event in ("dragEnter", "dragOver", "drop"):
            self._command("Input.dispatchDragEvent", type=event, x=300, y=300, data=data)

    def deploy(self, path: Path) -> None:
        """Drop a zip and send it."""
        self.drop(path)
        self.wait_for("#listing", "base.gguf")
        self.click("#send")

    def run_script(self, script: str) -> Any:
        return self.driver.execute_script(script)  # type: ignore[no-untyped-call]

    @contextmanager
    def hurried(self) -> Iterator[None]:
        """Load the page with its timers running ten times as fast, for the block."""
        script = self._command("Page.addScriptToEvaluateOnNewDocument", source=HURRY)
        self.load()
        yield
        self._command("Page.removeScriptToEvaluateOnNewDocument", **script)

    @contextmanager
    def slowed(self, *, rate: int = 8 * MEGABYTE, offline: bool = False) -> Iterator[None]:
        """Have the network send `rate` bytes a second, or nothing, for the block."""
        network = {"latency": 0, "downloadThroughput": -1}
        self._command("Network.enable")
        command = "Network.emulateNetworkConditions"
        self._command(command, **network, offline=offline, uploadThroughput=rate)
        try:
            yield
        finally:
            self._command(command, **network, offline=False, uploadThroughput=-1)

    @contextmanager
    def unanswered(self) -> Iterator[None]:
        """The service doesn't answer the page, for the block."""
        self._command("Network.enable")
        self._command("Network.setBlockedURLs", urls=["*/state/*"])
        try:
            yield
        finally:
            self._command("Network.setBlockedURLs", urls=[])

    def set_cookie(self, name: str, value: str) -> None:
        """Have the browser keep a cookie for the page."""
        self._command("Network.setCookie", url=self._url, name=name, value=value)

    def look_again(self) -> None:
        """Have the page ask for the service's state at once, as when somebody comes back to it."""
        self.run_script("document.dispatchEvent(new Event('visibilitychange'))")

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
        self._command(f"Emulation.{command}", **arguments)

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

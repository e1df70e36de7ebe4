"""A visit of the page in a real Chromium, with no model and with a thousand.

`python -m benchmarks.page [--models 1000] [--runs 5]`: medians; first paint and list in ms after
the page was asked for, the first time (nothing cached) and again; search and order in ms until they
are drawn, the slowest of several words; bytes as they were sent. The ratio is that of many to none.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from app.storage.manifest import MANIFEST
from tests.browser import Page, WebDriver, open_chromium
from tests.serving import serve
from tests.standin import Standin

WORDS = ("m", "model 09", "llama q4", "nothing like it", "")
SHOWN = "document.querySelector('#models tr, #no-models:not([hidden])')"
VISIT = """
const [page] = performance.getEntriesByType("navigation");
const all = [page, ...performance.getEntriesByType("resource")];
const [paint] = performance.getEntriesByName("first-contentful-paint");
return [paint.startTime, all.reduce((sum, entry) => sum + entry.transferSize, 0)];
"""
LIST_SHOWN_AT = """
new MutationObserver((_, observer) => {
  if (!document.querySelector("#models tr, #no-models:not([hidden])")) return;
  observer.disconnect();
  window.listShownAt = performance.now();
}).observe(document, { childList: true, subtree: true, attributes: true });
"""
CHANGE = """
const [id, value, type] = arguments, field = document.getElementById(id), began = performance.now();
field.value = value;
field.dispatchEvent(new Event(type));
document.body.offsetHeight;
return performance.now() - began;
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    few = _measured(0, arguments.runs)
    many = _measured(arguments.models, arguments.runs)
    print(f"{'':32}{0:>10}{arguments.models:>10}{'ratio':>8}")
    for name, value in many.items():
        print(f"{name:32}{few[name]:10.0f}{value:10.0f}{value / max(few[name], 0.1):8.2f}")


def _measured(models: int, runs: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        for number in range(models):
            _store(Path(folder, "models", f"model {number:04}"))
        with (
            Standin(Path(folder, "ollama")) as standin,
            serve(Path(folder, "models"), standin.url) as served,
        ):
            found: dict[str, list[float]] = {}
            for _ in range(runs):
                driver = open_chromium()
                try:
                    for name, value in _visits(driver, served.url):
                        found.setdefault(name, []).append(value)
                finally:
                    driver.quit()
    return {name: median(values) for name, values in found.items()}


def _store(model: Path) -> None:
    facts = {"kind": "base", "architecture": "llama", "quantization": "Q4_K_M"}
    (model / MANIFEST).parent.mkdir(parents=True)
    (model / MANIFEST).write_text(json.dumps({**facts, "created_at": "2026-11-01T10:00:00Z"}))
    (model / "base.gguf").write_bytes(b"GGUF")


def _visits(driver: WebDriver, url: str) -> Iterator[tuple[str, float]]:
    run: Any = driver.execute_cdp_cmd  # type: ignore[attr-defined]
    run("Page.addScriptToEvaluateOnNewDocument", {"source": LIST_SHOWN_AT})
    page = Page(driver, url)
    for visit in ("first", "again"):
        if visit == "again":
            driver.get(url)
        page.wait_until(SHOWN)
        paint, size = page.run_script(VISIT)
        yield f"{visit}: first paint", paint
        yield f"{visit}: list", page.run_script("return window.listShownAt")
        yield f"{visit}: bytes", size
    change: Any = driver.execute_script
    yield "search", max(change(CHANGE, "model-search", word, "input") for word in WORDS)
    yield (
        "order",
        max(change(CHANGE, "model-order", order, "change") for order in ("name", "size", "date")),
    )


if __name__ == "__main__":
    main()

"""The page under axe-core, in every look: light and dark, a phone's width and a desk's."""

from typing import Any

from selenium.webdriver.remote.webdriver import WebDriver

from tests.browser import Page
from tests.serving import ROOT

AXE = ROOT / "tests" / "node" / "node_modules" / "axe-core" / "axe.min.js"
SCHEMES, WIDTHS = ("light", "dark"), (360, 1280)
COLOURS = ["color-contrast", "link-in-text-block"]  # axe-core's rules of what a scheme changes
# What is wider than the place it is in.
WIDE = """
const wide = () => [...document.querySelectorAll("html, dialog[open], .card, .offcanvas-body")]
  .filter(({ scrollWidth, clientWidth }) => scrollWidth > clientWidth)
  .map(({ id, className, tagName }) => `too wide: ${tagName} ${id} ${className}`);
"""
# What axe-core finds in a look; what is wide is asked for last, when what follows the window has.
LOOK = """
const [scheme, places, rules, done] = arguments;
document.documentElement.dataset.bsTheme = scheme;
const isPart = places.length > 0, only = rules.length > 0 && { runOnly: rules };
// The style sheets are read for the rule on orientation alone, which is of the whole page.
const options = { resultTypes: ["violations"], selectors: false, preload: !isPart, ...only };
const context = isPart ? { include: places } : document;
const said = ({ id, nodes }) => [id, ...nodes.map(node => node.html.slice(0, 160))].join(" | ");
axe.run(context, options).then(({ violations }) => done([...violations.map(said), ...wide()]));
"""
# What axe-core says of the page as a whole, where it looks at a part of it otherwise: its colours
# aside, which are those of parts.
WHOLE = """
const done = arguments[0], rules = { "color-contrast": { enabled: false } };
axe.run(document, { resultTypes: ["violations"], rules })
  .then(({ violations }) => done(violations.map(({ id, nodes }) => `${id} | ${nodes[0].html}`)));
"""
# A page as it is where no scripts run, in place of the one that is there.
SHOW = """
const [html, done] = arguments;
document.documentElement.className = "";
document.documentElement.innerHTML = html.replaceAll("noscript", "div");
const loaded = style => style.sheet || new Promise(resolve => style.onload = resolve);
Promise.all([...document.querySelectorAll("link[rel=stylesheet]")].map(loaded)).then(() => done());
"""


class Checked:
    """The page in one language, held to axe-core's rules in every look."""

    def __init__(self, page: Page, language: str) -> None:
        self.page = page
        self.language = language
        page.set_cookie("language", language)
        page.wait_until("document.querySelector('#servers li .good')")
        page.run_script(AXE.read_text())

    def check(self, state: str, *places: str) -> None:
        """Hold `places`, or the whole page where none is named, to all rules at each width, and in
        the second scheme to those that are about colours: nothing else differs. What is of the page
        as a whole, whatever its language, is asked for once."""
        for width in WIDTHS:
            self.page.resize(width)
            for scheme in SCHEMES:
                rules = [] if scheme == SCHEMES[0] else COLOURS
                found = self._run(WIDE + LOOK, scheme, places, rules)
                self.page.take_screenshot(f"axe-{state}-{self.language}-{scheme}-{width}")
                assert not found, (state, scheme, width, found)
        if places and self.language == "en":
            assert not self._run(WHOLE), state

    def show(self, html: str) -> None:
        """Show a page as it is without scripts."""
        self._run(SHOW, html)

    def _run(self, script: str, *arguments: Any) -> Any:
        driver: WebDriver = self.page.driver
        return driver.execute_async_script(script, *arguments)  # type: ignore[no-untyped-call]

"""Bring the page's catalogues up to date with its templates and scripts: `make texts`.

New texts are added untranslated, to be filled in by hand; those that nobody says any more go.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po, write_po

from tests.serving import ROOT

SOURCES = {
    "templates": [("static/**.js", "javascript"), ("**.html", "jinja2")],
    "app": [("**.py", "python")],
}
HEADER = """msgid ""
msgstr ""
"Content-Type: text/plain; charset=utf-8\\n"
"Language: {locale}\\n"
"Plural-Forms: {plurals}\\n"

"""


def sources() -> list[Path]:
    """The files that people translate, one a language."""
    return sorted((ROOT / "app" / "translations").glob("*/LC_MESSAGES/messages.po"))


def said() -> Iterator[str | tuple[str, ...]]:
    """Each text that the page says; one for one and for many as a pair."""
    for folder, methods in SOURCES.items():
        for _, _, text, _, _ in extract_from_dir(ROOT / folder, methods):
            yield text if isinstance(text, str) else tuple(text)[:2]


def update(path: Path, texts: Iterable[str | tuple[str, ...]], head: str) -> None:
    """Have the catalogue hold exactly the texts, sorted, so that changes can be merged; `head` is
    its first lines, with places for `locale` and `plurals`."""
    with path.open("rb") as file:
        known = read_po(file)
    catalog = Catalog(known.locale)
    for text in texts:
        found = known.get(text)
        catalog.add(text, found.string if found else "")
    with path.open("wb") as file:
        file.write(head.format(locale=known.locale, plurals=known.plural_forms).encode())
        write_po(file, catalog, 100, no_location=True, sort_output=True, omit_header=True)


if __name__ == "__main__":
    for path in sources():
        update(path, said(), HEADER)

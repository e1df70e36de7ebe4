"""The languages that the page speaks; its texts are in `app/translations`, as gettext catalogues.

What a script says is looked up by `_` in templates/static/text.js, in the same catalogue.
"""

from functools import cache
from pathlib import Path
from typing import Any

from babel.messages.mofile import read_mo
from flask import Flask, request
from flask_babel import Babel

CATALOGUES = {"en": "en", "zh-TW": "zh_Hant"}
OWN_NAMES = {"en": "English", "zh-TW": "正體中文"}
COOKIE = "language"
FOLDER = Path(__file__).parent.parent / "translations"


def init_app(app: Flask) -> None:
    """Have the templates' texts looked up in the catalogue of the browser's language."""
    app.config["BABEL_TRANSLATION_DIRECTORIES"] = str(FOLDER)
    Babel(app, locale_selector=lambda: CATALOGUES[language()])
    app.jinja_env.globals |= {"language": language, "languages": OWN_NAMES}
    app.jinja_env.globals["catalogue"] = lambda: catalogue(language())


def language() -> str:
    """The tag (BCP 47) of the language to speak: what was chosen on the page, else the first one
    that the browser asks for and that there is, or English."""
    chosen = request.cookies.get(COOKIE)
    if chosen in CATALOGUES:
        return chosen
    wanted = request.accept_languages.best_match([*CATALOGUES, "zh", "zh-Hant", "zh-HK"])
    if wanted is None:
        return "en"
    return "zh-TW" if wanted.startswith("zh") else wanted


@cache
def catalogue(language: str) -> dict[str, Any]:
    """Each text in the language by its English, as a list where it counts; empty for English."""
    if language == "en":
        return {}
    path = FOLDER / CATALOGUES[language] / "LC_MESSAGES" / "messages.mo"
    with path.open("rb") as file:
        messages = [message for message in read_mo(file) if message.id]
    return {
        message.id if isinstance(message.id, str) else message.id[0]: message.string
        for message in messages
    }

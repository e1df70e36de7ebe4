"""The page's scripts, styles and icons: compressed once, cached for good under a path with their
version.

Their version is in the path, not in a query, so that what a script imports by a relative address
has it too. Bootstrap comes from Bootstrap-Flask's package, so nothing is asked of other hosts; of
its 2,000 icons the few that are used make a sprite of their own.
"""

import gzip
import hashlib
import mimetypes
import re
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from flask import Flask, Response, current_app, request, url_for
from werkzeug.exceptions import NotFound

YEAR_SECONDS = 365 * 24 * 3600
LEAST_COMPRESSED = 1400  # what fits in a packet is as quick as it is
BOOTSTRAP = {
    "bootstrap.css": "css/bootstrap.min.css",
    "bootstrap.js": "js/bootstrap.min.js",
    "popper.js": "umd/popper.min.js",
}
ICONS = (
    "arrow-repeat",
    "arrow-return-right",
    "box-seam",
    "boxes",
    "chat-dots",
    "check2",
    "check-circle-fill",
    "chevron-down",
    "chevron-left",
    "chevron-right",
    "circle-half",
    "clipboard",
    "clock-history",
    "cloud-arrow-up",
    "download",
    "exclamation-triangle-fill",
    "file-earmark",
    "file-earmark-binary",
    "file-zip",
    "files",
    "filter",
    "folder2-open",
    "hdd",
    "hourglass-split",
    "info-circle",
    "key",
    "moon-stars",
    "pause",
    "pause-circle-fill",
    "pencil-square",
    "play",
    "plus-lg",
    "search",
    "send",
    "sliders",
    "sort-down",
    "stop-circle",
    "sun",
    "terminal",
    "three-dots",
    "translate",
    "trash",
    "wifi-off",
    "x-circle-fill",
    "x-lg",
)
_SYMBOL = r'<symbol class="[^"]*" (viewBox="[^"]*" id="(?:%s)">.*?</symbol>)'


@dataclass(frozen=True)
class Asset:
    """One file that the page loads; `content` as it is, `packed` by gzip where that is shorter."""

    media_type: str
    content: bytes

    @cached_property
    def tag(self) -> str:
        """What tells this content from any other."""
        return hashlib.sha256(self.content).hexdigest()[:32]

    @cached_property
    def packed(self) -> bytes | None:
        if len(self.content) < LEAST_COMPRESSED:
            return None
        packed = gzip.compress(self.content, 9, mtime=0)
        return packed if len(packed) < len(self.content) else None


class Assets:
    """All files that the page loads, by name; `version` changes with any of them."""

    def __init__(self, folder: Path) -> None:
        bootstrap = Path(str(files("flask_bootstrap"))) / "static" / "bootstrap5"
        paths = {path.name: path for path in folder.iterdir()}
        self.own = frozenset(paths)
        paths |= {name: bootstrap / path for name, path in BOOTSTRAP.items()}
        self._files = {
            name: Asset(_media_type(name), _without_source_map(path.read_bytes()))
            for name, path in paths.items()
        }
        sprite = (bootstrap / "icons" / "bootstrap-icons.svg").read_text()
        self._files["icons.svg"] = Asset("image/svg+xml", _sprite(sprite))
        digest = hashlib.sha256()
        for name, asset in sorted(self._files.items()):
            digest.update(f"{name} {len(asset.content)}\n".encode() + asset.content)
        self.version = digest.hexdigest()[:12]

    def get(self, name: str) -> Asset:
        """Raises NotFound."""
        try:
            return self._files[name]
        except KeyError:
            raise NotFound from None


def init_app(app: Flask, folder: Path) -> None:
    """Serve the files of `folder`; give templates `asset`, `modules` and the service's version."""
    app.extensions["assets"] = _assets_of(folder)
    app.jinja_env.globals |= {
        "asset": asset,
        "modules": modules,
        "version": version("model-handler"),
    }
    for rule in ("/static/<filename>", "/static/<version>/<filename>"):
        app.add_url_rule(rule, "static", static)


@cache
def _assets_of(folder: Path) -> Assets:
    return Assets(folder)


def asset(name: str) -> str:
    """The address of a file, for as long as it is what it is."""
    return url_for("static", version=_assets().version, filename=name)


def modules() -> list[str]:
    """The names of the page's own scripts, each a module that others import: to be asked for at
    once, instead of one after the other as they are found."""
    return sorted(name for name in _assets().own if name.endswith(".js") and name != "theme.js")


def static(filename: str, version: str | None = None) -> Response:
    """A file as it is now; to be kept for good by who knows its version."""
    response = answer(_assets().get(filename))
    is_known = version == _assets().version
    kept = f"public, max-age={YEAR_SECONDS}, immutable" if is_known else "no-cache"
    response.headers["Cache-Control"] = kept
    return response


def page(html: str) -> Response:
    """A page in the language that the browser asks for, packed where it takes gzip."""
    response = answer(Asset("text/html", html.encode()))
    response.vary.update(["Accept-Language", "Cookie"])
    response.headers["Cache-Control"] = "no-cache"
    return response


def answer(found: Asset) -> Response:
    """What was found: packed where the client takes gzip, or 304 where it has it already."""
    response = Response(mimetype=found.media_type)
    response.vary.add("Accept-Encoding")
    response.set_etag(found.tag, weak=True)  # it is the same, packed or not
    if request.if_none_match.contains_weak(found.tag):
        response.status_code = 304
        return response
    packed = found.packed if request.accept_encodings["gzip"] else None
    response.set_data(found.content if packed is None else packed)
    if packed is not None:
        response.content_encoding = "gzip"
    return response


def _assets() -> Assets:
    assets: Assets = current_app.extensions["assets"]
    return assets


def _media_type(name: str) -> str:
    if name.endswith(".js"):
        return "text/javascript"
    return mimetypes.guess_type(name)[0] or "application/octet-stream"


def _without_source_map(content: bytes) -> bytes:
    """Source maps aren't served, so developer tools needn't ask for them."""
    return re.sub(rb"(?m)^(?://|/\*)# sourceMappingURL=.*$", b"", content)


def _sprite(all_icons: str) -> bytes:
    names = "|".join(map(re.escape, ICONS))
    symbols = [f"<symbol {found}" for found in re.findall(_SYMBOL % names, all_icons)]
    if len(symbols) != len(ICONS):
        raise LookupError("Bootstrap-Flask's sprite lacks an icon that ICONS names.")
    return f'<svg xmlns="http://www.w3.org/2000/svg">{"".join(symbols)}</svg>'.encode()

"""The names in an archive: each by itself, and against the others as any filesystem might compare
them. What passes is safe to join to a folder."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from app.archive.limits import ArchiveError, Limits

OWN_PREFIX = ".model-handler"
"""What every name begins with that the service makes in the models directory."""

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.zst")
"""How the names of archives end that can be uploaded."""

_OWN_PREFIXES = (OWN_PREFIX, ".merged", ".shared")  # the last two: what earlier versions made
_JUNK_FOLDERS = ("__MACOSX",)
_JUNK_FILES = (".DS_Store", "Thumbs.db", "desktop.ini")
_DRIVE = re.compile(r"[A-Za-z]:")
_SHOWN = 200
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_IGNORED = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]"
)


def is_own(component: str) -> bool:
    """Whether a file or folder of that name could be one of the service's own, however a
    filesystem compares names."""
    return _folded(component, "NFKC").startswith(_OWN_PREFIXES)


def is_junk(name: str) -> bool:
    """Whether an operating system added this file to the archive by itself."""
    parts = name.split("/")
    return (
        any(part in _JUNK_FOLDERS for part in parts)
        or parts[-1] in _JUNK_FILES
        or parts[-1].startswith("._")
    )


def readable(raw: bytes) -> str:
    """A name whose coding isn't told: UTF-8 where it can be, else code page 437, the one that zips
    began with. That is readable for Western names and unique for all; Shift JIS, GBK or Big5 can't
    be told from it, so a backslash there is a letter's second byte and no separator."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("cp437").replace("\\", "\uff3c")


@dataclass
class _Name:
    """A name in a folder of the archive: as it is spelled, and what is below it (None: a file)."""

    spelling: str
    below: dict[str, "_Name"] | None
    stated: bool = False


class Names:
    """The names of one archive, in its order."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._root: dict[str, _Name] = {}
        self._separator = ""

    def add(self, name: str) -> str:
        """The name as a path with `/`; a folder's ends with one. Raises ArchiveError.

        Old Windows tools write backslashes; those are separators in an archive that has no `/`.
        """
        path = self._with_slashes(name)
        *parents, last = self._parts(path)
        folder = self._root
        for part in parents:
            below = _enter(folder, part, path, is_file=False).below
            assert below is not None
            folder = below
        found = _enter(folder, last, path, is_file=not path.endswith("/"))
        if found.stated:
            raise ArchiveError(f"{path!r} is in the archive twice. Zip it again.")
        found.stated = True
        return path

    def _with_slashes(self, name: str) -> str:
        for separator in {"/", "\\"} & set(name):
            if self._separator not in ("", separator):
                raise _refusal(
                    name, "mixes \\ and / with the others; zip with a tool that writes /"
                )
            self._separator = separator
        return name.replace("\\", "/")

    def _parts(self, name: str) -> list[str]:
        """The components of an entry's name. Raises ArchiveError for one that could go astray."""
        parts = name.removesuffix("/").split("/")
        if problem := _problem_of_text(name):
            pass
        elif name.startswith("/") or _DRIVE.match(name):
            problem = "is an absolute path"
        elif ".." in parts:
            problem = "points out of its folder"
        elif "" in parts or "." in parts:
            problem = "has an empty part"
        elif len(parts) > self._limits.depth:
            problem = f"is more than {self._limits.depth} folders deep"
        elif (
            len(name.encode()) > self._limits.name_bytes
            or max(len(part.encode()) for part in parts) > self._limits.component_bytes
        ):
            problem = f"is longer than {self._limits.component_bytes} bytes"
            name = name[:40] + "..."
        elif any(map(is_own, parts)):
            problem = "is one of the service's own; zip the model's files without it"
        else:
            return parts
        raise _refusal(name, problem)


def without_common_folder(names: Sequence[str]) -> list[str]:
    """The files' names without the one folder that they may all be in."""
    tops = {name.partition("/")[0] for name in names}
    nested = len(tops) == 1 and all("/" in name for name in names)
    return [name.partition("/")[2] for name in names] if nested else list(names)


def _problem_of_text(name: str) -> str:
    for char in name:
        category = unicodedata.category(char)
        if category == "Cc":
            return "has a control character"
        if category in ("Zl", "Zp", "Cs") or char in _BIDI:
            return "has a character that hides or turns what stands around it"
    return ""


def _refusal(name: str, problem: str) -> ArchiveError:
    shown = name if len(name) <= _SHOWN else name[:_SHOWN] + "..."
    return ArchiveError(f"The name {shown!r} in the archive {problem}.")


def _enter(folder: dict[str, _Name], part: str, path: str, *, is_file: bool) -> _Name:
    name = folder.setdefault(_folded(part, "NFC"), _Name(part, None if is_file else {}))
    if name.spelling != part:
        raise ArchiveError(
            f"{path!r} differs from another name of the archive only in case or in how its"
            " letters are coded. Rename one of them."
        )
    if (name.below is None) != is_file:
        raise ArchiveError(f"{path!r} is a file and a folder at once. Rename one of them.")
    return name


def _folded(part: str, form: str) -> str:
    """A name as filesystems that ignore case, coding and invisible characters compare it."""
    visible = "".join(c for c in _IGNORED.sub("", part) if unicodedata.category(c) != "Cf")
    normal = unicodedata.normalize(form, unicodedata.normalize(form, visible).casefold())  # type: ignore[arg-type]
    return normal

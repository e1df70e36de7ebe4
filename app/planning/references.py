"""What a Modelfile's FROM and ADAPTER mean in the folder that it came with."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import TypeVar

from app.ollama.names import InvalidName, check_name
from app.planning.contents import Contents
from app.planning.gguf_parts import Projector
from app.planning.parts import Adapter, Base, Part
from app.planning.unusable import Unusable

_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
MOST_CHARACTERS, MOST_WILDCARDS = 4096, 8
Kind = TypeVar("Kind", bound=Part)


@dataclass
class Named:
    """The parts that a Modelfile names; `from_` is a model that only Ollama has. `notes` are
    sentences on what was taken for something else than it says."""

    bases: list[Base] = field(default_factory=list)
    projectors: list[Projector] = field(default_factory=list)
    adapters: list[Adapter] = field(default_factory=list)
    from_: str | None = None
    notes: list[str] = field(default_factory=list)


def resolve(contents: Contents) -> Named:
    """Find what the zip's own Modelfile names. Raises Unusable for what isn't in the zip."""
    own = contents.modelfile
    assert own is not None
    named = Named()
    parts: list[Part] = [*contents.bases, *contents.projectors]
    for value in dict.fromkeys(own.from_):
        found = _find(contents, "FROM", value, parts, named)
        if not found and not _is_path(value) and ollama_name(value):
            if named.from_ not in (None, value):
                raise Unusable("The zip's Modelfile names more than one model of Ollama's.")
            named.from_ = value
            continue
        _require(found, contents, "FROM", value, "base model")
        named.bases += _added(contents.bases, found, named.bases)
        named.projectors += _added(contents.projectors, found, named.projectors)
    for value in own.adapters[-1:]:
        found = _find(contents, "ADAPTER", value, contents.adapters, named)
        _require(found, contents, "ADAPTER", value, "adapter")
        named.adapters += _added(contents.adapters, found, named.adapters)
    return named


def ollama_name(value: str) -> str | None:
    """`value` if it can be a model's name on Ollama."""
    try:
        return check_name(value)
    except InvalidName:
        return None


def _added(parts: Sequence[Kind], found: Sequence[Part], known: Sequence[Kind]) -> list[Kind]:
    """Those of `parts` that were found and aren't known yet."""
    places = {id(part) for part in found} - {id(part) for part in known}
    return [part for part in parts if id(part) in places]


def _find(
    contents: Contents, instruction: str, value: str, parts: Sequence[Part], named: Named
) -> list[Part]:
    """The parts that a path names: as a file, as a folder, by a wildcard, or else by the file's
    name alone, where the path is one of another machine."""
    path = value.replace("\\", "/")
    inside = _normalised(contents.modelfile_folder, path)
    if inside is not None:
        found = _at(inside, parts)
        if found or not _is_path(value):
            return found
    name = PurePosixPath(path).name
    found = _called(name, parts)
    if len(found) > 1:
        places = ", ".join(part.label for part in found[:5])
        raise Unusable(
            f"The zip's Modelfile says {instruction} {value}, and the zip has several of that"
            f" name: {places}.",
            "Name the one in the zip, relative to the Modelfile.",
        )
    if found:
        named.notes.append(
            f"The Modelfile says {instruction} {value}: taken for {found[0].label} in the zip."
        )
        return found
    if inside is None:
        raise Unusable(
            f"The zip's Modelfile says {instruction} {value}, which points out of the zip.",
            "Name a file in the zip, relative to the Modelfile, or a model that Ollama has.",
        )
    return []


def _normalised(folder: str, path: str) -> str | None:
    """The path below the model's folder, without `.` and `..`; None for one that leaves it."""
    if _leads_elsewhere(path):
        return None
    parts: list[str] = []
    for part in (*PurePosixPath(folder).parts, *PurePosixPath(path).parts):
        if part == ".." and not parts:
            return None
        if part == "..":
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts) or "."


def _is_path(value: str) -> bool:
    """Whether it can't be a model's name on Ollama."""
    if value.lower().endswith((".gguf", ".safetensors", ".bin")):
        return True
    return value.startswith(".") or "\\" in value or _leads_elsewhere(value)


def _leads_elsewhere(path: str) -> bool:
    return path.startswith(("/", "~", "\\\\")) or _DRIVE.match(path) is not None


def _at(path: str, parts: Sequence[Part]) -> list[Part]:
    """The parts with a file at that path, or in that folder, or that match its wildcard."""
    exact = [part for part in parts if path == part.folder or path in [f.name for f in part.files]]
    if exact:
        return exact
    if path.count("*") > MOST_WILDCARDS or len(path) > MOST_CHARACTERS:
        return []
    if "*" in path or "?" in path:
        return [part for part in parts if any(fnmatchcase(f.name, path) for f in part.files)]
    return [
        part
        for part in parts
        if any((f.name.rpartition("/")[0] or ".") == path for f in part.files)
    ]


def _called(name: str, parts: Sequence[Part]) -> list[Part]:
    """The parts that have a file, or are a folder, of that name, wherever in the zip."""
    if not name:
        return []
    return [
        part
        for part in parts
        if (part.folder is not None and PurePosixPath(part.folder).name == name)
        or any(PurePosixPath(file.name).name == name for file in part.files)
    ]


def _require(
    found: Sequence[Part], contents: Contents, instruction: str, value: str, what: str
) -> None:
    if found:
        return
    parts = (*contents.bases, *contents.projectors, *contents.adapters)
    known = sorted({part.folder or part.label for part in parts})
    raise Unusable(
        f"The zip's Modelfile says {instruction} {value}, which is no {what} in the zip.",
        f"There are: {', '.join(known[:20]) or 'no usable files'}.",
    )

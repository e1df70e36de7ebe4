"""What a client of Ollama sends to make a model of: looked at in Ollama's order, and refused in its
words where it would refuse.

Source: Ollama, server/create.go, and the transcripts that tests/standin/test_recorded.py holds.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from app.archive.names import without_common_folder
from app.formats.gguf import GGUFError, read_header
from app.formats.gguf_values import CutOff
from app.planning.create_request import Refused, sha256_of

ADAPTER_FOLDER = "adapter"

Found = Mapping[str, Path]
"""Where the content of each sha256 (hex) lies that is here."""


def check_files(
    given: Mapping[str, str], found: Found, *, are_adapters: bool = False
) -> Iterator[str]:
    """What Ollama says while it reads the files, name to digest. Raises Refused.

    An adapter's are refused with 400, whatever is the matter with them.
    """
    try:
        if any(name.lower().endswith(".safetensors") for name in given):
            yield "converting adapter" if are_adapters else "converting model"
            config = "adapter_config.json" if are_adapters else "config.json"
            if not any(name.rpartition("/")[2] == config for name in given):
                raise Refused(f"open {config}: no such file or directory", 500)
            for digest in given.values():
                _require(digest, found)
            return
        weights = [name for name in sorted(given) if _is_gguf(name, given[name], found)]
        if are_adapters and len(weights) > 1:
            raise Refused("only one adapter is currently supported")
        seen: dict[str, str] = {}
        for name in weights:
            yield "parsing GGUF"
            same = seen.setdefault(given[name], name)
            if same != name:
                raise Refused(f"{name} is the same file as {same}. Send it once.")
            _check_gguf(name, _require(given[name], found))
        for digest in given.values():
            _require(digest, found)
    except Refused as error:
        error.status = 400 if are_adapters else error.status
        raise


def names_in_folder(files: Mapping[str, str], adapters: Mapping[str, str]) -> dict[str, str]:
    """All files, name to digest, by the names that they get in a model's folder, with the sha256
    (hex) of each: an adapter's beside others are in a folder of their own.

    Raises Refused for a digest that isn't one.
    """
    names = dict(zip(_plain(files), map(sha256_of, files.values()), strict=True))
    folder = f"{ADAPTER_FOLDER}/" if names else ""
    while any(name.lower().startswith(folder) for name in names if folder):
        folder = f"_{folder}"
    digests = map(sha256_of, adapters.values())
    return names | {
        folder + name: sha256 for name, sha256 in zip(_plain(adapters), digests, strict=True)
    }


def _plain(said: Iterable[str]) -> list[str]:
    """The names as models' files are called: none is hidden, none is the Modelfile."""
    names = []
    for name in said:
        parts = name.replace("\\", "/").split("/")
        parts = [f"_{part}" if part.startswith(".") else part for part in parts]
        if parts[-1].lower() in ("modelfile", "modelfile.txt"):
            parts[-1] = f"_{parts[-1]}"
        names.append("/".join(parts))
    return without_common_folder(names)


def _is_gguf(name: str, digest: str, found: Found) -> bool:
    """Whether Ollama would read the file as a GGUF: by its name, or by its content."""
    if name.lower().endswith(".gguf"):
        return True
    path = found.get(digest[-64:])
    if path is None:
        return False
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


def _require(digest: str, found: Found) -> Path:
    """Where that content lies. Raises Refused where it isn't here."""
    sha256 = sha256_of(digest)
    if sha256 not in found:
        raise Refused(f"open sha256-{sha256}: no such file or directory", 500)
    return found[sha256]


def _check_gguf(name: str, path: Path) -> None:
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise Refused("supplied file was not in GGUF format")
        file.seek(0)
        size = path.stat().st_size
        try:
            read_header(file, size)
        except CutOff as error:
            if error.tensor is None:
                raise Refused("unexpected EOF", 500) from error
            raise Refused(
                f'tensor "{error.tensor}" offset+size ({error.end}) exceeds file size ({size})', 500
            ) from error
        except GGUFError as error:
            raise Refused(f"{name} {error}.") from error

"""What `ollama create` sends: the requests of Ollama's command, by its source.

Source: Ollama, cmd/cmd.go (CreateHandler, createRequestFileNames), parser/parser.go (CreateRequest,
filesForModel; with the globs of v0.12 to 0.34.0 for adapters).
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import requests

from app.modelfile import grammar
from app.modelfile.parameters import merge_parameters

WEIGHTS = (
    *("model*.safetensors", "consolidated*.safetensors", "adapters.safetensors"),
    *("adapter_model.safetensors", "*.gguf", "*.bin"),
)


def create(url: str, folder: Path, model: str, modelfile: str, **flags: str) -> list[str]:
    """Run `ollama create` in `folder`; the lines that it is sent."""
    said = grammar.parse(modelfile)
    body: dict[str, Any] = {"model": model, "name": "", **flags}
    given: dict[str, dict[Path, str]] = {}
    for key, values in (("files", said.from_), ("adapters", said.adapters[-1:])):
        for value in values:
            path = folder / value
            if path.exists():
                given.setdefault(key, {}).update({each: digest(each) for each in files_of(path)})
            else:
                body["from"] = value
    for key, files in given.items():
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda path: send(url, path), files))
        names = names_of(list(files))
        body[key] = {names[path]: sent for path, sent in files.items()}
    body |= {key: text for key in ("template", "system") if (text := getattr(said, key))}
    parameters = merge_parameters(said.parameters, {})
    messages = [{"role": role, "content": text} for role, text in said.messages]
    texts = {"parameters": parameters, "messages": messages, "license": list(said.license)}
    body |= {key: value for key, value in texts.items() if value}
    answer = requests.post(f"{url}/api/create", json=body, timeout=60)
    return answer.text.splitlines()


def files_of(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    weights: list[Path] = next(
        found for pattern in WEIGHTS if (found := sorted(path.glob(pattern)))
    )
    beside = [*path.glob("*.json"), *path.glob("*/*.json"), *path.glob("chat_template.jinja")]
    return [*weights, *beside, *path.glob("tokenizer.model")]


def names_of(paths: list[Path]) -> dict[Path, str]:
    if len(paths) < 2:
        return {path: path.name for path in paths}
    root = Path(os.path.commonpath([path.parent for path in paths]))
    return {path: path.relative_to(root).as_posix() for path in paths}


def digest(path: Path) -> str:
    return f"sha256:{sha256(path.read_bytes()).hexdigest()}"


def send(url: str, path: Path) -> None:
    """As Go does: without asking before, and without a length."""

    def blocks() -> Iterator[bytes]:
        with path.open("rb") as file:
            while block := file.read(32 * 2**10):
                yield block

    answer = requests.post(f"{url}/api/blobs/{digest(path)}", data=blocks(), timeout=60)
    assert answer.status_code in (200, 201), answer.text

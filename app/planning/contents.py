"""What a zip or a model's folder holds, as far as its files' headers tell."""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO

from app.formats import gguf, safetensors
from app.formats.adapter_config import AdapterConfig, AdapterConfigError, read_adapter_config

PICKLES = (".bin", ".pt", ".ckpt", ".pth", ".pkl")
TEXT_BYTES = 2**20
_NOT_WEIGHTS = (".json", ".txt", ".md", ".jinja", ".model", ".safetensors", ".py", ".yaml", ".yml")
_SHARD = re.compile(r"(?P<prefix>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)


class Unusable(Exception):
    """The model can't work; the message names the file and the reason, `hint` the way out."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True)
class Source:
    """A file to look at: in a zip or a folder, opened for reading from its first byte on."""

    name: str
    size: int
    open: Callable[[], AbstractContextManager[BinaryIO]]

    def text(self) -> bytes:
        """The content of a small file. Raises Unusable where it is too large for what it is."""
        if self.size > TEXT_BYTES:
            raise Unusable(
                f"{self.name} is larger than {TEXT_BYTES} bytes, too large for its kind."
            )
        with self.open() as file:
            return file.read(TEXT_BYTES)


@dataclass(frozen=True)
class Gguf:
    """A GGUF file and its header; `kind` is `model`, `adapter` or `mmproj`."""

    name: str
    header: gguf.Header
    kind: str


@dataclass(frozen=True)
class Base:
    """A base model: one GGUF, or the shards of one in order."""

    files: tuple[Gguf, ...]

    @property
    def header(self) -> gguf.Header:
        return self.files[0].header

    @property
    def tensors(self) -> dict[str, gguf.Tensor]:
        """The tensors of all shards."""
        return {name: tensor for file in self.files for name, tensor in file.header.tensors.items()}

    @property
    def parameter_count(self) -> int:
        return sum(file.header.parameter_count for file in self.files)


@dataclass(frozen=True)
class SafetensorsModel:
    """A model folder in Hugging Face's layout; `files` are what Ollama's converter takes."""

    folder: str
    files: tuple[str, ...]
    architecture: str | None
    parameter_count: int


@dataclass(frozen=True)
class SafetensorsAdapter:
    """A PEFT adapter folder: its `adapter_config.json` and `adapter_model.safetensors`."""

    folder: str
    files: tuple[str, ...]
    config: AdapterConfig
    header: safetensors.Header

    @property
    def parameter_count(self) -> int:
        return self.header.parameter_count

    @property
    def architecture(self) -> None:
        """PEFT doesn't say; the base model does."""


@dataclass(frozen=True)
class Contents:
    """Everything usable that was found, and the names of what isn't."""

    bases: tuple[Base, ...] = ()
    adapters: tuple[Gguf, ...] = ()
    projectors: tuple[Gguf, ...] = ()
    models: tuple[SafetensorsModel, ...] = ()
    peft_adapters: tuple[SafetensorsAdapter, ...] = ()
    modelfile: str | None = None
    pickles: tuple[str, ...] = ()


def examine(sources: Iterable[Source]) -> Contents:
    """Look at every file's header. Raises Unusable for a weights file that is broken."""
    files = {source.name: source for source in sources}
    ggufs = [found for source in files.values() if (found := _read_gguf(source))]
    models, peft_adapters = _safetensors_folders(files)
    taken = {file.name for file in ggufs}
    return Contents(
        bases=tuple(_bases([file for file in ggufs if file.kind == "model"])),
        adapters=tuple(file for file in ggufs if file.kind == "adapter"),
        projectors=tuple(file for file in ggufs if file.kind == "mmproj"),
        models=tuple(models),
        peft_adapters=tuple(peft_adapters),
        modelfile=_read_modelfile(files),
        pickles=tuple(
            name for name in files if name.lower().endswith(PICKLES) and name not in taken
        ),
    )


def _read_gguf(source: Source) -> Gguf | None:
    """The file's header if it is a GGUF by name or by its first bytes."""
    lower = source.name.lower()
    named_so = lower.endswith(".gguf")
    if not named_so:
        if lower.endswith(_NOT_WEIGHTS):
            return None
        with source.open() as file:
            if file.read(4) != b"GGUF":
                return None
    try:
        with source.open() as file:
            header = gguf.read_header(file, source.size)
    except gguf.GGUFError as error:
        raise Unusable(f"{source.name} {error}.") from error
    kind = header.kind
    if not header.declares_kind and kind == "model" and "lora" in PurePosixPath(lower).name:
        kind = "adapter"
    return Gguf(source.name, header, kind)


def _bases(files: list[Gguf]) -> Iterator[Base]:
    """Each base model among the files: whole ones, and complete sets of shards."""
    sets: dict[tuple[str, int], dict[int, Gguf]] = defaultdict(dict)
    for file in files:
        match = _SHARD.fullmatch(file.name)
        split = file.header.shard
        if match is None and split is not None and split[1] > 1:
            raise Unusable(
                f"{file.name} is shard {split[0] + 1} of {split[1]} but isn't named like one.",
                f"Name it <prefix>-{split[0] + 1:05}-of-{split[1]:05}.gguf, as it was made.",
            )
        if match is None:
            yield Base((file,))
            continue
        number, count = int(match["number"]), int(match["count"])
        if split is not None and split != (number - 1, count):
            raise Unusable(
                f"{file.name} says inside that it is shard {split[0] + 1} of {split[1]}."
            )
        sets[match["prefix"], count][number] = file
    for (prefix, count), shards in sets.items():
        yield _whole_set(prefix, count, shards)


def _whole_set(prefix: str, count: int, shards: Mapping[int, Gguf]) -> Base:
    missing = [number for number in range(1, count + 1) if number not in shards]
    if missing or len(shards) != count:
        names = ", ".join(f"{prefix}-{number:05}-of-{count:05}.gguf" for number in missing[:5])
        raise Unusable(f"The shards of {prefix} aren't complete: {names} isn't in the zip.")
    base = Base(tuple(shards[number] for number in sorted(shards)))
    declared = base.header.metadata.get("split.tensors.count")
    if isinstance(declared, int) and declared != len(base.tensors):
        raise Unusable(
            f"The shards of {prefix} aren't of one set:"
            f" they hold {len(base.tensors)} tensors where {declared} belong."
        )
    return base


def _safetensors_folders(
    files: Mapping[str, Source],
) -> tuple[list[SafetensorsModel], list[SafetensorsAdapter]]:
    """The model and adapter folders in Hugging Face's layout."""
    folders: dict[str, list[str]] = defaultdict(list)
    for name in files:
        if name.lower().endswith(".safetensors"):
            folders[str(PurePosixPath(name).parent)].append(name)
    models, adapters = [], []
    for folder, weights in sorted(folders.items()):
        of_adapter = [name for name in weights if PurePosixPath(name).name.startswith("adapter_")]
        of_model = [name for name in weights if name not in of_adapter]
        if of_adapter:
            adapters.append(_peft_adapter(folder, of_adapter, files))
        if of_model:
            models.append(_safetensors_model(folder, of_model, files))
    return models, adapters


def _peft_adapter(
    folder: str, weights: list[str], files: Mapping[str, Source]
) -> SafetensorsAdapter:
    config_name = str(PurePosixPath(folder, "adapter_config.json"))
    if config_name not in files:
        raise Unusable(
            f"{weights[0]} has no adapter_config.json beside it.",
            "Zip the whole folder that PEFT's save_pretrained wrote.",
        )
    if len(weights) > 1:
        raise Unusable(f"{folder} holds several adapters: {', '.join(weights)}.")
    try:
        config = read_adapter_config(files[config_name].text())
    except AdapterConfigError as error:
        raise Unusable(f"{config_name} {error}.", error.hint) from error
    except safetensors.SafetensorsError as error:
        raise Unusable(f"{config_name} {error}.") from error
    return SafetensorsAdapter(
        folder, (config_name, weights[0]), config, _safetensors_header(files[weights[0]])
    )


def _safetensors_model(
    folder: str, weights: list[str], files: Mapping[str, Source]
) -> SafetensorsModel:
    config_name = str(PurePosixPath(folder, "config.json"))
    if config_name not in files:
        raise Unusable(
            f"{weights[0]} has no config.json beside it.",
            "Zip the whole folder that save_pretrained wrote, tokenizer files included.",
        )
    try:
        config = json.loads(files[config_name].text())
        architecture = (config.get("architectures") or [None])[0]
    except (ValueError, AttributeError, LookupError, TypeError) as error:
        raise Unusable(f"{config_name} isn't the JSON object of a model's config.") from error
    headers = [_safetensors_header(files[name]) for name in weights]
    companions = [
        name
        for name in map(PurePosixPath, files)
        if str(name.parent) == folder and _goes_along(name.name)
    ]
    return SafetensorsModel(
        folder,
        (*sorted(weights), *sorted(map(str, companions))),
        architecture if isinstance(architecture, str) else None,
        sum(header.parameter_count for header in headers),
    )


def _goes_along(name: str) -> bool:
    """Whether Ollama's own client sends a file of that name beside a model's weights.

    Source: Ollama, parser/parser.go, filesForModel.
    """
    if name.startswith("adapter_"):
        return False
    return name.endswith(".json") or name in ("tokenizer.model", "chat_template.jinja")


def _safetensors_header(source: Source) -> safetensors.Header:
    try:
        with source.open() as file:
            return safetensors.read_header(file, source.size)
    except safetensors.SafetensorsError as error:
        raise Unusable(f"{source.name} {error}.") from error


def _read_modelfile(files: Mapping[str, Source]) -> str | None:
    source = next((files[name] for name in files if name.lower() == "modelfile"), None)
    if source is None:
        return None
    try:
        return source.text().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unusable(f"{source.name} isn't UTF-8 text.") from error

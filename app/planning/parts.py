"""The parts that a model is made of; each kind answers the same questions."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, ClassVar

from app.formats import safetensors
from app.formats.files import ModelFile
from app.modelfile.templates import Chat


@dataclass(frozen=True, kw_only=True)
class Part(ABC):
    """A base model, an adapter or a projector.

    `kind` is what reports call it. `files` are all its files; `folder` is the folder that they are
    in, where a Modelfile names that and not the files. What the files don't say is None.
    """

    kind: ClassVar[str]
    files: tuple[ModelFile, ...]
    folder: str | None = None

    @property
    @abstractmethod
    def architecture(self) -> str | None:
        """As GGUF's `general.architecture` spells it."""

    @property
    @abstractmethod
    def parameter_count(self) -> int: ...

    @property
    def quantization(self) -> str | None:
        """The type of most weights, as llama.cpp and Ollama call it."""
        return None

    @property
    def context_length(self) -> int | None:
        """In tokens."""
        return None

    @property
    def label(self) -> str:
        """The name of the file that stands for the part."""
        return self.files[0].name

    def header_bytes(self, file: ModelFile) -> int:
        """How many bytes of `file`, one of its own, say all but its tensors' values."""
        if file.name.lower().endswith(".safetensors"):
            with file.open() as stream:
                return safetensors.header_bytes(stream)
        return file.size

    def facts(self) -> dict[str, Any]:
        """What the part is, for reports."""
        return {
            "architecture": self.architecture,
            "parameter_count": self.parameter_count,
            "quantization": self.quantization,
            "context_length": self.context_length,
        }

    def stated(self) -> list[str]:
        """How a Modelfile in the model's folder says it, after FROM or ADAPTER."""
        owner = self.files[0].model
        start = "." if owner is None else f"../{owner}"
        names = [file.name for file in self.files] if self.folder is None else [self.folder]
        return [f"{start}/{name}".removesuffix("/.") for name in names]

    def sent(self) -> dict[str, ModelFile]:
        """The files by their names in Ollama's create request."""
        if self.folder is None:
            return plainly_named(self.files)
        return {str(PurePosixPath(file.name).relative_to(self.folder)): file for file in self.files}


@dataclass(frozen=True, kw_only=True)
class Base(Part):
    """A base model. `is_gguf` says whether it is one already."""

    kind = "base"
    is_gguf: ClassVar[bool]

    @property
    def is_convertible(self) -> bool:
        """Whether a GGUF can be made of it here."""
        return self.is_gguf

    @property
    @abstractmethod
    def chat(self) -> Chat:
        """What its files tell of how it chats."""

    @abstractmethod
    def check(self) -> None:
        """Raise Unusable where its headers show that it can't run."""

    def problems(self) -> list[str]:
        """Sentences on what is odd about it and may still work."""
        return []

    def for_any_converter(self) -> "Base":
        """The same with the files that others than Ollama's own converter read."""
        return self


@dataclass(frozen=True, kw_only=True)
class Adapter(Part):
    """A LoRA adapter. `base_name` is what it calls the model that it was made for; `beside` are the
    tokenizer's files that were saved with it."""

    kind = "adapter"
    beside: tuple[ModelFile, ...] = ()

    def replaced(self, change: Callable[[ModelFile], ModelFile]) -> "Adapter":
        """The same with each file changed."""
        files, beside = tuple(map(change, self.files)), tuple(map(change, self.beside))
        return replace(self, files=files, beside=beside)

    @property
    @abstractmethod
    def base_name(self) -> str | None: ...

    @abstractmethod
    def check(self) -> None:
        """Raise Unusable where its config shows that it can't be put on any base."""

    @abstractmethod
    def check_fits(self, base: Base) -> None:
        """Raise Unusable where the headers of both show that they don't belong together."""

    @abstractmethod
    def why_not_sent(self, architecture: str | None) -> str | None:
        """Why an Ollama that takes adapters can't be sent this one, for a base of that
        architecture; None where it can."""


def plainly_named(files: Iterable[ModelFile]) -> dict[str, ModelFile]:
    """The files by base names that every Ollama takes: ASCII letters, digits, dots, hyphens and
    underscores; each name once."""
    named: dict[str, ModelFile] = {}
    for file in files:
        plain = re.sub(r"[^A-Za-z0-9._-]", "_", PurePosixPath(file.name).name)
        name, number = plain, 1
        while name in named:
            number += 1
            name = f"{number}-{plain}"
        named[name] = file
    return named

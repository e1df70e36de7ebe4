"""The parts that a model is made of; each kind answers the same questions."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, ClassVar

from app.formats import gguf, safetensors
from app.formats.adapter_config import AdapterConfig, ollama_understands
from app.formats.files import ModelFile
from app.formats.lora_gguf import check_adapter_fits
from app.modelfile.templates import Chat
from app.planning import checks
from app.planning.unusable import Unusable

# What Ollama's own converter for adapters knows. Source: Ollama, convert/convert.go, v0.34.0.
CONVERTED_BY_OLLAMA = ("llama", "gemma2")
# transformers' classes that are converted here, by GGUF's architecture; a test checks this against
# the converter's own table.
CONVERTIBLE: Mapping[str, tuple[str, ...]] = {
    "llama": (
        *("LlamaForCausalLM", "LLaMAForCausalLM", "MistralForCausalLM", "MixtralForCausalLM"),
    ),
    "granite": ("GraniteForCausalLM",),
    "smollm3": ("SmolLM3ForCausalLM",),
    "mistral3": ("Mistral3ForConditionalGeneration", "Ministral3ForCausalLM"),
    "qwen2": ("Qwen2ForCausalLM",),
    "qwen3": ("Qwen3ForCausalLM",),
    "qwen2moe": ("Qwen2MoeForCausalLM",),
    "qwen3moe": ("Qwen3MoeForCausalLM",),
    "qwen35": ("Qwen3_5ForCausalLM", "Qwen3_5ForConditionalGeneration"),
    "gemma": ("GemmaForCausalLM",),
    "gemma2": ("Gemma2ForCausalLM",),
    "gemma3": ("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
    "gemma4": ("Gemma4ForCausalLM", "Gemma4ForConditionalGeneration"),
    "gpt-oss": ("GptOssForCausalLM",),
    "phi3": ("Phi3ForCausalLM",),
    "olmo2": ("Olmo2ForCausalLM",),
}
_ARCHITECTURES = {name: each for each, names in CONVERTIBLE.items() for name in names}


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


@dataclass(frozen=True, kw_only=True)
class GgufModel(Base):
    """A base model in GGUF: one file, or its shards in order."""

    headers: tuple[gguf.Header, ...]
    is_gguf = True

    @property
    def header(self) -> gguf.Header:
        """The first file's, which has the metadata."""
        return self.headers[0]

    @cached_property
    def tensors(self) -> Mapping[str, gguf.Tensor]:
        """Those of all shards."""
        return {name: tensor for header in self.headers for name, tensor in header.tensors.items()}

    @property
    def architecture(self) -> str | None:
        return self.header.architecture

    @property
    def parameter_count(self) -> int:
        return sum(header.parameter_count for header in self.headers)

    @property
    def quantization(self) -> str:
        return self.header.quantization if self.header.tensors else self.headers[-1].quantization

    @property
    def context_length(self) -> int | None:
        return self.header.context_length

    @property
    def chat(self) -> Chat:
        return checks.chat(self.header)

    def header_bytes(self, file: ModelFile) -> int:
        return self.headers[self.files.index(file)].data_offset

    def check(self) -> None:
        checks.check_runs(self.label, self.header, self.tensors)

    def problems(self) -> list[str]:
        return checks.oddities(self.label, self.header)


@dataclass(frozen=True, kw_only=True)
class SafetensorsModel(Base):
    """A model folder in Hugging Face's layout: weights, config, tokenizer.

    `files` are those that Ollama's converter reads, `beside` what only others do. `class_name` is
    the first of the config's `architectures`.
    """

    class_name: str | None
    tensor_parameters: int
    how_it_chats: Chat
    quantized_by: str | None = None
    beside: tuple[ModelFile, ...] = ()
    is_gguf = False

    @property
    def architecture(self) -> str | None:
        return _ARCHITECTURES.get(self.class_name or "", self.class_name)

    @property
    def is_convertible(self) -> bool:
        return self.class_name in _ARCHITECTURES

    @property
    def parameter_count(self) -> int:
        return self.tensor_parameters

    @property
    def chat(self) -> Chat:
        return replace(self.how_it_chats, architecture=self.architecture)

    def for_any_converter(self) -> Base:
        return replace(self, files=(*self.files, *self.beside), beside=())

    def check(self) -> None:
        if self.quantized_by is not None:
            raise Unusable(
                f"{self.label} is quantized already, by {self.quantized_by}: that can't become a"
                " GGUF.",
                checks.SAVE_16_BIT.get(self.quantized_by, checks.SAVE_16_BIT_ANYHOW),
            )


@dataclass(frozen=True, kw_only=True)
class GgufAdapter(Adapter):
    """A LoRA adapter in GGUF."""

    header: gguf.Header

    @property
    def architecture(self) -> str | None:
        return self.header.architecture

    @property
    def parameter_count(self) -> int:
        return self.header.parameter_count

    @property
    def quantization(self) -> str:
        return self.header.quantization

    @property
    def context_length(self) -> int | None:
        return self.header.context_length

    @property
    def base_name(self) -> str | None:
        return self.header.base_model

    def header_bytes(self, file: ModelFile) -> int:
        return self.header.data_offset

    def check(self) -> None:
        """Nothing is known without a base."""

    def check_fits(self, base: Base) -> None:
        if isinstance(base, GgufModel):
            try:
                check_adapter_fits(base.headers, self.header)
            except gguf.GGUFError as error:
                raise Unusable(f"{self.label} {error}.") from error

    def why_not_sent(self, architecture: str | None) -> str | None:
        return None


@dataclass(frozen=True, kw_only=True)
class SafetensorsAdapter(Adapter):
    """A LoRA adapter in safetensors: `files` are its config and its weights."""

    config: AdapterConfig
    header: safetensors.Header

    @property
    def label(self) -> str:
        return self.files[1].name

    @property
    def architecture(self) -> None:
        """Its config doesn't say; the base model does."""

    @property
    def parameter_count(self) -> int:
        return self.header.parameter_count

    @property
    def base_name(self) -> str | None:
        return self.config.base_model_name_or_path

    def check(self) -> None:
        if self.config.peft_type != "LORA":
            raise Unusable(f"{self.files[0].name}: {self.config.peft_type} isn't a LoRA adapter.")

    def check_fits(self, base: Base) -> None:
        """Its names and shapes are those of another layout: whoever merges it checks them."""

    def why_not_sent(self, architecture: str | None) -> str | None:
        if architecture not in CONVERTED_BY_OLLAMA:
            return f"Ollama doesn't convert safetensors adapters for {architecture}."
        return ollama_understands(self.config, self.header.tensors)


@dataclass(frozen=True, kw_only=True)
class Projector(Part):
    """What turns images into a base model's embeddings: Ollama's and llama.cpp's `mmproj`."""

    kind = "mmproj"
    header: gguf.Header

    @property
    def architecture(self) -> str | None:
        return self.header.architecture

    @property
    def parameter_count(self) -> int:
        return self.header.parameter_count


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

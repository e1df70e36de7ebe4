"""The parts of a model that are GGUF files: told from each other, and put together from shards."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath

from app.formats import gguf
from app.formats.files import ModelFile
from app.formats.lora_gguf import check_adapter_fits
from app.modelfile.templates import Chat
from app.planning import checks
from app.planning.parts import Adapter, Base, Part
from app.planning.unusable import Unusable

_NOT_WEIGHTS = (".json", ".txt", ".md", ".jinja", ".model", ".safetensors", ".py", ".yaml", ".yml")
_SHARD = re.compile(r"(?P<prefix>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class GgufPart(Part):
    """A part whose `files` are GGUF, with the `headers` of all of them."""

    headers: tuple[gguf.Header, ...]

    @property
    def header(self) -> gguf.Header:
        """The first file's, which has the metadata."""
        return self.headers[0]

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

    def header_bytes(self, file: ModelFile) -> int:
        return self.headers[self.files.index(file)].data_offset


@dataclass(frozen=True, kw_only=True)
class GgufModel(GgufPart, Base):
    """A base model in GGUF: one file, or its shards in order."""

    is_gguf = True

    @cached_property
    def tensors(self) -> Mapping[str, gguf.Tensor]:
        """Those of all shards."""
        return {name: tensor for header in self.headers for name, tensor in header.tensors.items()}

    @property
    def chat(self) -> Chat:
        return checks.chat(self.header)

    def check(self) -> None:
        checks.check_runs(self.label, self.header, self.tensors)

    def problems(self) -> list[str]:
        return checks.oddities(self.label, self.header)


@dataclass(frozen=True, kw_only=True)
class GgufAdapter(GgufPart, Adapter):
    """A LoRA adapter in GGUF."""

    @property
    def base_name(self) -> str | None:
        return self.header.base_model

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
class Projector(GgufPart):
    """What turns images into a base model's embeddings: Ollama's and llama.cpp's `mmproj`."""

    kind = "mmproj"


def read_gguf(file: ModelFile) -> gguf.Header | None:
    """The file's header if it is a GGUF by name or by its first bytes."""
    lower = file.name.lower()
    if not lower.endswith(".gguf"):
        if lower.endswith(_NOT_WEIGHTS):
            return None
        with file.open() as stream:
            if stream.read(4) != b"GGUF":
                return None
    try:
        with file.open() as stream:
            return gguf.read_header(stream, file.size)
    except gguf.GGUFError as error:
        raise Unusable(f"{file.name} {error}.") from error


def kind_of(file: ModelFile, header: gguf.Header) -> str:
    """`model`, `adapter`, `mmproj` or `imatrix`; what doesn't say is told by its name."""
    if header.text("general.type") == "imatrix" or "imatrix.chunk_count" in header.metadata:
        return "imatrix"
    by_name = "lora" in PurePosixPath(file.name).name.lower()
    if header.kind == "model" and not header.declares_kind and by_name:
        return "adapter"
    return header.kind


def gguf_models(files: Iterable[tuple[ModelFile, gguf.Header]]) -> Iterator[GgufModel]:
    """Each base model among the files: whole ones, and complete sets of shards."""
    sets: dict[tuple[str, int], dict[int, tuple[ModelFile, gguf.Header]]] = defaultdict(dict)
    for file, header in files:
        match = _SHARD.fullmatch(file.name)
        split = header.shard
        if match is None and split is not None and split[1] > 1:
            raise Unusable(
                f"{file.name} is shard {split[0] + 1} of {split[1]} but isn't named like one.",
                f"Name it <prefix>-{split[0] + 1:05}-of-{split[1]:05}.gguf, as it was made.",
            )
        if match is None:
            yield GgufModel(files=(file,), headers=(header,))
            continue
        number, count = int(match["number"]), int(match["count"])
        if split is not None and split != (number - 1, count):
            raise Unusable(
                f"{file.name} says inside that it is shard {split[0] + 1} of {split[1]}."
            )
        sets[match["prefix"], count][number] = file, header
    for (prefix, count), shards in sets.items():
        yield _joined(prefix, count, shards)


def _joined(
    prefix: str, count: int, shards: Mapping[int, tuple[ModelFile, gguf.Header]]
) -> GgufModel:
    if set(shards) != set(range(1, count + 1)):
        missing = [number for number in range(1, count + 1) if number not in shards][:5]
        names = ", ".join(f"{prefix}-{number:05}-of-{count:05}.gguf" for number in missing)
        raise Unusable(f"The shards of {prefix} aren't complete: {names} isn't in the zip.")
    in_order = [shards[number] for number in sorted(shards)]
    model = GgufModel(
        files=tuple(file for file, _ in in_order), headers=tuple(header for _, header in in_order)
    )
    declared = model.header.metadata.get("split.tensors.count")
    if isinstance(declared, int) and declared != len(model.tensors):
        raise Unusable(
            f"The shards of {prefix} aren't of one set:"
            f" they hold {len(model.tensors)} tensors where {declared} belong."
        )
    return model

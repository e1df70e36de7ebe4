"""Which of the files in a zip make the one model that it is."""

from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from app.formats import gguf
from app.modelfile import grammar as modelfile
from app.modelfile.grammar import Modelfile
from app.ollama.client import InvalidName, check_name
from app.planning.contents import (
    Base,
    Contents,
    Gguf,
    SafetensorsAdapter,
    SafetensorsModel,
    Unusable,
)


@dataclass(frozen=True)
class Selection:
    """The one model that the contents make: a base, an adapter, or both.

    `from_` is the Ollama model that a Modelfile in the zip names as the base.
    """

    base: Base | SafetensorsModel | None = None
    projector: Gguf | None = None
    adapter: Gguf | SafetensorsAdapter | None = None
    from_: str | None = None
    modelfile: Modelfile | None = None

    def facts(self) -> dict[str, Any]:
        """What the model is, for its report; None where its files don't say."""
        kinds = {"base": self.base, "mmproj": self.projector, "adapter": self.adapter}
        facts: dict[str, Any] = {
            "kind": "+".join(kind for kind, part in kinds.items() if part is not None),
            "architecture": None,
            "parameter_count": None,
            "quantization": None,
            "context_length": None,
        }
        main = self.base or self.adapter
        if isinstance(main, Base):
            facts |= _gguf_facts(main.header) | {"parameter_count": main.parameter_count}
        elif isinstance(main, Gguf):
            facts |= _gguf_facts(main.header)
        elif main is not None:
            facts |= {"parameter_count": main.parameter_count, "architecture": main.architecture}
        return facts

    def files(self) -> dict[str, str]:
        """Kind of each file that is part of the model, by name."""
        kinds: dict[str, str] = {}
        if isinstance(self.base, Base):
            kinds |= {file.name: "base" for file in self.base.files}
        elif self.base is not None:
            kinds |= dict.fromkeys(self.base.files, "base")
        if self.projector is not None:
            kinds[self.projector.name] = "mmproj"
        if isinstance(self.adapter, Gguf):
            kinds[self.adapter.name] = "adapter"
        elif self.adapter is not None:
            kinds |= dict.fromkeys(self.adapter.files, "adapter")
        return kinds


def with_base(selection: Selection, base: Selection, name: str | None) -> Selection:
    """An adapter's selection with the base model of another one, which Ollama calls `name`, if it
    has it. Raises Unusable where they don't fit."""
    both = replace(selection, base=base.base, projector=base.projector, from_=name)
    if base.base is None:
        raise Unusable(f"{label(selection.adapter)} can't be put on a model without a base.")
    _check_parts(both)
    return both


def _gguf_facts(header: gguf.Header) -> dict[str, Any]:
    return {
        "architecture": header.architecture,
        "parameter_count": header.parameter_count,
        "quantization": header.quantization,
        "context_length": header.context_length,
    }


def select(contents: Contents) -> Selection:
    """Choose the parts that make one model. Raises Unusable where they don't, or make several."""
    if contents.modelfile is not None:
        return _select_by_modelfile(contents, contents.modelfile)
    bases: list[Base | SafetensorsModel] = [*contents.bases, *contents.models]
    adapters: list[Gguf | SafetensorsAdapter] = [*contents.adapters, *contents.peft_adapters]
    for found, what in ((bases, "base models"), (adapters, "adapters")):
        if len(found) > 1:
            raise Unusable(
                f"Found {len(found)} {what}: {', '.join(map(label, found))}.",
                "Zip one of each, or add a Modelfile whose FROM and ADAPTER say which.",
            )
    if len(contents.projectors) > 1:
        names = ", ".join(file.name for file in contents.projectors)
        raise Unusable(f"Found {len(contents.projectors)} mmproj files: {names}.")
    if not bases and not adapters:
        raise _nothing_usable(contents)
    selection = Selection(
        base=bases[0] if bases else None,
        projector=contents.projectors[0] if contents.projectors else None,
        adapter=adapters[0] if adapters else None,
    )
    _check_parts(selection)
    return selection


def _select_by_modelfile(contents: Contents, text: str) -> Selection:
    """Choose what the zip's own Modelfile names."""
    try:
        own = modelfile.parse(text)
    except modelfile.ModelfileError as error:
        raise Unusable(f"The zip's Modelfile can't be read: {error}") from error
    if own.draft is not None:
        raise Unusable(
            "The zip's Modelfile has a DRAFT, which this service doesn't send.",
            "Leave DRAFT out, or create the model with `ollama create`.",
        )
    parts: dict[str, Any] = {}
    by_name: dict[str, tuple[str, Any]] = {}
    for base in contents.bases:
        by_name |= {file.name: ("base", base) for file in base.files}
    by_name |= {model.folder: ("base", model) for model in contents.models}
    by_name |= {file.name: ("projector", file) for file in contents.projectors}
    by_name |= {file.name: ("adapter", file) for file in contents.adapters}
    for peft in contents.peft_adapters:
        by_name |= dict.fromkeys((peft.folder, *peft.files), ("adapter", peft))
    for instruction, value in (
        *(("FROM", value) for value in own.from_),
        *(("ADAPTER", value) for value in own.adapters[-1:]),
    ):
        role, part = by_name.get(_path_in_zip(instruction, value), (None, None))
        if role is None and instruction == "FROM" and not value.startswith("."):
            role, part = "from_", ollama_name(value)
        if role is None or (instruction == "ADAPTER") != (role == "adapter"):
            raise Unusable(
                f"The zip's Modelfile says {instruction} {value}, which is no"
                f" {'adapter' if instruction == 'ADAPTER' else 'base model'} in the zip.",
                f"There are: {', '.join(sorted(by_name)) or 'no usable files'}.",
            )
        if parts.get(role, part) is not part:
            raise Unusable(f"The zip's Modelfile names more than one {role}.")
        parts[role] = part
    selection = Selection(modelfile=own, **parts)
    _check_parts(selection)
    return selection


def _path_in_zip(instruction: str, value: str) -> str:
    path = PurePosixPath(value)
    if path.is_absolute() or ".." in path.parts or value.startswith("~") or "\\" in value:
        raise Unusable(
            f"The zip's Modelfile says {instruction} {value}, which points out of the zip.",
            "Name a file in the zip, relative to the Modelfile, or a model that Ollama has.",
        )
    return str(path)


def ollama_name(value: str) -> str | None:
    """`value` if it can be a model's name on Ollama."""
    try:
        return check_name(value)
    except InvalidName:
        return None


def _check_parts(selection: Selection) -> None:
    base, adapter = selection.base, selection.adapter
    if isinstance(adapter, SafetensorsAdapter) and adapter.config.peft_type != "LORA":
        raise Unusable(f"{adapter.files[0]}: {adapter.config.peft_type} isn't a LoRA adapter.")
    if isinstance(base, Base) and isinstance(adapter, Gguf):
        try:
            gguf.check_adapter_fits([file.header for file in base.files], adapter.header)
        except gguf.GGUFError as error:
            raise Unusable(f"{adapter.name} {error}.") from error
    if selection.projector is not None and not isinstance(base, Base):
        raise Unusable(
            f"{selection.projector.name} is a projector (mmproj) without its base model.",
            "Add the base model's GGUF to the zip.",
        )


def _nothing_usable(contents: Contents) -> Unusable:
    if contents.pickles:
        return Unusable(
            f"The only weights found are Python pickles: {', '.join(contents.pickles[:5])}.",
            "Pickles can run code and are not taken. Save as safetensors, or convert to GGUF.",
        )
    return Unusable(
        "Found no model that could be used.",
        "It needs a GGUF base model or LoRA adapter, or a safetensors folder with its config.json.",
    )


def label(part: Base | Gguf | SafetensorsModel | SafetensorsAdapter | None) -> str:
    """The name of the file that stands for a part."""
    if part is None:
        return "nothing"
    if isinstance(part, Base):
        return part.files[0].name
    return part.name if isinstance(part, Gguf) else part.files[0]

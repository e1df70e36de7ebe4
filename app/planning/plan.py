"""What becomes of a model's contents: the Modelfile, and the request that creates it on Ollama."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from app.modelfile import grammar as modelfile
from app.modelfile.templates import Templates
from app.ollama.client import Ollama
from app.planning.bases import CONVERT_LORA, PEFT_ARCHITECTURES, base_on_ollama, require_convertible
from app.planning.contents import Base, Gguf, SafetensorsAdapter, SafetensorsModel, Unusable
from app.planning.options import Options
from app.planning.selection import Selection
from app.service.merging import Merge

CONVERT_MODEL = "python convert_hf_to_gguf.py <folder> --outfile model.gguf"
UNQUANTIZED = ("F16", "BF16", "F32")
# Run by Ollama's own engine, which had no adapters: 0.12 creates such a model, and fails to chat.
# Source: Ollama, fs/ggml/ggml.go, OllamaEngineRequired.
NO_ADAPTERS_BEFORE_0_30 = frozenset(
    ("bert", "deepseek2", "deepseekocr", "gemma3", "gemma3n", "gptoss", "gpt-oss", "lfm2")
    + ("lfm2moe", "llama4", "mistral3", "mllama", "nomic-bert", "olmo3", "qwen25vl", "qwen3")
    + ("qwen3moe", "qwen3next", "qwen3vl", "qwen3vlmoe")
)


@dataclass(frozen=True)
class Plan:
    """How a model's folder becomes a model on Ollama.

    `files` and `adapters` map the name in the create request to the file's name in the folder;
    `from_` is the Ollama model used as the base instead of files. Where there is a `merge`, it has
    to be done first, and its result takes the place of base and adapter.
    """

    modelfile: str
    template: str | None
    reason: str
    files: Mapping[str, str]
    adapters: Mapping[str, str]
    from_: str | None = None
    quantize: str | None = None
    merge: Merge | None = None

    def way(self) -> dict[str, Any]:
        """How the adapter reaches Ollama, and why so: for reports and verbose lines."""
        if self.merge is not None:
            return {"adapter": "merged", "adapter_reason": self.merge.reason}
        if self.adapters:
            return {"adapter": "sent", "adapter_reason": "This Ollama server takes adapters."}
        return {"adapter": None, "adapter_reason": None}

    def with_merged(self, name: str) -> "Plan":
        """The same, once the merge is done and its file is called `name` in the folder."""
        return replace(self, files={"model.gguf": name, **self.files}, merge=None)

    def needed(self) -> list[str]:
        """The names of the folder's files that Ollama needs."""
        return [*self.files.values(), *self.adapters.values()]

    def request(self, new_name: str, digests: Mapping[str, str]) -> dict[str, Any]:
        """The body of Ollama's create request; `digests` are sha256 (hex) by file name."""
        return modelfile.create_request(
            modelfile.parse(self.modelfile),
            new_name,
            files={name: f"sha256:{digests[file]}" for name, file in self.files.items()},
            adapters={name: f"sha256:{digests[file]}" for name, file in self.adapters.items()},
            from_=self.from_,
            quantize=self.quantize,
        )


def make_plan(
    selection: Selection, options: Options, templates: Templates, server: Ollama | None
) -> Plan:
    """Decide how a selection becomes a model, on `server` where one is asked.

    Raises Unusable for what can't work, BadRequest or ModelfileError for fields that don't fit.
    """
    from_ = base_on_ollama(selection, options, server)
    reason = _reason_to_merge(selection, options, server)
    merge = _merge(selection, options, reason) if reason else None
    if server is not None:
        _check_server(selection, options, merge, server)
    if isinstance(selection.base, Base):
        _check_quantize(selection.base.header.quantization, options)
    text, template, why = _render(selection, options, templates, from_)
    projector = [selection.projector.name] if selection.projector else []
    return Plan(
        modelfile=text,
        template=template,
        reason=why,
        files={_plain(name): name for name in projector} if merge else _base_files(selection),
        adapters={} if merge else _adapter_files(selection),
        from_=from_,
        quantize=options.quantize,
        merge=merge,
    )


def _reason_to_merge(selection: Selection, options: Options, server: Ollama | None) -> str | None:
    """Why the adapter has to be merged before it is sent; None where it needn't be."""
    if selection.adapter is None or options.merge == "never":
        return None
    if options.merge == "always":
        return "Merging was asked for."
    if options.adapter_scale != 1:
        return "Ollama knows no scale for an adapter."
    if server is None:
        return None
    if not server.takes_adapters():
        return f"This Ollama server (version {server.version()}) no longer takes adapters."
    architecture = _base_architecture(selection.base) if selection.base else None
    if architecture in NO_ADAPTERS_BEFORE_0_30 and _is_before_0_30(server.version()):
        return f"Ollama before 0.30 takes adapters for {architecture}, but can't run them."
    is_peft = isinstance(selection.adapter, SafetensorsAdapter)
    if is_peft and isinstance(selection.base, Base) and architecture not in PEFT_ARCHITECTURES:
        return f"Ollama doesn't convert safetensors adapters for {architecture}."
    return None


def _is_before_0_30(version: str) -> bool:
    match = re.match(r"(\d+)\.(\d+)", version)
    return match is not None and (int(match[1]), int(match[2])) < (0, 30)


def _merge(selection: Selection, options: Options, reason: str) -> Merge:
    """What is to be merged. Raises Unusable where that can't work."""
    base, adapter = selection.base, selection.adapter
    if not isinstance(base, Base):
        what = "a safetensors model" if base else "a model that only Ollama has"
        raise Unusable(
            f"{reason} The adapter would have to be merged, but its base is {what}.",
            "Put the base model's GGUF into the zip, or upload it here as a model of its own and"
            " name that one in the field 'from'.",
        )
    config = None
    if isinstance(adapter, SafetensorsAdapter):
        from app.weights.merge import (
            MergeError,  # numpy and what it needs are only loaded where they are
        )
        from app.weights.peft import peft_pairs  # used: they take more memory than all the rest

        config, weights = adapter.files
        try:
            headers = [file.header for file in base.files]
            peft_pairs(Path(weights), adapter.header, adapter.config, headers)
        except MergeError as error:
            raise Unusable(
                f"{weights}: {error}",
                f"Or convert it to GGUF with llama.cpp: {CONVERT_LORA}",
            ) from error
    else:
        assert adapter is not None
        weights = adapter.name
    names = tuple(file.name for file in base.files)
    return Merge(names, weights, config, options.adapter_scale, reason)


def _check_server(
    selection: Selection, options: Options, merge: Merge | None, server: Ollama
) -> None:
    """Raise Unusable for what this server no longer takes."""
    sends_adapter = selection.adapter is not None and merge is None
    converts = isinstance(selection.base, SafetensorsModel)
    if not (sends_adapter or converts or options.quantize):
        return
    if server.takes_adapters():
        if sends_adapter and isinstance(selection.adapter, SafetensorsAdapter) and selection.base:
            require_convertible(selection.adapter, _base_architecture(selection.base))
        return
    this_server = f"This Ollama server (version {server.version()})"
    if sends_adapter:
        raise Unusable(
            f"{this_server} no longer takes LoRA adapters.",
            "Send merge=auto, and the adapter is merged into its base before it is sent.",
        )
    if converts:
        raise Unusable(
            f"{this_server} doesn't convert safetensors models.",
            f"Convert the model to GGUF with llama.cpp: {CONVERT_MODEL}",
        )
    raise Unusable(
        f"{this_server} no longer quantizes GGUF models.",
        "Quantize it with llama.cpp's llama-quantize before zipping, and leave 'quantize' out.",
    )


def _base_architecture(base: Base | SafetensorsModel) -> str | None:
    if isinstance(base, Base):
        return base.header.architecture
    known = {"LlamaForCausalLM": "llama", "Gemma2ForCausalLM": "gemma2"}
    return known.get(base.architecture or "", base.architecture)


def _check_quantize(quantization: str, options: Options) -> None:
    if options.quantize is not None and quantization not in UNQUANTIZED:
        raise Unusable(
            f"The model is {quantization} already; only {', '.join(UNQUANTIZED)} can be quantized.",
            "Leave the field 'quantize' out, or zip the unquantized model.",
        )


def _base_files(selection: Selection) -> dict[str, str]:
    """The base's files: name in the request to name in the folder."""
    if isinstance(selection.base, SafetensorsModel):
        return _relative(selection.base.folder, selection.base.files)
    files = list(selection.base.files) if selection.base else []
    if selection.projector:
        files.append(selection.projector)
    return {_plain(file.name): file.name for file in files}


def _adapter_files(selection: Selection) -> dict[str, str]:
    """The adapter's files: name in the request to name in the folder."""
    adapter = selection.adapter
    if adapter is None:
        return {}
    if isinstance(adapter, Gguf):
        return {_plain(adapter.name): adapter.name}
    return _relative(adapter.folder, adapter.files)


def _relative(folder: str, names: Iterable[str]) -> dict[str, str]:
    return {str(PurePosixPath(name).relative_to(folder)): name for name in names}


def _plain(name: str) -> str:
    """A base name that every Ollama takes: ASCII letters, digits, dot, hyphen, underscore."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", PurePosixPath(name).name)


def _render(
    selection: Selection, options: Options, templates: Templates, from_: str | None
) -> tuple[str, str | None, str]:
    """The Modelfile's text, the template's name, and why that one."""
    own = selection.modelfile
    on_ollama = from_ or selection.from_
    base = [on_ollama] if on_ollama else _from_paths(selection)
    adapter = _adapter_path(selection.adapter)
    if options.modelfile is not None:
        _check_given(options.modelfile, base, adapter)
        return options.modelfile, None, "The Modelfile was given."
    values: dict[str, Any] = {
        "base": base,
        "adapter": adapter,
        "system": options.system or (own and own.system),
        "template": options.template or (own and own.template),
        "parameters": modelfile.merge_parameters(
            own.parameters if own else (), modelfile.check_parameters(options.parameters)
        ),
        "license": [options.license] if options.license else own and own.license,
        "messages": own and own.messages,
        "renderer": own and own.renderer,
        "parser": own and own.parser,
        "requires": own and own.requires,
    }
    name, reason = _template_choice(selection, options, templates, values)
    return templates.render(name, values), name, reason


def _check_given(text: str, base: list[str], adapter: str | None) -> None:
    """Raise ModelfileError unless a Modelfile is about this base and adapter, and can be sent."""
    said = modelfile.parse(text)
    adapters = [adapter] if adapter else []
    if [*said.from_] != base or [*said.adapters] != adapters:
        right = [*(f"FROM {path}" for path in base), *(f"ADAPTER {path}" for path in adapters)]
        raise modelfile.ModelfileError(
            f"The Modelfile's FROM and ADAPTER have to stay as they are: {', '.join(right)}."
        )
    if said.draft is not None:
        raise modelfile.ModelfileError(
            "The Modelfile has a DRAFT, which this service doesn't send."
        )
    modelfile.merge_parameters(said.parameters, {})


def _template_choice(
    selection: Selection, options: Options, templates: Templates, values: Mapping[str, Any]
) -> tuple[str, str]:
    if options.modelfile_template is not None:
        return options.modelfile_template, "The request names it."
    if values["template"]:
        return "default", "The template text was given."
    if not isinstance(selection.base, Base):
        return "default", "Ollama keeps or finds the base's own chat template."
    header = selection.base.header
    return templates.choose(header.architecture, header.has_chat_template, header.special_tokens)


def _from_paths(selection: Selection) -> list[str]:
    if isinstance(selection.base, SafetensorsModel):
        return [_path(selection.base.folder)]
    return [_path(name) for name in _base_files(selection).values()]


def _adapter_path(adapter: Gguf | SafetensorsAdapter | None) -> str | None:
    if adapter is None:
        return None
    return _path(adapter.name if isinstance(adapter, Gguf) else adapter.folder)


def _path(name: str) -> str:
    return "." if name == "." else f"./{name}"

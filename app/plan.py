"""What becomes of a model's contents: the Modelfile, and the request that creates it on Ollama."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from app import modelfile
from app.contents import Base, Gguf, SafetensorsAdapter, SafetensorsModel, Unusable
from app.modelfile_templates import Templates
from app.ollama import ModelMissing, Ollama, check_name
from app.requested import BadRequest, Options
from app.selection import Selection, label, ollama_name

CONVERT_MODEL = "python convert_hf_to_gguf.py <folder> --outfile model.gguf"
CONVERT_LORA = "python convert_lora_to_gguf.py <folder> --base <base model folder>"
UNQUANTIZED = ("F16", "BF16", "F32")
PEFT_ARCHITECTURES = ("llama", "gemma2")


@dataclass(frozen=True)
class Plan:
    """How a model's folder becomes a model on Ollama.

    `files` and `adapters` map the name in the create request to the file's name in the folder;
    `from_` is the Ollama model used as the base instead of files.
    """

    modelfile: str
    template: str
    reason: str
    files: Mapping[str, str]
    adapters: Mapping[str, str]
    from_: str | None = None
    quantize: str | None = None

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
    from_ = _base_on_ollama(selection, options, server)
    if server is not None:
        _check_server(selection, options, server)
    if isinstance(selection.base, Base):
        _check_quantize(selection.base.header.quantization, options)
    text, template, reason = _render(selection, options, templates, from_)
    return Plan(
        modelfile=text,
        template=template,
        reason=reason,
        files=_base_files(selection),
        adapters=_adapter_files(selection),
        from_=from_,
        quantize=options.quantize,
    )


def _base_on_ollama(selection: Selection, options: Options, server: Ollama | None) -> str | None:
    """The name of the Ollama model that the adapter goes onto; None where the zip has a base."""
    if selection.base is not None:
        if options.from_ is not None:
            raise BadRequest(
                f"The zip has its own base, {label(selection.base)}: leave the field 'from' out."
            )
        return None
    if options.from_ is not None:
        return _require_base(selection, check_name(options.from_), server)
    if selection.from_ is not None:
        return _require_base(selection, selection.from_, server)
    for name in _named_by_adapter(selection.adapter):
        if server is None or _has(server, name):
            return _require_base(selection, name, server)
    raise Unusable(
        "Found an adapter without a base model, and it doesn't name one that Ollama has.",
        "Name the base in the field 'from'." + _candidates(selection, server),
    )


def _named_by_adapter(adapter: Gguf | SafetensorsAdapter | None) -> Iterable[str]:
    """Names that the adapter's metadata gives its base, as far as Ollama could know them."""
    named = None
    if isinstance(adapter, Gguf):
        named = adapter.header.base_model
    elif isinstance(adapter, SafetensorsAdapter):
        named = adapter.config.base_model_name_or_path
    for name in (named or "", (named or "").rpartition("/")[2]):
        if ollama_name(name):
            yield name


def _has(server: Ollama, name: str) -> bool:
    try:
        server.show(name)
    except ModelMissing:
        return False
    return True


def _require_base(selection: Selection, name: str, server: Ollama | None) -> str:
    """Return `name` if that Ollama model can carry the adapter."""
    if server is None:
        return name
    try:
        shown = server.show(name)
    except ModelMissing as error:
        raise Unusable(
            f"Ollama has no model {name!r} to put the adapter on.",
            f"Get it first, with `ollama pull {name}`." + _candidates(selection, server),
        ) from error
    if "\nADAPTER " in shown.get("modelfile", ""):
        raise Unusable(
            f"{name!r} carries an adapter already; Ollama would run both.",
            "Name the base that it was made from.",
        )
    adapter, architecture = selection.adapter, _architecture(shown)
    if isinstance(adapter, Gguf) and adapter.header.architecture != architecture:
        raise Unusable(
            f"{adapter.name} is for {adapter.header.architecture}, and {name!r} is {architecture}.",
            _candidates(selection, server).strip() or None,
        )
    if isinstance(adapter, SafetensorsAdapter):
        _require_convertible(adapter, architecture)
    return name


def _architecture(shown: Mapping[str, Any]) -> str | None:
    info = shown.get("model_info") or {}
    details = shown.get("details") or {}
    found = info.get("general.architecture") or details.get("family")
    return found if isinstance(found, str) else None


def _candidates(selection: Selection, server: Ollama | None) -> str:
    """A sentence that lists the server's models which could be the adapter's base."""
    wanted = None
    if isinstance(selection.adapter, Gguf):
        wanted = selection.adapter.header.architecture
    names = [
        model["name"]
        for model in (server.tags() if server else [])
        if wanted in (None, (model.get("details") or {}).get("family"))
    ]
    if server is None:
        return ""
    kind = f" of architecture {wanted}" if wanted else ""
    if not names:
        return f" Ollama has none{kind}."
    return f" Ollama has these{kind}: {', '.join(names)}."


def _require_convertible(adapter: SafetensorsAdapter, architecture: str | None) -> None:
    if architecture not in PEFT_ARCHITECTURES:
        raise Unusable(
            f"{adapter.files[1]}: Ollama converts safetensors adapters only for"
            f" {' and '.join(PEFT_ARCHITECTURES)}, not for {architecture}.",
            f"Convert it to GGUF with llama.cpp: {CONVERT_LORA}",
        )


def _check_server(selection: Selection, options: Options, server: Ollama) -> None:
    """Raise Unusable for what this server no longer takes."""
    converts = isinstance(selection.base, SafetensorsModel)
    if selection.adapter is None and not converts and options.quantize is None:
        return
    if server.takes_adapters():
        if isinstance(selection.adapter, SafetensorsAdapter) and selection.base is not None:
            _require_convertible(selection.adapter, _base_architecture(selection.base))
        return
    if selection.adapter is not None:
        raise Unusable(
            f"This Ollama server (version {server.version()}) no longer takes LoRA adapters.",
            "Merge the adapter into its base with llama.cpp's llama-export-lora and zip the result,"
            " or use an Ollama up to 0.34.0.",
        )
    if converts:
        raise Unusable(
            f"This Ollama server (version {server.version()}) doesn't convert safetensors models.",
            f"Convert the model to GGUF with llama.cpp: {CONVERT_MODEL}",
        )
    raise Unusable(
        f"This Ollama server (version {server.version()}) no longer quantizes GGUF models.",
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
) -> tuple[str, str, str]:
    """The Modelfile's text, the template's name, and why that one."""
    own = selection.modelfile
    values: dict[str, Any] = {
        "base": [from_] if from_ else _from_paths(selection),
        "adapter": _adapter_path(selection.adapter),
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

"""What becomes of a model's parts: the Modelfile, and the request that creates it on Ollama."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from app.formats.files import ModelFile
from app.modelfile import grammar
from app.modelfile.grammar import Modelfile
from app.modelfile.templates import Templates
from app.ollama.client import Ollama
from app.planning.bases import UPLOAD_BASE, base_on_ollama
from app.planning.contents import Unusable
from app.planning.options import Options
from app.planning.parts import CONVERTIBLE, Adapter, Base, plainly_named
from app.planning.selection import Selection

CONVERT_MODEL = "python convert_hf_to_gguf.py <folder> --outfile model.gguf"
UNQUANTIZED = ("F16", "BF16", "F32")
CONVERTED = "model.gguf"
# Run by Ollama's own engine, which had no adapters: 0.12 creates such a model, and fails to chat.
# Source: Ollama, fs/ggml/ggml.go, OllamaEngineRequired.
NO_ADAPTERS_BEFORE_0_30 = frozenset(
    ("bert", "deepseek2", "deepseekocr", "gemma3", "gemma3n", "gptoss", "gpt-oss", "lfm2")
    + ("lfm2moe", "llama4", "mistral3", "mllama", "nomic-bert", "olmo3", "qwen25vl", "qwen3")
    + ("qwen3moe", "qwen3next", "qwen3vl", "qwen3vlmoe")
)


@dataclass(frozen=True)
class Conversion:
    """One GGUF that is to be made here of a base and, where there is one, an adapter, and why.

    `scale` multiplies the adapter's alpha. `quantize` is one of tensor_types.QUANTIZATIONS; without
    it the types stay as they are. Where there is a `command`, it makes a GGUF of the base first.
    """

    base: Base
    adapter: Adapter | None
    scale: float
    reason: str
    quantize: str | None = None
    importance_matrix: ModelFile | None = None
    command: tuple[str, ...] = ()

    @property
    def phase(self) -> str:
        """`merge` where a GGUF only gets an adapter, else `convert`."""
        only_merges = self.base.is_gguf and self.adapter is not None and self.quantize is None
        return "merge" if only_merges else "convert"

    @property
    def files(self) -> list[ModelFile]:
        """All that it reads."""
        adapter = (*self.adapter.files, *self.adapter.beside) if self.adapter else ()
        matrix = (self.importance_matrix,) if self.importance_matrix else ()
        return [*self.base.files, *adapter, *matrix]

    def replaced(self, change: Callable[[ModelFile], ModelFile]) -> "Conversion":
        """The same with each file changed."""
        base, adapter, matrix = self.base, self.adapter, self.importance_matrix
        return replace(
            self,
            base=replace(base, files=tuple(map(change, base.files))),
            adapter=adapter.replaced(change) if adapter else None,
            importance_matrix=change(matrix) if matrix else None,
        )


@dataclass(frozen=True)
class Plan:
    """How a model's folder becomes a model on Ollama.

    `files` and `adapters` are by their names in the create request; `from_` is the Ollama model
    used as the base instead of files. Where there is a `conversion`, it has to be done first, and
    its result takes the place of base and adapter. `problems` are sentences on what may not work as
    it was meant.
    """

    modelfile: Modelfile
    template: str | None
    template_reason: str
    files: Mapping[str, ModelFile]
    adapters: Mapping[str, ModelFile]
    from_: str | None = None
    quantize: str | None = None
    conversion: Conversion | None = None
    problems: tuple[str, ...] = ()

    def adapter_facts(self) -> dict[str, Any]:
        """How the adapter reaches Ollama, and why so: for reports and verbose lines."""
        if self.conversion is not None and self.conversion.adapter is not None:
            return {"adapter": "merged", "adapter_reason": self.conversion.reason}
        if self.adapters:
            return {"adapter": "sent", "adapter_reason": "This Ollama server takes adapters."}
        return {"adapter": None, "adapter_reason": None}

    def with_converted(self, file: ModelFile) -> "Plan":
        """The same, once the conversion is done and has made `file`."""
        if self.conversion is None:
            return self
        return replace(self, files={CONVERTED: file, **self.files}, conversion=None)

    def located(self, stored: Mapping[str, ModelFile]) -> "Plan":
        """The same, with the files of an archive as they are `stored` now, by their names."""
        return self.replaced(lambda file: stored[file.name] if file.path is None else file)

    def replaced(self, change: Callable[[ModelFile], ModelFile]) -> "Plan":
        """The same with each file changed."""
        conversion = self.conversion
        return replace(
            self,
            files={name: change(file) for name, file in self.files.items()},
            adapters={name: change(file) for name, file in self.adapters.items()},
            conversion=conversion.replaced(change) if conversion else None,
        )

    def needed(self) -> list[ModelFile]:
        """The files that Ollama needs, each once."""
        return list({(file.model, file.name): file for file in self._sent()}.values())

    def request(self, new_name: str) -> dict[str, Any]:
        """The body of Ollama's create request; the digests of its files are known by now."""
        return grammar.create_request(
            self.modelfile,
            new_name,
            files={name: f"sha256:{file.sha256}" for name, file in self.files.items()},
            adapters={name: f"sha256:{file.sha256}" for name, file in self.adapters.items()},
            from_=self.from_,
            quantize=self.quantize,
        )

    def _sent(self) -> Iterator[ModelFile]:
        yield from self.files.values()
        yield from self.adapters.values()


def make_plan(
    selection: Selection, options: Options, templates: Templates, server: Ollama | None
) -> Plan:
    """Decide how a selection becomes a model, on `server` where one is asked.

    Raises Unusable for what can't work, BadRequest or ModelfileError for fields that don't fit.
    """
    from_ = base_on_ollama(selection, options, server)
    conversion = _conversion(selection, options, server)
    if server is not None and selection.adapter is not None and conversion is None:
        _check_adapter_sent(selection, selection.adapter, server)
    modelfile, template, reason = _modelfile(selection, options, templates, from_)
    projector = list(selection.projector.files) if selection.projector else []
    files, adapters = _sent(selection)
    return Plan(
        modelfile=modelfile,
        template=template,
        template_reason=reason,
        files=plainly_named(projector) if conversion else files,
        adapters={} if conversion and conversion.adapter else adapters,
        from_=from_,
        quantize=None if conversion or _is_gguf(selection) else options.quantize,
        conversion=conversion,
        problems=tuple(_problems(selection, modelfile, server)),
    )


def _is_gguf(selection: Selection) -> bool:
    return selection.base is not None and selection.base.is_gguf


def _sent(selection: Selection) -> tuple[dict[str, ModelFile], dict[str, ModelFile]]:
    """The files, and the adapter's, by their names in the create request."""
    base, projector = selection.base, selection.projector
    if projector is not None and base is not None:
        files = plainly_named([*base.files, *projector.files])
    else:
        files = base.sent() if base else {}
    return files, selection.adapter.sent() if selection.adapter else {}


def _conversion(selection: Selection, options: Options, server: Ollama | None) -> Conversion | None:
    """What is to be made here before anything is sent. Raises Unusable where that can't work."""
    base, adapter = selection.base, selection.adapter
    why_merged = _why_merged(selection, options, server)
    if base is None:
        if why_merged is not None and adapter is not None:
            raise Unusable(
                f"{why_merged} The adapter would have to be merged, but its base is a model that"
                " only Ollama has.",
                UPLOAD_BASE,
            )
        return None
    command: tuple[str, ...] = ()
    if not base.is_convertible:
        try:
            _check_converted_by(base, why_merged, server)
            return None
        except Unusable:
            if not options.converter:
                raise
            command = options.converter
    quantize = _quantization(base, options)
    reason = why_merged or _why_made(base, quantize, server)
    if reason is None:
        return None
    return Conversion(
        base=base,
        adapter=adapter if options.merge != "never" else None,
        scale=options.adapter_scale,
        reason=reason,
        quantize=quantize,
        importance_matrix=selection.importance_matrix if quantize else None,
        command=command,
    )


def _why_made(base: Base, quantize: str | None, server: Ollama | None) -> str | None:
    """Why another file than the base's own is sent; None where that one will do."""
    if not base.is_gguf:
        return "Every Ollama takes GGUF, and few of them convert safetensors."
    if quantize is not None:
        return f"{quantize} was asked for."
    if len(base.files) > 1 and server is not None and _is_before_0_30(server.recent_version()):
        return "Ollama before 0.30 doesn't join the shards of a GGUF."
    return None


def _check_converted_by(base: Base, why_merged: str | None, server: Ollama | None) -> None:
    """Raise Unusable unless `server` converts a safetensors model that can't be converted here."""
    if server is None:
        return
    unknown = f"Safetensors models of the architecture {base.architecture} can't be converted here"
    hint = (
        f"Convert the model to GGUF with llama.cpp: {CONVERT_MODEL} Known here are"
        f" {', '.join(sorted(CONVERTIBLE))}. The service's owner can set MODEL_HANDLER_CONVERTER to"
        " such a command."
    )
    if not server.takes_adapters():  # both went with 0.34.1
        version = server.recent_version()
        raise Unusable(
            f"{unknown}, and this Ollama server (version {version}) doesn't convert them.", hint
        )
    if why_merged is not None:
        raise Unusable(f"{why_merged} {unknown}, so that no adapter can be merged.", hint)


def _quantization(base: Base, options: Options) -> str | None:
    """The type to quantize to; None where the types stay. Raises Unusable for what is quantized."""
    kind, asked = base.quantization, options.quantize
    is_quantized = kind is not None and kind not in UNQUANTIZED
    if asked is None:
        asked = None if is_quantized else options.quantize_by_default
    if asked is None or asked == kind:
        return None
    if is_quantized:
        raise Unusable(
            f"The model is {kind} already; only {', '.join(UNQUANTIZED)} can be quantized.",
            "Leave the field 'quantize' out, or zip the unquantized model.",
        )
    return asked


def _why_merged(selection: Selection, options: Options, server: Ollama | None) -> str | None:
    """Why the adapter has to be merged before it is sent; None where it needn't be."""
    adapter = selection.adapter
    if adapter is None or options.merge == "never":
        return None
    if options.merge == "always":
        return "Merging was asked for."
    if options.adapter_scale != 1:
        return "Ollama knows no scale for an adapter."
    if server is None:
        return None
    if not server.takes_adapters():
        return f"This Ollama server (version {server.recent_version()}) no longer takes adapters."
    if selection.base is None:
        return None
    architecture = selection.base.architecture
    if architecture in NO_ADAPTERS_BEFORE_0_30 and _is_before_0_30(server.recent_version()):
        return f"Ollama before 0.30 takes adapters for {architecture}, but can't run them."
    return adapter.why_not_sent(architecture)


def _is_before_0_30(version: str) -> bool:
    match = re.match(r"(\d{1,6})\.(\d{1,6})", version)
    return match is not None and (int(match[1]), int(match[2])) < (0, 30)


def _check_adapter_sent(selection: Selection, adapter: Adapter, server: Ollama) -> None:
    """Raise Unusable for an adapter that this server can't put on the base itself."""
    way_out = "Send merge=auto, and the adapter is merged into its base before it is sent."
    if not server.takes_adapters():
        raise Unusable(
            f"This Ollama server (version {server.recent_version()}) no longer takes LoRA"
            " adapters.",
            way_out,
        )
    if selection.base is not None:
        reason = adapter.why_not_sent(selection.base.architecture)
        if reason is not None:
            raise Unusable(f"{adapter.label}: {reason}", way_out)


def _modelfile(
    selection: Selection, options: Options, templates: Templates, from_: str | None
) -> tuple[Modelfile, str | None, str]:
    """The Modelfile, the template's name, and why that one."""
    own = selection.modelfile
    on_ollama = from_ or selection.from_
    base = [on_ollama] if on_ollama else _from(selection)
    adapter = selection.adapter.stated()[0] if selection.adapter else None
    if options.modelfile is not None:
        return _given(options.modelfile, base, adapter), None, "The Modelfile was given."
    values: dict[str, Any] = {
        "base": base,
        "adapter": adapter,
        "system": options.system or (own and own.system),
        "template": options.template or (own and own.template),
        "parameters": grammar.merge_parameters(
            own.parameters if own else (), grammar.check_parameters(options.parameters)
        ),
        "license": [options.license] if options.license else own and own.license,
        "messages": own and own.messages,
        "renderer": own and own.renderer,
        "parser": own and own.parser,
        "requires": own and own.requires,
    }
    name, reason = _template(selection, options, templates, values)
    return templates.render(name, values), name, reason


def _from(selection: Selection) -> list[str]:
    parts = [part for part in (selection.base, selection.projector) if part is not None]
    return [path for part in parts for path in part.stated()]


def _given(text: str, base: list[str], adapter: str | None) -> Modelfile:
    """What a given Modelfile says. Raises ModelfileError unless it is about this base and adapter,
    and can be sent."""
    said = grammar.parse(text)
    adapters = [adapter] if adapter else []
    if [*said.from_] != base or [*said.adapters] != adapters:
        right = [*(f"FROM {path}" for path in base), *(f"ADAPTER {path}" for path in adapters)]
        raise grammar.ModelfileError(
            f"The Modelfile's FROM and ADAPTER have to stay as they are: {', '.join(right)}."
        )
    if said.draft is not None:
        raise grammar.ModelfileError("The Modelfile has a DRAFT, which this service doesn't send.")
    grammar.merge_parameters(said.parameters, {})
    return said


def _template(
    selection: Selection, options: Options, templates: Templates, values: Mapping[str, Any]
) -> tuple[str, str]:
    if options.modelfile_template is not None:
        return options.modelfile_template, "The request names it."
    if values["template"]:
        return "default", "The template text was given."
    if selection.base is None or not selection.base.is_convertible:
        return "default", "Ollama keeps or finds the base's own chat template."
    return templates.choose(selection.base.chat)


def _problems(selection: Selection, modelfile: Modelfile, server: Ollama | None) -> list[str]:
    base = selection.base
    found = [*selection.notes, *(base.problems() if base else [])]
    if base is None or modelfile.template is None:
        return found
    kept = server is not None and _is_before_0_30(server.recent_version())
    if base.chat.knows_tools and ".Tools" not in modelfile.template and not kept:
        found.append(
            "The model's own chat template knows tools and TEMPLATE doesn't: Ollama from 0.30 on"
            " sets TEMPLATE aside, unless it runs with OLLAMA_GO_TEMPLATE=1."
        )
    return found

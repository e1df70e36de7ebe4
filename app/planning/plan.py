"""What becomes of a model's parts: the Modelfile, and the request that creates it on Ollama."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from app.formats.files import ModelFile
from app.modelfile import grammar
from app.modelfile.grammar import Modelfile
from app.modelfile.parameters import check_parameters, check_stated, merge_parameters
from app.modelfile.templates import Templates
from app.ollama.client import Ollama
from app.planning.bases import base_on_ollama
from app.planning.conversion import Conversion, check_adapter_sent, conversion_for, is_before_0_30
from app.planning.options import Options
from app.planning.parts import plainly_named
from app.planning.selection import Selection

CONVERTED = "model.gguf"


@dataclass(frozen=True)
class Plan:
    """How a model's folder becomes a model on Ollama.

    `files` and `adapters` are by their names in the create request; `from_` is the Ollama model
    used as the base instead of files. Where there is a `conversion`, it has to be done first, and
    its result takes the place of base and adapter. `problems` are sentences on what may not work as
    it was meant.
    """

    modelfile: Modelfile
    modelfile_template: str | None
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
        return create_request(
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


def create_request(
    modelfile: Modelfile,
    model: str,
    *,
    files: Mapping[str, str],
    adapters: Mapping[str, str],
    from_: str | None,
    quantize: str | None = None,
) -> dict[str, object]:
    """The body of Ollama's POST /api/create (CreateRequest in api/types.go), without empty keys.

    `files` and `adapters` map names to `sha256:<hex>`; `from_` is the base on Ollama, where the
    base isn't in `files`. Raises ModelfileError for parameters as merge_parameters does.
    """
    body: dict[str, object] = {
        "model": model,
        "from": from_,
        "files": dict(files),
        "adapters": dict(adapters),
        "template": modelfile.template,
        "system": modelfile.system,
        "parameters": merge_parameters(modelfile.parameters, {}),
        "messages": [{"role": role, "content": text} for role, text in modelfile.messages],
        "license": list(modelfile.license),
        "quantize": quantize,
        "renderer": modelfile.renderer,
        "parser": modelfile.parser,
        "requires": modelfile.requires,
    }
    return {key: value for key, value in body.items() if value}


def make_plan(
    selection: Selection, options: Options, templates: Templates, server: Ollama | None
) -> Plan:
    """Decide how a selection becomes a model, on `server` where one is asked.

    Raises Unusable for what can't work, BadRequest or ModelfileError for fields that don't fit.
    """
    from_ = base_on_ollama(selection, options, server)
    conversion = conversion_for(selection, options, server)
    if (
        server is not None
        and selection.adapter is not None
        and (conversion is None or conversion.adapter is None)
    ):
        check_adapter_sent(selection, selection.adapter, server)
    modelfile, template, reason = _modelfile(selection, options, templates, from_)
    grammar.check_sendable(modelfile)
    projector = list(selection.projector.files) if selection.projector else []
    files, adapters = _sent(selection)
    return Plan(
        modelfile=modelfile,
        modelfile_template=template,
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
        "parameters": merge_parameters(
            own.parameters if own else (), check_parameters(options.parameters)
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
        sentence = f"The Modelfile's FROM and ADAPTER have to stay as they are: {', '.join(right)}."
        if [*said.from_] != base:
            raise said.error("from", sentence, _first_other(said.from_, base))
        raise said.error("adapter", sentence, _first_other(said.adapters, adapters))
    if said.draft is not None:
        raise said.error("draft", "The Modelfile has a DRAFT, which this service doesn't send.")
    check_stated(said)
    return said


def _first_other(said: Sequence[str], right: Sequence[str]) -> int:
    """The index of the first that isn't right; 0 where one is missing."""
    return next(
        (index for index, path in enumerate(said) if [path] != [*right[index : index + 1]]), 0
    )


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
    kept = server is not None and is_before_0_30(server.recent_version())
    if base.chat.knows_tools and ".Tools" not in modelfile.template and not kept:
        found.append(
            "The model's own chat template knows tools and TEMPLATE doesn't: Ollama from 0.30 on"
            " sets TEMPLATE aside, unless it runs with OLLAMA_GO_TEMPLATE=1."
        )
    return found

"""A base model that only Ollama has: found for an adapter that comes alone, and held against it."""

from collections.abc import Iterable, Mapping
from typing import Any

from app.ollama.client import ModelMissing, Ollama, check_name
from app.planning.contents import Gguf, SafetensorsAdapter, Unusable
from app.planning.options import BadRequest, Options
from app.planning.selection import Selection, label, ollama_name

CONVERT_LORA = "python convert_lora_to_gguf.py <folder> --base <base model folder>"
PEFT_ARCHITECTURES = ("llama", "gemma2")


def base_on_ollama(selection: Selection, options: Options, server: Ollama | None) -> str | None:
    """The name of the Ollama model that the adapter goes onto; None where the zip has a base.

    Without a `server` to ask, a name that was given is taken as it is. Raises Unusable where no
    model fits, BadRequest where a base was named beside the zip's own.
    """
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
        if server is None or server.has_model(name):
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
        require_convertible(adapter, architecture)
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


def require_convertible(adapter: SafetensorsAdapter, architecture: str | None) -> None:
    """Raise Unusable unless Ollama converts safetensors adapters for that architecture."""
    if architecture not in PEFT_ARCHITECTURES:
        raise Unusable(
            f"{adapter.files[1]}: Ollama converts safetensors adapters only for"
            f" {' and '.join(PEFT_ARCHITECTURES)}, not for {architecture}.",
            f"Convert it to GGUF with llama.cpp: {CONVERT_LORA}",
        )

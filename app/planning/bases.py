"""A base model that only Ollama has: found for an adapter that comes alone, and checked with it."""

from collections.abc import Iterable, Mapping
from typing import Any

from app.ollama.client import Ollama
from app.ollama.errors import ModelMissing
from app.ollama.names import check_name
from app.planning.options import BadRequest, Options
from app.planning.parts import Adapter
from app.planning.references import ollama_name
from app.planning.selection import Selection
from app.planning.unusable import Unfit


def base_on_ollama(selection: Selection, options: Options, server: Ollama | None) -> str | None:
    """The name of the Ollama model that the adapter goes onto; None where the zip has a base.

    Without a `server` to ask, a name that was given is taken as it is. Raises Unfit where no
    model fits, BadRequest where a base was named beside the zip's own.
    """
    if selection.base is not None:
        if options.from_ is not None:
            raise BadRequest(
                f"The zip has its own base, {selection.base.label}: leave the field 'from' out."
            )
        return None
    if options.from_ is not None:
        return _require_base(selection, check_name(options.from_), server)
    if selection.from_ is not None:
        return _require_base(selection, selection.from_, server)
    for name in _named_by_adapter(selection.adapter):
        if server is None or server.has_model(name):
            return _require_base(selection, name, server)
    raise Unfit(
        "Found an adapter without a base model, and it doesn't name one that Ollama has.",
        "Name the base in the field 'from'." + _candidates(selection, server),
    )


def _named_by_adapter(adapter: Adapter | None) -> Iterable[str]:
    """Names that the adapter's metadata gives its base, as far as Ollama could know them."""
    named = (adapter.base_name if adapter else None) or ""
    for name in (named, named.rpartition("/")[2]):
        if ollama_name(name):
            yield name


def _require_base(selection: Selection, name: str, server: Ollama | None) -> str:
    """Return `name` if that Ollama model can carry the adapter."""
    if server is None:
        return name
    try:
        shown = server.show(name)
    except ModelMissing as error:
        raise Unfit(
            f"Ollama has no model {name!r} to put the adapter on.",
            f"Get it first, with `ollama pull {name}`." + _candidates(selection, server),
        ) from error
    if has_adapter(shown):
        raise Unfit(
            f"{name!r} carries an adapter already; Ollama would run both.",
            "Name the base that it was made from.",
        )
    adapter, architecture = selection.adapter, _architecture(shown)
    if adapter is None:
        return name
    if adapter.architecture not in (None, architecture):
        raise Unfit(
            f"{adapter.label} is for {adapter.architecture}, and {name!r} is {architecture}.",
            _candidates(selection, server).strip() or None,
        )
    reason = adapter.why_not_sent(architecture)
    if reason is not None:
        raise Unfit(
            f"{adapter.label}: {reason} The adapter would have to be merged, but its base is a"
            " model that only Ollama has.",
            UPLOAD_BASE,
        )
    return name


UPLOAD_BASE = (
    "Put the base model into the zip, or upload it here as a model of its own and name that one in"
    " the field 'from'."
)


def has_adapter(shown: Mapping[str, Any]) -> bool:
    """Whether the model that Ollama shows carries an adapter."""
    return "\nADAPTER " in str(shown.get("modelfile", ""))


def _architecture(shown: Mapping[str, Any]) -> str | None:
    info, details = shown.get("model_info"), shown.get("details")
    found = info.get("general.architecture") if isinstance(info, dict) else None
    if found is None and isinstance(details, dict):
        found = details.get("family")
    return found if isinstance(found, str) else None


def _candidates(selection: Selection, server: Ollama | None) -> str:
    """A sentence that lists the server's models which could be the adapter's base."""
    if server is None:
        return ""
    wanted = selection.adapter.architecture if selection.adapter else None
    names = []
    for model in server.tags():
        details = model.get("details")
        family = details.get("family") if isinstance(details, dict) else None
        if wanted in (None, family):
            names.append(str(model["name"]))
    kind = f" of architecture {wanted}" if wanted else ""
    if not names:
        return f" Ollama has none{kind}."
    return f" Ollama has these{kind}: {', '.join(names[:20])}."

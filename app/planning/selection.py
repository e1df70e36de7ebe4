"""Which of the files in a zip make the one model that it is."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from app.formats.files import ModelFile
from app.modelfile.grammar import Modelfile
from app.planning.contents import Contents
from app.planning.gguf_parts import Projector
from app.planning.parts import Adapter, Base, Part
from app.planning.references import resolve
from app.planning.unusable import Unfit, Unusable

WHICH_ONE = "Zip one of each, or add a Modelfile whose FROM and ADAPTER say which."


@dataclass(frozen=True)
class Selection:
    """The one model that the contents make: a base, an adapter, or both.

    `from_` is the Ollama model that a Modelfile in the zip names as the base. `notes` are sentences
    on what was chosen or ignored.
    """

    base: Base | None = None
    projector: Projector | None = None
    adapter: Adapter | None = None
    from_: str | None = None
    modelfile: Modelfile | None = None
    importance_matrix: ModelFile | None = None
    notes: tuple[str, ...] = ()

    @property
    def parts(self) -> list[Part]:
        """Those that there are."""
        return [part for part in (self.base, self.projector, self.adapter) if part is not None]

    def facts(self) -> dict[str, Any]:
        """What the model is, for its description; None where its files don't say."""
        facts = {"kind": "+".join(part.kind for part in self.parts)}
        main = self.base or self.adapter
        return facts | (main.facts() if main else {})

    def kinds(self) -> dict[str, str]:
        """Kind of each file that is part of the model, by name."""
        kinds = {file.name: part.kind for part in self.parts for file in part.files}
        if self.importance_matrix is not None:
            kinds[self.importance_matrix.name] = "imatrix"
        return kinds


def with_base(selection: Selection, base: Selection, name: str | None) -> Selection:
    """An adapter's selection with the base model of another one, which Ollama calls `name`, if it
    has it. Raises Unusable where they don't fit."""
    if base.base is None:
        label = selection.adapter.label if selection.adapter else "This"
        raise Unfit(f"{label} can't be put on a model without a base.")
    both = replace(selection, base=base.base, projector=base.projector, from_=name)
    try:
        _check(both)
    except Unusable as error:
        raise Unfit(str(error), error.hint) from error
    return both


class SeveralProjectors(Unfit):
    """There are several projectors, of which none was chosen; `most_exact` is one's label."""

    def __init__(self, found: Sequence[Projector]) -> None:
        self.most_exact = max(found, key=_precision).label
        super().__init__(
            f"Found {len(found)} mmproj files: {', '.join(part.label for part in found)}.",
            f"Name one in the field 'projector', or in a Modelfile's FROM; {self.most_exact} is the"
            " most exact one.",
        )


def select(contents: Contents, projector: str | None = None) -> Selection:
    """Choose the parts that make one model; `projector` is the name of the mmproj file to take.

    Raises Unusable where they don't make one, or several, or one that can't run.
    """
    bases, adapters = list(contents.bases), list(contents.adapters)
    projectors, from_, notes = list(contents.projectors), None, []
    if contents.modelfile is not None:
        _check_draft(contents.modelfile)
        named = resolve(contents)
        bases, adapters, from_, notes = named.bases, named.adapters, named.from_, named.notes
        projectors = named.projectors or (projectors if projector else [])
    for found, what in ((bases, "base models"), (adapters, "adapters")):
        if len(found) > 1:
            labels = ", ".join(part.label for part in found)
            raise Unusable(f"Found {len(found)} {what}: {labels}.", WHICH_ONE)
    if not bases and not adapters and not from_:
        raise _nothing_usable(contents)
    chosen, ignored = _importance_matrix(contents.importance_matrices)
    selection = Selection(
        base=bases[0] if bases else None,
        projector=_projector(projectors, projector),
        adapter=adapters[0] if adapters else None,
        from_=from_,
        modelfile=contents.modelfile,
        importance_matrix=chosen,
        notes=(*notes, *ignored),
    )
    _check(selection)
    return selection


def select_with_any_projector(contents: Contents) -> Selection:
    """As `select`; but of several projectors, which a create would have to choose from, the most
    exact one is taken, and a note says so. Raises Unusable."""
    try:
        return select(contents)
    except SeveralProjectors as several:
        selection = select(contents, several.most_exact)
        return replace(selection, notes=(*selection.notes, f"{several} {several.hint}"))


def _check_draft(own: Modelfile) -> None:
    if own.draft is not None:
        raise Unusable(
            "The zip's Modelfile has a DRAFT, which this service doesn't send.",
            "Leave DRAFT out, or create the model with `ollama create`.",
        )


def _projector(found: Sequence[Projector], asked: str | None) -> Projector | None:
    if asked is not None:
        named = [
            part
            for part in found
            if asked.removeprefix("./") in (part.label, PurePosixPath(part.label).name)
        ]
        if len(named) != 1:
            known = ", ".join(part.label for part in found) or "none"
            raise Unfit(f"The field 'projector' names {asked}; of mmproj files there are: {known}.")
        return named[0]
    if len(found) > 1:
        raise SeveralProjectors(found)
    return found[0] if found else None


def _precision(projector: Projector) -> int:
    order = ("Q8_0", "BF16", "F16", "F32")
    kind = projector.quantization
    return order.index(kind) if kind in order else -1


def _importance_matrix(
    found: Sequence[ModelFile],
) -> tuple[ModelFile | None, list[str]]:
    """The one that quantizing can use, and sentences on what is ignored."""
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        return None, [f"{names} are importance matrices; one alone would be used to quantize."]
    return (found[0] if found else None), []


def _check(selection: Selection) -> None:
    base, adapter = selection.base, selection.adapter
    if base is not None:
        base.check()
    if adapter is not None:
        adapter.check()
    if base is not None and adapter is not None:
        adapter.check_fits(base)
    if selection.projector is not None and (base is None or not base.is_gguf):
        raise Unusable(
            f"{selection.projector.label} is a projector (mmproj) without its base model.",
            "Add the base model's GGUF to the zip.",
        )


def _nothing_usable(contents: Contents) -> Unusable:
    if contents.importance_matrices:
        names = _some(file.name for file in contents.importance_matrices)
        return Unusable(
            f"{names} is an importance matrix, which is no model.",
            "Add the model that it was made for.",
        )
    if contents.projectors:
        return Unusable(
            f"{contents.projectors[0].label} is a projector (mmproj) without its base model.",
            "Add the base model's GGUF to the zip.",
        )
    if contents.pickles:
        return Unusable(
            f"The only weights found are Python pickles: {_some(contents.pickles)}.",
            "Pickles can run code and aren't accepted. Save as safetensors, or convert to GGUF.",
        )
    if contents.archives:
        return Unusable(
            f"Found no model that could be used, but other archives: {_some(contents.archives)}.",
            "Unpack them first, or upload each by itself.",
        )
    return Unusable(
        "Found no model that could be used.",
        "It needs a GGUF base model or LoRA adapter, or a safetensors folder with its config.json.",
    )


def _some(names: Iterable[str]) -> str:
    return ", ".join(list(names)[:5])

"""Plans for stored models: with the service's own settings, and bases that lie on this machine."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from app.archive.reader import Archive
from app.formats.files import ModelFile
from app.modelfile.templates import Templates
from app.ollama.client import Ollama
from app.ollama.store import base_blob
from app.planning.contents import examine
from app.planning.options import Options
from app.planning.plan import Plan, make_plan
from app.planning.selection import Selection, select, with_base
from app.planning.unusable import Unusable
from app.storage.directory import Storage


@dataclass(frozen=True)
class Planner:
    """Makes plans. `ollama_models` is the models folder of an Ollama on this machine."""

    storage: Storage
    templates: Templates
    merge: str = "auto"
    quantize: str | None = None
    ollama_models: Path | None = None
    converter: tuple[str, ...] = ()

    def plan(
        self,
        selection: Selection,
        options: Options,
        server: Ollama | None,
        hold: Callable[[str], None] = lambda name: None,
    ) -> Plan:
        """The plan, with the service's own settings where the request says nothing.

        `hold` is given the name of each other model whose files are read, before that. Raises as
        make_plan.
        """
        options = replace(
            options,
            merge=options.merge or self.merge,
            quantize_by_default=self.quantize,
            converter=self.converter,
        )
        name = options.from_ or selection.from_
        if selection.base is None and name is not None:
            found = self._with_base_on_disk(selection, name, server, hold)
            if found is not None:
                selection, options = found, replace(options, from_=None)
        try:
            return make_plan(selection, options, self.templates, server)
        except Unusable as error:
            if selection.base is None:
                error.hint = " ".join(filter(None, (error.hint, self._stored_bases(selection))))
            raise

    def _with_base_on_disk(
        self,
        selection: Selection,
        name: str,
        server: Ollama | None,
        hold: Callable[[str], None],
    ) -> Selection | None:
        """The adapter with the base `name` from this machine's disk, where Ollama has no such model
        or couldn't put the adapter on it; None where that isn't so, or there is none."""
        if server is not None and server.takes_adapters() and server.has_model(name):
            return None
        stored = self.storage.find(name)
        if stored is not None:
            hold(stored)
            files = self.storage.model(stored).files()
            base = select(examine(replace(file, model=stored) for file in files))
            if base.adapter is not None:
                raise Unusable(
                    f"{stored!r} carries an adapter already; it would be lost.",
                    "Name the base that it was made from.",
                )
            return with_base(selection, base, name=None)
        blob = base_blob(self.ollama_models, name) if self.ollama_models else None
        if blob is None:
            return None
        return with_base(selection, select(examine([blob])), name)

    def _stored_bases(self, selection: Selection) -> str:
        """A sentence that lists the stored models which could be a base."""
        wanted = selection.adapter.architecture if selection.adapter else None
        fitting = []
        for model in self.storage.models():
            facts = model.manifest().facts
            if "base" in (facts.get("kind") or "") and wanted in (None, facts.get("architecture")):
                fitting.append(model.name)
        return f"Stored here: {', '.join(fitting[:20])}." if fitting else ""


def held_by(storage: Storage, own: str | None, task: str, held: ExitStack) -> Callable[[str], None]:
    """What holds other models than `own` for `task`, shared, until `held` ends."""
    names = {own}

    def hold(name: str) -> None:
        if name not in names:
            held.enter_context(storage.hold(name, task, shared=True))
            names.add(name)

    return hold


def entries(archive: Archive) -> list[ModelFile]:
    """The files of an archive, as they will be called in the model's folder."""
    return [
        ModelFile(entry.name, entry.size, partial(archive.open, entry)) for entry in archive.entries
    ]

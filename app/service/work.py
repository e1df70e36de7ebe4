"""The work itself: a zip to a model in the models directory, and that to a model on Ollama.

Each function is a generator: what it raises before its first line was known before any work began
and left nothing behind; the lines after that are the contract's.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from zipstream import ZipStream

from app.archive.reader import Archive
from app.formats.files import ModelFile
from app.metrics import phase
from app.modelfile.templates import Templates
from app.ollama import client as ollama
from app.ollama.address import ollama_url
from app.ollama.client import Ollama, OllamaError
from app.ollama.store import base_blob
from app.planning.contents import Source, Unusable, examine
from app.planning.options import BadRequest, Options
from app.planning.plan import Plan, make_plan
from app.planning.report import report
from app.planning.selection import Selection, select, with_base
from app.service.install import Targets, install, targets
from app.service.lines import Line, Script, Steps, Task, follow
from app.storage.directory import Storage
from app.storage.failures import NoSuchModel
from app.storage.model import BLOCK, Model
from app.storage.staging import Staging
from app.storage.tasks import TaskLog

FAILED_UPLOAD = "Failed upload model file."
FAILED_CREATE = "Failed create model"


UPLOAD = Script(
    ("Started save model.", 0),
    ("Start extracted model.", 0.66),
    ("Success upload model file.", 1.0),
)
CREATE = Script(
    ("Started to create model.", 0.33),
    ("Start structure template", 0.66),
    ("Success create model", 1.0),
)
DEPLOY_UPLOAD = Script(
    ("Start save model.", 0.0), ("Start extract model.", 0.33), ("Success upload model file.", 0.5)
)
DEPLOY_CREATE = Script(
    ("Start create model.", 0.67),
    ("Start structure template", 0.83),
    ("Success create model", 1.0),
)


@dataclass(frozen=True)
class Upload:
    """A zip that has arrived in `staging`; `filename` as sent, `name` as the model is called."""

    staging: Staging
    filename: str
    name: str


@dataclass(frozen=True)
class Service:
    """What the work is done with."""

    storage: Storage
    tasks: TaskLog
    templates: Templates
    connect: Callable[[], list[Ollama]]
    merge: str = "auto"
    ollama_models: Path | None = None

    def servers(self, asked: str | None) -> list[Ollama]:
        """The Ollama servers of which at least one answers; only that at `asked` (as OLLAMA_HOST
        spells it) where it is given. Raises OllamaError at once where none answers, BadRequest
        where none is at `asked`."""
        servers = self.connect()
        if asked:
            url = ollama_url(asked)
            known = ", ".join(server.url for server in servers)
            servers = [server for server in servers if server.url == url]
            if not servers:
                raise BadRequest(f"There is no Ollama server {asked!r} here, only {known}.")
        failures = []
        for server in servers:
            try:
                server.version()
            except OllamaError as error:
                failures.append(error)
        if len(failures) == len(servers):
            raise failures[0]
        return servers

    def models(self, *, with_facts: bool) -> Steps[None]:
        """A line for each model, in name order; no file is opened unless its facts are wanted.

        One that vanishes meanwhile is left out: the line before waits until it is known to be one.
        """
        models = self.storage.models()
        total, number = len(models), 0
        line: Line | None = None
        for model in models:
            try:
                facts = model.facts() if with_facts else {}
            except NoSuchModel:
                total -= 1
                continue
            if line is not None:
                yield replace(line, ratio=number / total)
            number += 1
            line = Line("Get model.", 1.0, {"model": model.name}, more=facts)
        if line is not None:
            yield line

    def delete(self, task: Task, name: str) -> Steps[None]:
        """Delete the model `name` from the models directory; Ollama's model stays."""
        with self.storage.hold(name, task.uuid):
            self.storage.model(name)
            yield Line("Start delete model.", 0.5, {"model_name": name})
            self.storage.remove(name)
            yield Line("Success delete model.", 1.0, {"model_name": name})

    def upload(self, upload: Upload) -> Steps[None]:
        """Extract an upload and publish it as a model."""
        with upload.staging.archive() as archive:
            yield from self._store(upload, archive, select(examine(_entries(archive))), UPLOAD)

    def create(
        self, task: Task, name: str, new_name: str, options: Options, server: str | None
    ) -> Steps[None]:
        """Make the model `name` a model of every Ollama server, or of one, called `new_name`."""
        ollama.check_name(new_name)
        with self.storage.hold(name, task.uuid):
            model = self.storage.model(name)
            selection = select(examine(_files(model)))
            aims = self._targets(selection, new_name, options, server)
            yield from install(self.storage, model, aims, new_name, CREATE)

    def deploy(
        self, task: Task, upload: Upload, new_name: str, options: Options, server: str | None
    ) -> Steps[None]:
        """Upload, then create; what create would refuse is refused before anything is stored."""
        with task.failing_as(FAILED_CREATE):
            ollama.check_name(new_name)
        with upload.staging.archive() as archive:
            selection = select(examine(_entries(archive)))
            with task.failing_as(FAILED_CREATE):
                aims = self._targets(selection, new_name, options, server)
            yield from self._store(upload, archive, selection, DEPLOY_UPLOAD)
        task.failure = FAILED_CREATE
        model = self.storage.model(upload.name)
        try:
            yield from install(self.storage, model, aims, new_name, DEPLOY_CREATE)
        except OllamaError as error:
            error.hint = error.hint or (
                f"The upload is kept as model {model.name!r}: once Ollama is well again,"
                " POST /models/create/ makes it, without a new upload."
            )
            raise

    def report(self, name: str) -> dict[str, Any]:
        """What the model `name` is; a digest that isn't known yet is None."""
        model = self.storage.model(name)
        kept = model.manifest().facts
        files = {file.name: {"size": file.size, "sha256": file.sha256} for file in model.files()}
        selection = select(examine(_files(model)))
        about = report(model.name, selection, files, self.templates, kept.get("created_at"))
        return {**about, "last_create": kept.get("last_create")}

    def check(self, upload: Upload) -> dict[str, Any]:
        """The report on an upload, every byte of which is read and none is kept."""
        with upload.staging.archive() as archive:
            selection = select(examine(_entries(archive)))
            files = {
                entry.name: {"size": entry.size, "sha256": archive.digest(entry)}
                for entry in archive.entries
            }
        return {
            **report(upload.name, selection, files, self.templates, None),
            "last_create": None,
        }

    def modelfile(self, name: str, options: Options) -> str:
        """The Modelfile that `ollama create -f` takes in the model's folder."""
        selection = select(examine(_files(self.storage.model(name))))
        return self._plan(selection, options, None).modelfile

    @contextmanager
    def zipped(self, name: str) -> Iterator[ZipStream]:
        """The model's files as a zip, made while it is read; its `len()` is its size in bytes.

        A model deleted or replaced meanwhile is still read as it was. Raises NoSuchModel.
        """
        zipped = ZipStream(sized=True)
        with self.storage.opened(name) as files:
            for file in files:
                zipped.add(_blocks(file), file.name, size=file.size)
            yield zipped

    def _targets(
        self, selection: Selection, new_name: str, options: Options, server: str | None
    ) -> Targets:
        """The servers that could take the selection as `new_name`. Raises where none could."""

        def plan(server: Ollama) -> Plan:
            plan = self._plan(selection, options, server)
            server.check_free(new_name, replace=options.replace)
            return plan

        return targets(self.servers(server), plan)

    def _plan(self, selection: Selection, options: Options, server: Ollama | None) -> Plan:
        """The plan, with the service's own settings where the request says nothing."""
        options = replace(options, merge=options.merge or self.merge)
        name = options.from_ or selection.from_
        if selection.base is None and name is not None:
            found = self._base_on_disk(selection, name, server)
            if found is not None:
                selection, options = found, replace(options, from_=None)
        try:
            return make_plan(selection, options, self.templates, server)
        except Unusable as error:
            if selection.base is None:
                error.hint = " ".join(filter(None, (error.hint, self._shelf(selection))))
            raise

    def _base_on_disk(
        self, selection: Selection, name: str, server: Ollama | None
    ) -> Selection | None:
        """The adapter with the base `name` from this machine's disk, where Ollama has no such model
        or couldn't put an adapter on it; None where that isn't so, or there is none."""
        if server is not None and server.takes_adapters() and server.has_model(name):
            return None
        if name in self.storage.names():
            base = select(examine(_files(self.storage.model(name), f"../{name}/")))
            return with_base(selection, base, name=None)
        blob = base_blob(self.ollama_models, name) if self.ollama_models else None
        if blob is None:
            return None
        source = Source(str(blob), blob.stat().st_size, lambda: blob.open("rb"))
        return with_base(selection, select(examine([source])), name)

    def _shelf(self, selection: Selection) -> str:
        """A sentence that lists the models of the models directory which could be a base."""
        wanted = selection.facts()["architecture"]
        fitting = []
        for model in self.storage.models():
            facts = model.manifest().facts
            if "base" in (facts.get("kind") or "") and wanted in (None, facts.get("architecture")):
                fitting.append(model.name)
        return f"Here there are: {', '.join(fitting)}." if fitting else ""

    def _store(
        self, upload: Upload, archive: Archive, selection: Selection, script: Script
    ) -> Steps[None]:
        details = {"model": upload.filename}
        yield Line(*script.begin, details)
        yield Line(*script.middle, details)
        with phase("extract"):
            yield from follow(
                lambda report: upload.staging.extract(archive, selection.facts(), report),
                script.middle[1],
                script.success[1],
            )
        upload.staging.publish(upload.name)
        yield Line(*script.success, details)


def _files(model: Model, prefix: str = "") -> list[Source]:
    return [Source(prefix + file.name, file.size, file.open) for file in model.files()]


def _blocks(file: ModelFile) -> Iterator[bytes]:
    """The content of a file that is opened once it is asked for."""
    with file.open() as opened:
        yield from iter(partial(opened.read, BLOCK), b"")


def _entries(archive: Archive) -> list[Source]:
    return [
        Source(entry.name, entry.size, partial(archive.open, entry)) for entry in archive.entries
    ]

"""Upload, create, deploy, delete: a zip becomes a stored model, and that a model on Ollama.

What changes something is a generator: what it raises before its first line was known before any
work began and left nothing behind; the lines after that are the contract's.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from app.archive.reader import Archive
from app.metrics import phase
from app.ollama import names
from app.ollama.address import ollama_url
from app.ollama.client import Ollama
from app.ollama.errors import OllamaError
from app.planning.contents import examine
from app.planning.conversion import Conversion
from app.planning.options import BadRequest, Options
from app.planning.plan import Plan
from app.planning.selection import Selection, select, select_with_any_projector
from app.planning.unusable import Unfit
from app.progress import Report
from app.service.conversion import check
from app.service.install import Installation, Targets, targets_of
from app.service.keeping import KEPT_FOR, keep, keeping, say_kept
from app.service.lines import Line, Script, Steps, Task, follow
from app.service.planner import Planner, entries, held_by
from app.service.servers import check_any
from app.storage.directory import Storage
from app.storage.failures import NoSpace, NoSuchModel
from app.storage.model import Model
from app.storage.staging import Staging
from app.storage.tasks import TaskLog
from app.weights.errors import WeightsKilled

log = logging.getLogger(__name__)

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
class Wanted:
    """What is to become the model `new_name` on Ollama: the model `name`, or an upload that will be
    called so. `held` keeps what is held for the task until it ends."""

    selection: Selection
    name: str
    new_name: str
    options: Options
    task: str
    held: ExitStack


@dataclass(frozen=True)
class Service:
    """What the work is done with.

    `ollamas` gives the clients of the Ollama servers, each kept for what it has said; `verify`:
    have them load each model that was made, where a request doesn't say.
    """

    storage: Storage
    tasks: TaskLog
    planner: Planner
    ollamas: Callable[[], list[Ollama]]
    verify: bool = False

    def servers(self, asked: Sequence[str] = ()) -> list[Ollama]:
        """The Ollama servers of which at least one answers; only those at `asked` (as OLLAMA_HOST
        spells them) where any are given. Raises OllamaError at once where none answers, BadRequest
        where none is at one of `asked`."""
        servers = self._asked_for(asked)
        check_any(servers)
        return servers

    def _asked_for(self, asked: Sequence[str]) -> list[Ollama]:
        servers = self.ollamas()
        urls = {ollama_url(one): one for one in asked}
        if unknown := urls.keys() - {server.url for server in servers}:
            known = ", ".join(server.url for server in servers)
            spelled = ", ".join(repr(urls[url]) for url in urls if url in unknown)
            raise BadRequest(f"There is no Ollama server {spelled} here, only {known}.")
        return [server for server in servers if not urls or server.url in urls]

    def models(self, *, with_facts: bool) -> Steps[None]:
        """A line for each model, in name order; no file is opened unless its facts are wanted.

        One that vanishes meanwhile is left out: the line before waits until it is known to be one.
        The log names, once, what can't be listed.
        """
        self.say_unlisted()
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

    def say_unlisted(self) -> None:
        """Log, once each, the folders that can't be listed."""
        for sentence in self.storage.say_unlisted():
            log.warning("%s", sentence)

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
            selection = select_with_any_projector(examine(entries(archive)))
            yield from self._store(upload, archive, selection, UPLOAD)

    def create(
        self, task: Task, name: str, new_name: str, options: Options, asked: Sequence[str]
    ) -> Steps[None]:
        """Make the model `name` a model of every Ollama server, or of those `asked` for, called
        `new_name`."""
        names.check_name(new_name)
        with ExitStack() as held:
            held.enter_context(self.storage.hold(name, task.uuid))
            model = self.storage.model(name)
            servers = self._asked_for(asked)
            yield from follow(lambda report: check_any(servers), 0, 0)

            def plan(report: Report) -> Targets:
                selection = select(examine(model.files()), options.projector)
                wanted = Wanted(selection, model.name, new_name, options, task.uuid, held)
                return self.targets(wanted, servers, model.folder)

            targets = yield from follow(plan, 0, 0)
            yield from self.installation(model, targets, new_name, options, task).steps(CREATE)

    def deploy(
        self, task: Task, upload: Upload, new_name: str, options: Options, asked: Sequence[str]
    ) -> Steps[None]:
        """Upload, then create. What create would refuse is refused first; the upload is kept as a
        model, unless it is itself what is refused."""
        with task.failing_as(FAILED_CREATE), keeping(upload.staging):
            names.check_name(new_name)
        with ExitStack() as held:
            with upload.staging.archive() as archive:
                contents = examine(entries(archive))
                try:
                    selection = select(contents, options.projector)
                except Unfit as error:
                    keep(upload.staging, archive, select_with_any_projector(contents), error)
                    raise
                wanted = Wanted(selection, upload.name, new_name, options, task.uuid, held)

                def plan(report: Report) -> Targets:
                    return self.targets(wanted, self._asked_for(asked), upload.staging.folder)

                with task.failing_as(FAILED_CREATE):
                    try:
                        targets = yield from follow(plan, 0, 0)
                    except KEPT_FOR as error:
                        keep(upload.staging, archive, selection, error)
                        raise
                yield from self._store(upload, archive, selection, DEPLOY_UPLOAD)
            task.failure = FAILED_CREATE
            model = self.storage.model(upload.name)
            try:
                yield from self.installation(model, targets, new_name, options, task).steps(
                    DEPLOY_CREATE
                )
            except OllamaError as error:
                error.hint = error.hint or (
                    f"The upload is kept as model {model.name!r}: once Ollama is available again,"
                    " POST /models/create/ makes it, without a new upload."
                )
                raise
            except (NoSpace, WeightsKilled) as error:
                say_kept(model.name, error)
                raise

    def targets(self, wanted: Wanted, servers: Sequence[Ollama], folder: Path) -> Targets:
        """The servers that could take what is wanted, under a name that is held on each; what is
        read of an archive's files is copied below `folder`. Raises where none could."""
        hold = held_by(self.storage, wanted.name, wanted.task, wanted.held)
        checked: list[Conversion] = []  # all plans have the same one, if any

        def plan(server: Ollama) -> Plan:
            name = self.storage.hold_name_on_ollama(server.url, wanted.new_name, wanted.task)
            wanted.held.enter_context(name)
            plan = self.planner.plan(wanted.selection, wanted.options, server, hold)
            if plan.conversion is not None and not checked:
                check(plan.conversion, wanted.name, folder / "headers")
                checked.append(plan.conversion)
            server.check_free(wanted.new_name, replace=wanted.options.replace)
            return plan

        return targets_of(servers, plan)

    def installation(
        self, model: Model, targets: Targets, new_name: str, options: Options, task: Task
    ) -> Installation:
        verify = self.verify if options.verify is None else options.verify
        return Installation(self.storage, model, targets, new_name, task.uuid, options, verify)

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

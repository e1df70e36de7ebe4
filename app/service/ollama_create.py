"""Models made as Ollama's own clients ask for them: of files that they have sent by their digests.

What is said on the way is Ollama's own: each such line is a step's detail `ollama`.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from app.metrics import phase
from app.modelfile import grammar
from app.modelfile.grammar import Modelfile, ModelfileError
from app.ollama.client import Ollama
from app.ollama.errors import OllamaError
from app.planning.contents import examine
from app.planning.create_request import CreateRequest, Refused, modelfile, sha256_of
from app.planning.options import Options
from app.planning.selection import Selection, select
from app.planning.sent_files import check_files, names_in_folder
from app.progress import Report
from app.service.install import Targets
from app.service.lines import Line, Steps, Task, follow
from app.service.planner import entries
from app.service.servers import side_by_side
from app.service.work import CREATE, Service, Wanted
from app.storage.failures import NoSuchModel
from app.storage.model import Model
from app.storage.staging import Staging

MODELFILE = "Modelfile"


@dataclass(frozen=True)
class Creation:
    """One create request at work, for all Ollama servers; `keeps`: the model is kept here, too."""

    service: Service
    task: Task
    request: CreateRequest
    keeps: bool = True

    def steps(self) -> Steps[None]:
        """Make the model. What is raised leaves nothing behind but the blobs, which can be asked
        for again."""
        request, storage = self.request, self.service.storage
        servers = self.service.servers()
        files, base = self._files(servers), self._base(servers)
        if files is None:
            yield from self._relayed(servers)
            return
        adapters = request.adapters or {}
        digests = [*files.values(), *adapters.values()]
        with storage.staging(self.task.uuid) as staging, ExitStack() as held:
            name = storage.name_for_ollama(request.model)
            staging.hold(name)
            here = storage.blobs.find_all(digest[-64:] for digest in digests)
            found = {sha256: path for sha256, (path, _) in here.items()}
            for said in check_files(files, found):
                yield _said({"status": said})
            for said in check_files(adapters, found, are_adapters=True) if adapters else ():
                yield _said({"status": said})
            options = Options(quantize=request.quantization())
            staging.link_blobs(names_in_folder(files, adapters), here)
            yield from self._made(staging, name, base, options, servers, held)
        storage.blobs.remove(map(sha256_of, digests))

    def _files(self, servers: Sequence[Ollama]) -> Mapping[str, str] | None:
        """The files to make the model of, beside an adapter's: those of the stored model that it is
        made from, where no server can do that alone. None where there is nothing to do here."""
        request = self.request
        if request.from_ is None or request.adapters:
            return {} if request.from_ else request.files
        if request.quantize or not any(_has_model(server, request.from_) for server in servers):
            stored = self._stored(request.from_)
            files = stored.files() if stored else []
            if files and all(file.sha256 for file in files):
                return {
                    file.name: f"sha256:{file.sha256}" for file in files if file.name != MODELFILE
                }
        return None

    def _base(self, servers: Sequence[Ollama]) -> Modelfile | None:
        """The Modelfile of the model that this one is made from, if its values are to be taken
        over here: a server that puts the adapter on it takes them over itself."""
        from_ = self.request.from_
        if from_ is None:
            return None
        with suppress(OllamaError):
            if all(_has_model(server, from_) and server.takes_adapters() for server in servers):
                return None
        for server in servers:
            with suppress(OllamaError, ModelfileError):
                return grammar.parse(str(server.show(from_).get("modelfile", "")))
        stored = self._stored(from_)
        return examine(stored.files()).modelfile if stored else None

    def _stored(self, name: str) -> Model | None:
        """The model here that is called so, here or by Ollama."""
        stored = self.service.storage.find(name)
        with suppress(NoSuchModel):
            return self.service.storage.model(stored) if stored else None
        return None

    def _relayed(self, servers: Sequence[Ollama]) -> Steps[None]:
        """Have each server make the model of one that it has, or pulls."""
        new_name, uuid = self.request.model, self.task.uuid
        body = {**self.request.body, "stream": True}

        def create(report: Report) -> None:
            failures: dict[str, OllamaError] = {}

            def on_one(server: Ollama) -> None:
                def say(status: dict[str, Any]) -> None:
                    details = {"ollama": status, "server": server.url}
                    report(f"Ollama: {status.get('status', '')}", details)

                with self.service.storage.hold_name_on_ollama(server.url, new_name, uuid):
                    try:
                        server.create(body, say)
                    except OllamaError as error:
                        failures[server.url] = error

            side_by_side(partial(on_one, server) for server in servers)
            for server in servers:
                if server.url in failures:
                    raise failures[server.url]

        details = {"model": self.request.from_}
        yield Line(*CREATE.begin, details)
        with phase("create"):
            yield from follow(create, CREATE.begin[1], CREATE.success[1])
        yield Line(*CREATE.success, {**details, "model_name_on_ollama": new_name})

    def _made(
        self,
        staging: Staging,
        name: str,
        base: Modelfile | None,
        options: Options,
        servers: Sequence[Ollama],
        held: ExitStack,
    ) -> Steps[None]:
        """Make the model of what is in `staging`, and keep it as `name`."""
        new_name = self.request.model
        with staging.archive() as archive:
            text = self._modelfile(select(examine(entries(archive))), base)
        if text is not None:
            staging.add_text(MODELFILE, text)
        with staging.archive() as archive:
            selection = select(examine(entries(archive)))
            wanted = Wanted(selection, name, new_name, options, self.task.uuid, held)

            def plan(report: Report) -> Targets:
                return self.service.targets(wanted, servers, staging.folder)

            targets = yield from follow(plan, 0, 0)
            yield from follow(partial(staging.extract, archive, selection.facts()), 0, 0)
        model = staging.model(name)
        installation = self.service.installation(model, targets, new_name, options, self.task)
        try:
            last = yield from _but_last(installation.steps(CREATE))
        except Exception as error:
            if targets.servers and error in targets.failed.values():
                self._keep(staging, name)  # the others have the model
            raise
        self._keep(staging, name)
        yield last

    def _keep(self, staging: Staging, name: str) -> None:
        if self.keeps:
            staging.publish(name)

    def _modelfile(self, selection: Selection, base: Modelfile | None) -> str | None:
        """What the request says beside files, as the model's own Modelfile; None where that is
        nothing. Raises Refused where it is about a base that nobody names."""
        request = self.request
        parts = [part for part in (selection.base, selection.projector) if part is not None]
        bases = [path for part in parts for path in part.stated()]
        if not bases and request.from_:
            bases = [request.from_]
        if not (request.says_more or base or request.from_):
            return None
        if not bases:
            raise Refused("This is an adapter without a base model. Name its base in 'from'.")
        adapter = selection.adapter.stated()[0] if selection.adapter else None
        return modelfile(request, bases, adapter, base)


def _has_model(server: Ollama, name: str) -> bool:
    """Whether the server has the model, and says so."""
    with suppress(OllamaError):
        return server.has_model(name)
    return False


def _but_last(steps: Steps[None]) -> Steps[Line | None]:
    """The same steps but for the last, which is returned."""
    last = None
    for step in steps:
        if last is not None:
            yield last
        last = step
        if step is None or step.verbose:
            yield step
            last = None
    return last


def _said(status: dict[str, Any]) -> Line:
    return Line(f"Ollama: {status['status']}", 0, {"ollama": status}, verbose=True)

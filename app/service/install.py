"""Makes a stored model on Ollama servers, side by side, each by a plan of its own."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import quote

from app.formats.files import ModelFile
from app.metrics import phase
from app.ollama.bounded import number
from app.ollama.client import Ollama
from app.ollama.errors import BlobMissing, OllamaError, OllamaLost
from app.planning.bases import has_adapter
from app.planning.conversion import Conversion
from app.planning.options import Options
from app.planning.plan import Plan
from app.planning.unusable import Unusable
from app.progress import Report
from app.service.conversion import convert
from app.service.history import Made, recorded
from app.service.lines import Line, Script, Steps, follow, follow_past
from app.service.servers import prefetch, side_by_side
from app.storage.directory import Storage
from app.storage.model import Model


@dataclass
class Targets:
    """The servers that a model is to be made on, by their URLs, with the plan for each.

    A server that fails moves to `failed`; the work ends where none is left. `urls` are all of them,
    in their order.
    """

    urls: tuple[str, ...] = ()
    servers: dict[str, tuple[Ollama, Plan]] = field(default_factory=dict)
    failed: dict[str, Exception] = field(default_factory=dict)

    @contextmanager
    def attempt(self, url: str) -> Iterator[None]:
        """Let the block fail for that server alone."""
        try:
            yield
        except (OllamaError, Unusable) as error:
            self.failed[url] = error
            self.servers.pop(url, None)

    def change(self, change: Callable[[Plan], Plan]) -> None:
        """Change each server's plan."""
        for url, (server, plan) in self.servers.items():
            self.servers[url] = server, change(plan)

    def conversion(self) -> Conversion | None:
        """The conversion, which is the same one in each plan that has one."""
        return next((plan.conversion for _, plan in self.servers.values() if plan.conversion), None)

    def check(self) -> None:
        """Raise `failure()` where no server is left."""
        if not self.servers:
            raise self.failure()

    def failure(self) -> Exception:
        """What has failed, as one exception of the first one's kind; says where, and what became
        of the others, where there are several servers."""
        failed = [url for url in self.urls if url in self.failed]
        error = self.failed[failed[0]]
        if len(self.urls) > 1:
            error.args = (" ".join(f"On {url}: {self.failed[url]}" for url in failed),)
        if self.servers:
            made = f"On {', '.join(url for url in self.urls if url in self.servers)}"
            query = "&".join(f"server={quote(url, safe=':/[]')}" for url in failed)
            error.hint = (  # type: ignore[attr-defined]
                f"{made} the model was made. For the other{'s' * (len(failed) > 1)},"
                f" POST /models/create/?{query}"
            )
        return error


def targets_of(servers: Sequence[Ollama], make: Callable[[Ollama], Plan]) -> Targets:
    """A plan for each server. Raises what `make` raises where that isn't the server's own fault,
    and where it is so for all of them."""
    result = Targets(tuple(server.url for server in servers))
    missing = prefetch(servers)
    for server in servers:
        with result.attempt(server.url):
            if server.url in missing:
                raise missing[server.url]
            result.servers[server.url] = server, make(server)
    result.check()
    return result


@dataclass(frozen=True)
class Installation:
    """A stored model on its way to the servers of `targets`, as `new_name`; `verify`: have each
    load it and answer a token. `task` and `options` are kept in the model's history."""

    storage: Storage
    model: Model
    targets: Targets
    new_name: str
    task: str
    options: Options
    verify: bool = False

    def steps(self, script: Script) -> Steps[None]:
        """Convert where a plan says so, push, and create on every server. Raises what has failed
        on any of them, once the others have the model. However it ends, the model's history has
        it."""
        plan = next(plan for _, plan in self.targets.servers.values())
        made = Made(self.new_name, self.task, self.options, plan.modelfile)
        with recorded(self.model, made) as create:
            yield from self._steps(script, create)

    def _steps(self, script: Script, create: dict[str, Any]) -> Steps[None]:
        begin, middle, success = script.begin, script.middle, script.success
        details = {"model": self.model.name}
        facts = [{"server": url, **_facts(plan)} for url, (_, plan) in self.targets.servers.items()]
        yield Line(*begin, details, more=facts[0] if len(facts) == 1 else {"servers": facts})
        for url, error in self.targets.failed.items():
            about = {**details, "server": url, "server_ratio": 0.0, "error": str(error)}
            yield Line("Failed on one server.", begin[1], about, verbose=True)
        stored = {file.name: file for file in self.model.files()}
        self.targets.change(lambda plan: plan.located(stored))
        adapter = {key: facts[0][key] for key in ("adapter", "adapter_reason")}
        last_create = {"model_name_on_ollama": self.new_name, **adapter, "merged": None}
        start = begin[1]
        if conversion := self.targets.conversion():
            half = (begin[1] + middle[1]) / 2
            last_create |= yield from self._converted(conversion, start, half)
            start = half
        to_middle = (middle[1] - start) / (success[1] - start)
        yield from follow_past(
            Line(*middle, details), partial(self._on_all, to_middle), start, success[1]
        )
        if self.verify:
            last_create["verified"] = not self.targets.failed
        self.model.note(last_create=last_create)
        create.update(last_create, servers=list(self.targets.servers))
        if self.targets.failed:
            raise self.targets.failure()
        yield Line(*success, {**details, "model_name_on_ollama": self.new_name})

    def _converted(self, conversion: Conversion, start: float, end: float) -> Steps[dict[str, Any]]:
        """Convert, on the way from the ratio `start` to `end`; returns what the history is to say
        of it."""
        work = partial(convert, self.storage, self.model, conversion)
        with phase(conversion.phase):
            converted = yield from follow(work, start, end)
        self.targets.change(lambda plan: plan.with_converted(converted.file))
        made = {"tensors": converted.tensors, "recoded": list(converted.recoded)}
        notes = {"notes": list(converted.notes)}
        yield Line("Converted.", end, {"model": self.model.name, **made, **notes}, verbose=True)
        facts: dict[str, Any] = {}
        if conversion.adapter is not None:
            facts["merged"] = made
        if conversion.phase == "convert":
            facts["converted"] = {"quantize": conversion.quantize, "reason": conversion.reason}
        return facts | (notes if converted.notes else {})

    def _on_all(self, to_middle: float, report: Report, pass_middle: Callable[[], None]) -> None:
        """Make the model on all servers side by side; `to_middle` is the share that pushing has of
        it. `pass_middle` is called when the first one has got all of its files."""
        with phase("push"):
            self._hash(report)
        urls = list(self.targets.servers)
        shares = _Shares(report, urls)

        def on_one(url: str) -> None:
            with self.targets.attempt(url):
                with phase("push"):
                    self._push(url, partial(shares.report, url, 0.0, to_middle))
                pass_middle()
                with phase("create"):
                    self._create(url, partial(shares.report, url, to_middle, 1.0))
                if self.verify:
                    with phase("verify"):
                        self._verify(url, partial(shares.report, url, 1.0, 1.0))
            if len(urls) > 1:
                self._say_end(url, partial(shares.report, url, 1.0, 1.0))

        side_by_side(partial(on_one, url) for url in urls)
        self.targets.check()

    def _say_end(self, url: str, report: Report) -> None:
        error = self.targets.failed.get(url)
        if error is None:
            report("Made on one server.", {"model": self.model.name}, 1.0)
        else:
            report("Failed on one server.", {"model": self.model.name, "error": str(error)})

    def _hash(self, report: Report) -> None:
        """Have the digest of each file that any server is to get."""
        needed = {
            (file.model, file.name): file
            for _, plan in self.targets.servers.values()
            for file in plan.needed()
        }
        files = self.storage.hashed(self.model, needed.values(), report)
        known = dict(zip(needed, files, strict=True))
        self.targets.change(lambda plan: plan.replaced(lambda file: known[file.model, file.name]))

    def _push(self, url: str, report: Report) -> None:
        """Send the files that the server doesn't have."""
        server, plan = self.targets.servers[url]
        files = list(plan.needed())
        total, before = sum(file.size for file in files), 0
        for file in files:
            digest, path = file.sha256, file.path
            assert digest is not None
            assert path is not None

            def sent(count: int, file: ModelFile = file, before: int = before) -> None:
                details = {
                    "model": self.model.name,
                    "file": file.name,
                    "bytes": count,
                    "total_bytes": file.size,
                    "sha256": file.sha256,
                }
                report("Pushing.", details, (before + count) / total)

            if not server.has_blob(digest):
                try:
                    server.push_blob(path, digest, sent)
                except OllamaLost:
                    if not server.has_blob(digest):
                        server.push_blob(path, digest, sent)
            before += file.size

    def _create(self, url: str, report: Report) -> None:
        def say(status: dict[str, Any]) -> None:
            words = str(status.get("status", ""))
            total, completed = number(status.get("total")), number(status.get("completed"))
            done = completed / total if total and completed is not None else None
            report(f"Ollama: {words}", {"model": self.model.name, "ollama": status}, done)

        server, plan = self.targets.servers[url]
        body = plan.request(self.new_name)
        try:
            try:
                server.create(body, say)
            except BlobMissing:
                # Another client's create or delete may remove a blob at any time.
                self._push(url, report)
                server.create(body, say)
        except OllamaError as error:
            error.line = plan.modelfile.line_of_template_error(str(error))
            raise
        if plan.adapters and not has_adapter(server.show(self.new_name)):
            raise OllamaError(f"Ollama made {self.new_name!r} without its adapter.")

    def _verify(self, url: str, report: Report) -> None:
        server, _ = self.targets.servers[url]
        report("Verifying.", {"model": self.model.name})
        answered = server.verify(self.new_name)
        report("Verified.", {"model": self.model.name, "answered": answered})


class _Shares:
    """How far each server is, and so all of them together."""

    def __init__(self, report: Report, urls: Sequence[str]) -> None:
        self._report = report
        self._done = dict.fromkeys(urls, 0.0)

    def report(
        self,
        url: str,
        start: float,
        end: float,
        action: str,
        details: dict[str, Any],
        done: float | None = None,
    ) -> None:
        """Report of one server, which is on its way from the share `start` to `end`."""
        if done is not None:
            self._done[url] = max(self._done[url], start + (end - start) * min(done, 1.0))
        about = {"server": url, "server_ratio": round(self._done[url], 3)}
        overall = sum(self._done.values()) / len(self._done)
        self._report(action, {**details, **about}, None if done is None else overall)


def _facts(plan: Plan) -> dict[str, Any]:
    problems = {"problems": list(plan.problems)} if plan.problems else {}
    return {**plan.adapter_facts(), **problems}

"""A stored model onto Ollama servers: each with a plan of its own, none stopping the others."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from app.metrics import phase
from app.ollama.client import BlobMissing, Ollama, OllamaError, OllamaLost
from app.planning.contents import Unusable
from app.planning.plan import Plan
from app.progress import Report
from app.service.lines import Line, Script, Steps, follow
from app.service.merging import Merge, MergedFile, merged_file
from app.storage.directory import Storage
from app.storage.model import Model


@dataclass
class Targets:
    """The servers that a model is to be made on, by their URLs, with the plan for each.

    A server that fails moves to `failed`; the work ends where none is left.
    """

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

    def merged(self, name: str) -> None:
        """The merge, which is the same one in each plan that has one, has made the file `name`."""
        for url, (server, plan) in self.servers.items():
            if plan.merge is not None:
                self.servers[url] = server, plan.with_merged(name)

    def check(self) -> None:
        """Raise `failure()` where no server is left."""
        if not self.servers:
            raise self.failure()

    def failure(self) -> Exception:
        """What has failed, as one exception of the first one's kind; says where, and what became
        of the others, where there are several servers."""
        error = next(iter(self.failed.values()))
        if len(self.failed) + len(self.servers) > 1:
            error.args = (" ".join(f"On {url}: {one}" for url, one in self.failed.items()),)
        if self.servers:
            made = f"On {', '.join(self.servers)} the model was made."
            error.hint = (  # type: ignore[attr-defined]
                f"{made} For the other, POST /models/create/?server={next(iter(self.failed))}"
            )
        return error


def targets(servers: Sequence[Ollama], make: Callable[[Ollama], Plan]) -> Targets:
    """A plan for each server. Raises what `make` raises where that isn't the server's own fault,
    and where it is so for all of them."""
    result = Targets()
    for server in servers:
        with result.attempt(server.url):
            result.servers[server.url] = server, make(server)
    result.check()
    return result


def install(
    storage: Storage,
    model: Model,
    aims: Targets,
    new_name: str,
    script: Script,
) -> Steps[None]:
    """Merge where a plan says so, push, and create on every server. Raises what has failed on any
    of them, once the others have the model."""
    begin, middle, success = script.begin, script.middle, script.success
    details = {"model": model.name}
    ways = [{"server": url, **plan.way()} for url, (_, plan) in aims.servers.items()]
    yield Line(*begin, details, more=ways[0] if len(ways) == 1 else {"servers": ways})
    way = {key: value for key, value in ways[0].items() if key != "server"}
    last_create = {"model_name_on_ollama": new_name, **way, "merged": None}
    start = begin[1]
    merge = next((plan.merge for _, plan in aims.servers.values() if plan.merge), None)
    if merge is not None:
        half = (begin[1] + middle[1]) / 2
        with phase("merge"):
            merged = yield from follow(partial(_merge, storage, model, merge), start, half)
        aims.merged(merged.name)
        last_create["merged"] = {"tensors": merged.tensors, "recoded": list(merged.recoded)}
        start = half

    def push(url: str, report: Report) -> None:
        server, plan = aims.servers[url]
        digests[url] = _push(storage, model, plan, server, report)

    def create(url: str, report: Report) -> None:
        _create(storage, model, *aims.servers[url], new_name, digests[url], report)

    digests: dict[str, dict[str, str]] = {}
    with phase("push"):
        yield from follow(partial(_on_each, aims, push), start, middle[1])
    yield Line(*middle, details)
    with phase("create"):
        yield from follow(partial(_on_each, aims, create), middle[1], success[1])
    model.note(last_create=last_create)
    if aims.failed:
        raise aims.failure()
    yield Line(*success, {**details, "model_name_on_ollama": new_name})


def _on_each(aims: Targets, work: Callable[[str, Report], None], report: Report) -> None:
    """Do the work for one server after the other, and say which one it is for."""
    urls = list(aims.servers)
    for number, url in enumerate(urls):

        def report_here(
            action: str,
            details: dict[str, Any],
            done: float | None = None,
            number: int = number,
            url: str = url,
        ) -> None:
            overall = None if done is None else (number + done) / len(urls)
            report(action, {**details, "server": url}, overall)

        with aims.attempt(url):
            work(url, report_here)
    aims.check()


def _merge(storage: Storage, model: Model, merge: Merge, report: Report) -> MergedFile:
    digests = storage.digests(model, merge.files, report)
    return merged_file(storage, model, merge, digests, report)


def _push(
    storage: Storage, model: Model, plan: Plan, server: Ollama, report: Report
) -> dict[str, str]:
    """Send the files that the server doesn't have; the sha256 (hex) of all that it needs."""
    names = plan.needed()
    digests = storage.digests(model, names, report)
    sizes = {name: (model.folder / name).stat().st_size for name in names}
    total, before = sum(sizes.values()), 0
    for name in names:

        def sent(count: int, name: str = name, before: int = before) -> None:
            details = {
                "model": model.name,
                "file": name,
                "bytes": count,
                "total_bytes": sizes[name],
            }
            report("Pushing.", details, (before + count) / total)

        if not server.has_blob(digests[name]):
            try:
                server.push_blob(model.folder / name, digests[name], sent)
            except OllamaLost:
                if not server.has_blob(digests[name]):
                    server.push_blob(model.folder / name, digests[name], sent)
        before += sizes[name]
    return digests


def _create(
    storage: Storage,
    model: Model,
    server: Ollama,
    plan: Plan,
    new_name: str,
    digests: dict[str, str],
    report: Report,
) -> None:
    body = plan.request(new_name, digests)

    def say(status: dict[str, Any]) -> None:
        words = str(status.get("status", ""))
        total, completed = status.get("total"), status.get("completed")
        done = completed / total if total and isinstance(completed, int) else None
        report(f"Ollama: {words}", {"model": model.name, "ollama": status}, done)

    try:
        server.create(body, say)
    except BlobMissing:
        # Another client's create or delete may remove a blob at any time.
        _push(storage, model, plan, server, report)
        server.create(body, say)
    if plan.adapters and "\nADAPTER " not in server.show(new_name).get("modelfile", ""):
        raise OllamaError(f"Ollama made {new_name!r} without its adapter.")

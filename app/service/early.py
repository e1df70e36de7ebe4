"""What a deploy would be refused for in the end, found before its bytes are sent."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from app.modelfile import grammar
from app.modelfile.parameters import check_parameters
from app.ollama import names
from app.ollama.client import Ollama
from app.ollama.errors import OllamaError
from app.planning.bases import base_on_ollama
from app.planning.conversion import quantization
from app.planning.early import EarlyLook
from app.planning.options import Options
from app.planning.parts import Adapter, Base
from app.planning.selection import Selection
from app.planning.unusable import Unusable
from app.service.lines import Task
from app.service.work import FAILED_CREATE, Service


@dataclass(frozen=True)
class Asked:
    """What a request has said so far: the model's name on Ollama, if it came already, the options,
    and the servers that it is for, if it names any."""

    new_name: str | None
    options: Options
    servers: Sequence[str] = ()


def look_early(service: Service, task: Task, asked: Asked) -> EarlyLook:
    """Check what was asked, and return what then looks at the files as they arrive.

    Raises what the deploy itself would raise in the end. An Ollama that fails only while the files
    arrive is left for the deploy to find.
    """
    options = asked.options
    with task.failing_as(FAILED_CREATE):
        servers = _check_asked(service, asked)

    def check_base(base: Base) -> None:
        with task.failing_as(FAILED_CREATE):
            base_on_ollama(Selection(base=base), options, None)
            quantization(base, options)

    def check_adapter(adapter: Adapter) -> None:
        selection = Selection(adapter=adapter)
        with task.failing_as(FAILED_CREATE), suppress(OllamaError):
            _on_any(servers, partial(service.planner.plan, selection, options))

    return EarlyLook(check_base, check_adapter if options.from_ else None)


def _check_asked(service: Service, asked: Asked) -> Sequence[Ollama]:
    """The servers that may take the model. Raises where none would."""
    options = asked.options
    new_name = None if asked.new_name is None else names.check_name(asked.new_name)
    check_parameters(options.parameters)
    if options.modelfile is not None:
        grammar.parse(options.modelfile)
    if options.modelfile_template is not None:
        service.planner.templates.require(options.modelfile_template)
    servers = service.servers(asked.servers)

    if new_name is not None:
        check = partial(Ollama.check_free, name=new_name, replace=options.replace)
        _on_any(servers, check)
    return servers


def _on_any(servers: Sequence[Ollama], check: Callable[[Ollama], object]) -> None:
    """Raise what the first server's check has raised, where no server passes."""
    failures = []
    for server in servers:
        try:
            check(server)
            return
        except (OllamaError, Unusable) as error:
            failures.append(error)
    raise failures[0]

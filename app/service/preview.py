"""What would become of files that are still at the client, from their headers alone.

The plan is the one that a deploy would make: only what tensors and tokenizers hold isn't known.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from app.formats.files import ModelFile
from app.ollama.client import Ollama
from app.ollama.errors import OllamaError
from app.planning.contents import examine
from app.planning.options import Options
from app.planning.plan import Plan
from app.planning.selection import Selection, select
from app.planning.unusable import Unusable
from app.service.work import Service

# Bits a weight takes on average in Llama 3.1 8B. Source: llama.cpp, tools/quantize/README.md.
BITS = {
    **{"F32": 32.0, "F16": 16.0, "BF16": 16.0, "Q8_0": 8.5, "Q6_K": 6.56, "Q5_K_M": 5.7},
    **{"Q5_K_S": 5.57, "Q5_0": 5.57, "Q4_K_M": 4.89, "Q4_K_S": 4.67, "Q4_0": 4.66, "Q3_K_L": 4.3},
    **{"Q3_K_M": 4.0, "Q3_K_S": 3.64, "Q2_K": 3.16, "IQ4_NL": 4.68, "IQ4_XS": 4.46},
}


@dataclass(frozen=True)
class FileHead:
    """A file by its name, its size in bytes, and as much of its beginning as is known."""

    name: str
    size: int
    head: bytes

    def as_file(self) -> ModelFile:
        """The file, of which only its beginning can be read."""
        return ModelFile(self.name, self.size, lambda: BytesIO(self.head))


def preview(
    service: Service, heads: Iterable[FileHead], options: Options, asked: Sequence[str]
) -> dict[str, Any]:
    """What the files are, and what a deploy would do with them on each server.

    `bytes` is what the model would take there, about; None where it is on a base that only Ollama
    has. Raises what a deploy would: OllamaError where no server answers, Unusable for files that
    can't be used on any of them.
    """
    servers = service.servers(asked)
    selection = select(examine(head.as_file() for head in heads), options.projector)
    planned, failures = [], []
    for each in servers:
        try:
            plan = service.planner.plan(selection, options, each)
        except (OllamaError, Unusable) as error:
            failures.append(error)
            planned.append({"server": each.url, "error": str(error)})
        else:
            planned.append(_described(each, plan))
    if len(failures) == len(servers):
        raise failures[0]
    return {**selection.facts(), "base": _base(selection), "servers": planned}


def _base(selection: Selection) -> str | None:
    """What an adapter that comes alone is put on."""
    adapter = selection.adapter
    return selection.from_ or (adapter.base_name if adapter and not selection.base else None)


def _described(server: Ollama, plan: Plan) -> dict[str, Any]:
    conversion = plan.conversion
    steps = []
    if conversion is not None:
        is_merged = conversion.adapter is not None
        steps += ["merge"] * is_merged + ["convert"] * (not conversion.base.is_gguf)
        steps += ["quantize"] * (conversion.quantize is not None)
    return {
        "server": server.url,
        "steps": steps,
        "reason": conversion.reason if conversion else None,
        "quantize": conversion.quantize if conversion else plan.quantize,
        "bytes": _bytes(plan) if plan.from_ is None else None,
        "problems": list(plan.problems),
    }


def _bytes(plan: Plan) -> int:
    files: Sequence[ModelFile] = plan.needed()
    size = sum(file.size for file in files)
    if plan.conversion is None:
        return size
    base, quantize = plan.conversion.base, plan.conversion.quantize
    if quantize is None:
        return size + sum(file.size for file in base.files)
    return size + round(base.parameter_count * BITS[quantize] / 8)

"""The process that works on weights: see job.py, which starts it and says what the lines are."""

import gc
import json
import os
import resource
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from app.formats.tensor_types import FILE_TYPE_IS_GUESSED, FILE_TYPES, TENSOR_TYPES
from app.weights import write
from app.weights.adapters import apply_adapter, named_as_merged
from app.weights.errors import WeightsError
from app.weights.imatrix import read_imatrix
from app.weights.job import Job, Progress, Result
from app.weights.model import Model
from app.weights.quantize import quantize
from app.weights.read_gguf import read_gguf

REPORT_SECONDS = 0.1


def main() -> None:
    """Do the job on standard input; say what became of it on standard output."""
    gc.freeze()  # What is loaded stays: looking at it again costs the process 0.03 s.
    order = json.loads(_first_line())
    target = Path(order["target"]) if order["target"] else None
    _limit(**order["limits"])
    threading.Thread(target=_end_with_whoever_waits, args=(target,), daemon=True).start()
    say = _speaker()
    try:
        _do(Job(**order["job"]), target, say)
    except WeightsError as error:
        say({"error": str(error), "hint": error.hint})
    except MemoryError:
        say({"error": "The files take more memory to be read than they may.", "hint": None})
    except OSError as error:
        say({"errno": error.errno})


def _do(job: Job, target: Path | None, say: Callable[[dict[str, Any]], None]) -> None:
    model, plan = planned(job)
    say({"plan": asdict(plan)})
    if target is None:
        return
    said = 0.0

    def report(progress: Progress) -> None:
        nonlocal said
        if time.monotonic() - said > REPORT_SECONDS or progress.done == progress.total:
            said = time.monotonic()
            say({"progress": asdict(progress)})

    written = write.write_gguf(model, target, report)
    say({"result": asdict(replace(plan, sha256=written.sha256))})


def planned(job: Job) -> tuple[Model, Result]:
    """The model that the job makes, of which nothing but headers was read, and what is said of it.

    Raises WeightsError and OSError.
    """
    base = model = _read([Path(name) for name in job.model], job.name)
    if job.adapter:
        model = apply_adapter(model, [Path(name) for name in job.adapter], job.scale)
        model = named_as_merged(model, job.model[0], job.adapter)
    both = [(tensor, model.tensors[name]) for name, tensor in base.tensors.items()]
    changed = [new for old, new in both if new.rows is not old.rows]
    recoded = [new.name for old, new in both if new.type != old.type]
    if job.quantize:
        model = quantize(
            model, job.quantize, read_imatrix(Path(job.imatrix)) if job.imatrix else None
        )
    return model, Result(
        architecture=model.architecture,
        quantization=_quantization(model),
        size=write.size_of(model),
        parameters=sum(tensor.elements for tensor in model.tensors.values()),
        types=dict(Counter(TENSOR_TYPES[each.type].name for each in model.tensors.values())),
        changed=len(changed),
        recoded=tuple(recoded),
        notes=model.notes,
    )


def _read(files: Sequence[Path], name: str) -> Model:
    with files[0].open("rb") as file:
        if file.read(4) == b"GGUF":
            return read_gguf(files)
    from app.weights.convert import read_safetensors  # which a merge doesn't need

    return read_safetensors({path.name: path for path in files}, name=name)


def _quantization(model: Model) -> str:
    """As general.file_type says, else the type of most weights."""
    value = model.metadata.get("general.file_type")
    if value is not None and isinstance(value.content, int):
        name = FILE_TYPES.get(value.content & ~FILE_TYPE_IS_GUESSED)
        if name is not None:
            return name
    sizes: Counter[str] = Counter()
    for tensor in model.tensors.values():
        sizes[TENSOR_TYPES[tensor.type].name] += tensor.elements
    return sizes.most_common(1)[0][0]


def _first_line() -> bytes:
    """The job; whatever buffers standard input would hold a lock on it when the process ends."""
    line = b""
    while not line.endswith(b"\n") and (block := os.read(0, 2**16)):
        line += block
    return line


def _limit(memory_bytes: int, cpu_seconds: int | None = None) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    if cpu_seconds is not None:
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))


def _end_with_whoever_waits(target: Path | None) -> None:
    """Standard input ends with the process that holds it, however that ends."""
    while os.read(0, 1024):
        pass
    if target is not None:
        with suppress(OSError):
            target.unlink()
    os._exit(1)


def _speaker() -> Callable[[dict[str, Any]], None]:
    """Writes lines to what was standard output, which is no other code's to write to any more."""
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(line: dict[str, Any]) -> None:
        print(json.dumps(line), file=lines, flush=True)

    return say


if __name__ == "__main__":
    main()

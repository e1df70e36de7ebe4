"""Work on weights, done by a process of its own: `python -m app.weights`, of bounded memory.

This is what the service calls; numpy and whatever reads strangers' files stay in that process.
It gets the job as a line of JSON on its standard input, which stays open as long as somebody waits
for it, and answers in lines of JSON: {"progress"}, {"plan"}, then {"result"}, {"error", "hint"} or
{"errno"}.
"""

import errno
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from app.weights.errors import WeightsError, WeightsKilled

MEMORY_BYTES = 2**30
CHECK_SECONDS = 60
SILENCE_SECONDS = 600.0
_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Job:
    """What is to become one GGUF file. All files are paths on this machine.

    `model` is a GGUF, its shards in order, or all files of a safetensors folder. `adapter` is a
    GGUF, or PEFT's or MLX's config and weights; `scale` multiplies its alpha. `quantize` is one of
    tensor_types.QUANTIZATIONS; without it types stay as they are. `name` is what a model from a
    folder is called.
    """

    model: tuple[str, ...]
    adapter: tuple[str, ...] = ()
    scale: float = 1.0
    quantize: str | None = None
    imatrix: str | None = None
    name: str = "model"


@dataclass(frozen=True)
class Result:
    """What a job makes, or made: `sha256` (hex) is None as long as it is only planned.

    `size` is in bytes; `types` the number of tensors of each type; `changed` how many tensors the
    adapter changes, `recoded` those of them whose type has no encoder, so that they are written in
    a larger one.
    """

    architecture: str
    quantization: str
    size: int
    parameters: int
    types: dict[str, int]
    changed: int
    recoded: tuple[str, ...]
    notes: tuple[str, ...]
    sha256: str | None = None


@dataclass(frozen=True)
class Progress:
    """How far a file is written, in bytes and in whole tensors."""

    done: int
    total: int
    tensors: int


def check(job: Job) -> Result:
    """What the job would make, from headers and configs alone.

    Raises WeightsError where that can't work, WeightsKilled and OSError.
    """
    with _process(job, None, {"cpu_seconds": CHECK_SECONDS}) as lines:
        for line in lines:
            if line is not None and "plan" in line:
                return _result(line["plan"])
    raise AssertionError("A check ends with its plan.")


def run(
    job: Job,
    target: Path,
    report: Callable[[Progress | None], None],
    plan: Callable[[Result], None] = lambda plan: None,
) -> Result:
    """Write what the job makes to `target`, a new file, which is there only where this returns.

    `plan` is called before anything is written, `report` at least every second; what they raise
    ends the work. Raises WeightsError, WeightsKilled and OSError.
    """
    if target.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    try:
        with _process(job, target, {}) as lines:
            for line in lines:
                if line is not None and "plan" in line:
                    plan(_result(line["plan"]))
                elif line is not None and "result" in line:
                    return _result(line["result"])
                else:
                    report(Progress(**line["progress"]) if line else None)
        raise AssertionError("A job ends with its result.")
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _result(said: dict[str, Any]) -> Result:
    lists = {key: tuple(said[key]) for key in ("recoded", "notes")}
    return Result(**{**said, **lists})


@contextmanager
def _process(
    job: Job, target: Path | None, limits: dict[str, int]
) -> Iterator[Iterator[dict[str, Any] | None]]:
    """The process that does the job, as the lines that it says; it ends with the block."""
    kept = {key: value for key, value in os.environ.items() if "MODEL_HANDLER" not in key}
    process = subprocess.Popen(
        [sys.executable, "-m", "app.weights"],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # The threads of this work are its own; a BLAS that adds more only takes memory.
        env={**kept, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    order = {
        "job": asdict(job),
        "target": str(target) if target else None,
        "limits": {"memory_bytes": MEMORY_BYTES, **limits},
    }
    try:
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(order).encode() + b"\n")
            process.stdin.flush()
        yield _lines(process)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with suppress(BrokenPipeError):
            process.stdin.close()
        process.stdout.close()
        process.wait()


def _lines(process: "subprocess.Popen[bytes]") -> Iterator[dict[str, Any] | None]:
    """What the process says, None while it says nothing. Raises what it failed with."""
    assert process.stdout is not None
    descriptor, rest, heard = process.stdout.fileno(), b"", time.monotonic()
    while True:
        ready, _, _ = select.select([descriptor], [], [], _POLL_SECONDS)
        if not ready:
            if time.monotonic() - heard > SILENCE_SECONDS:
                raise WeightsKilled("The work on the weights made no progress and was stopped.")
            yield None
            continue
        heard = time.monotonic()
        block = os.read(descriptor, 2**16)
        if not block:
            raise _death(process.wait())
        *lines, rest = (rest + block).split(b"\n")
        for text in lines:
            line: dict[str, Any] = json.loads(text)
            if "error" in line:
                raise WeightsError(line["error"], line["hint"])
            if "errno" in line:
                raise OSError(line["errno"], os.strerror(line["errno"] or 0))
            yield line


def _death(code: int) -> Exception:
    if code == -signal.SIGXCPU:
        return WeightsError(f"The files take more than {CHECK_SECONDS} seconds to be read.")
    if code < 0:
        name = signal.Signals(-code).name
        return WeightsKilled(f"The process that works on the weights was killed ({name}).")
    return WeightsKilled(f"The process that works on the weights ended unexpectedly ({code}).")

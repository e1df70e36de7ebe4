"""A model's merged file: made by a process of its own, kept beside the model, and made once."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from app.planning.contents import Unusable
from app.progress import Report
from app.storage.directory import Storage
from app.storage.model import Model

FOLDER = ".merged"
METHOD = 1
"""Part of what a kept file is known by: to be raised when merging gives other bytes."""


@dataclass(frozen=True)
class Merge:
    """What is to be merged: names of files in the model's folder, and why.

    `adapter` is a GGUF, or safetensors weights with their `config`; `scale` multiplies alpha.
    """

    base: tuple[str, ...]
    adapter: str
    config: str | None
    scale: float
    reason: str

    @property
    def files(self) -> list[str]:
        """The names of all files that it reads."""
        return [*self.base, self.adapter, *([self.config] if self.config else [])]


@dataclass(frozen=True)
class MergedFile:
    """A merged model: its name in the model's folder, its digest and what was changed in it."""

    name: str
    sha256: str
    tensors: int
    recoded: Sequence[str]


def merged_file(
    storage: Storage, model: Model, merge: Merge, digests: Mapping[str, str], report: Report
) -> MergedFile:
    """The model's merged file, made now unless one of the same files and scale is there.

    `digests` are the sha256 (hex) of the merge's files, by name. The caller holds the model. Raises
    Unusable where the adapter doesn't fit or the result isn't finite, NoSpace and OSError.
    """
    known_by = [METHOD, merge.scale, *(digests[name] for name in merge.files)]
    key = sha256(json.dumps(known_by).encode()).hexdigest()[:32]
    folder = model.folder / FOLDER
    target, facts = folder / f"{key}.gguf", folder / f"{key}.json"
    with suppress(OSError, ValueError):
        return MergedFile(name=f"{FOLDER}/{target.name}", **json.loads(facts.read_bytes()))
    size = sum((model.folder / name).stat().st_size for name in merge.base)
    storage.require_space(size, "Merging the adapter into its base model")
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    try:
        merged = _run(model, merge, target, report)
        temporary = facts.with_suffix(".new")
        temporary.write_text(json.dumps(merged))
        temporary.rename(facts)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return MergedFile(name=f"{FOLDER}/{target.name}", **merged)


def _run(model: Model, merge: Merge, target: Path, report: Report) -> dict[str, Any]:
    """Have the merge done; what `app.weights.merge` says of its result."""
    job = {
        "base": [str(model.folder / name) for name in merge.base],
        "adapter": str(model.folder / merge.adapter),
        "config": str(model.folder / merge.config) if merge.config else None,
        "target": str(target),
        "scale": merge.scale,
        "note": f"merged with {Path(merge.adapter).name}",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "app.weights.merge"],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        with process.stdin as stdin, suppress(BrokenPipeError):
            json.dump(job, stdin)
        for line in process.stdout:
            said = json.loads(line)
            if "merged" in said:
                merged: dict[str, Any] = said["merged"]
                return merged
            if "error" in said:
                raise Unusable(said["error"])
            if "errno" in said:
                raise OSError(said["errno"], os.strerror(said["errno"] or 0))
            done, total = said["done"], said["total"]
            details = {"model": model.name, "bytes": done, "total_bytes": total}
            report("Merging.", {**details, "reason": merge.reason}, done / total)
        raise OSError(f"The merging process ended with exit code {process.wait()}.")
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()
        process.wait()

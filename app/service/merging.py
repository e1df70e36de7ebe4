"""A model's merged file: made by a process of its own, kept beside the model, and made once."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

from app.planning.contents import Unusable
from app.progress import Report
from app.service.converter import converted
from app.storage.directory import Storage
from app.storage.model import Model
from app.weights.errors import WeightsError
from app.weights.job import Job, Progress, Result, run

METHOD = 3
"""Part of what a kept file is known by: to be raised when merging gives other bytes."""


@dataclass(frozen=True)
class Merge:
    """What is to become one GGUF: names of files in the model's folder, and why.

    `base` are a GGUF, its shards, or all files of a safetensors model; `adapter` is a GGUF, or
    safetensors weights with their `config`; `scale` multiplies alpha. `quantize` is one of
    tensor_types.QUANTIZATIONS, `imatrix` a file's name, `beside` those of the tokenizer that was
    saved with the adapter. `command`, where there is one, makes a GGUF of the base first.
    """

    base: tuple[str, ...]
    adapter: str | None
    config: str | None
    scale: float
    reason: str
    quantize: str | None = None
    imatrix: str | None = None
    beside: tuple[str, ...] = ()
    command: tuple[str, ...] = ()

    @property
    def files(self) -> list[str]:
        """The names of all files that it reads."""
        known = filter(None, (self.adapter, self.config, self.imatrix))
        return [*self.base, *known, *self.beside]

    def job(self, model: Model) -> Job:
        """The work on the files, for the model they belong to."""
        folder = model.folder
        adapter = [*filter(None, (self.config, self.adapter)), *self.beside]
        return Job(
            model=tuple(str(folder / name) for name in self.base),
            adapter=tuple(str(folder / name) for name in adapter),
            scale=self.scale,
            quantize=self.quantize,
            imatrix=str(folder / self.imatrix) if self.imatrix else None,
            name=model.name,
        )


@dataclass(frozen=True)
class MergedFile:
    """A merged model: its name in the model's folder, its digest and what was changed in it."""

    name: str
    sha256: str
    tensors: int
    recoded: Sequence[str]
    notes: Sequence[str] = ()


def merged_file(
    storage: Storage, model: Model, merge: Merge, digests: Mapping[str, str], report: Report
) -> MergedFile:
    """The model's merged file, made now unless one of the same files and settings is there.

    `digests` are the sha256 (hex) of the merge's files, by name. The caller holds the model. Raises
    Unusable where the adapter doesn't fit or the result isn't finite, NoSpace, WeightsKilled and
    OSError.
    """
    name = f"{_key(model, merge, digests)}.gguf"
    if found := model.kept(name):
        path, facts = found
        with suppress(TypeError):
            return MergedFile(name=path.relative_to(model.folder).as_posix(), **facts)
    model.forget_kept()
    with storage.staging(str(uuid4())) as staging:
        staged = staging.folder / name
        made = _made(storage, model, merge, staged, report)
        facts = {
            "sha256": made.sha256 or "",
            "tensors": made.changed,
            "recoded": list(made.recoded),
            "notes": list(made.notes),
        }
        path = model.keep(staged, name, facts)
    return MergedFile(name=path.relative_to(model.folder).as_posix(), **facts)


def _key(model: Model, merge: Merge, digests: Mapping[str, str]) -> str:
    """What the file is kept under: by all that goes into it, wherever that lies."""
    adapter, imatrix = (
        Path(name).name if name else None for name in (merge.adapter, merge.imatrix)
    )
    settings = [
        METHOD,
        model.name,
        merge.scale,
        merge.quantize,
        adapter,
        merge.config is None,
        imatrix,
        *merge.command,
    ]
    inputs = [[Path(name).name, digests[name]] for name in merge.files]
    return sha256(json.dumps([settings, inputs]).encode()).hexdigest()[:32]


def _made(storage: Storage, model: Model, merge: Merge, staged: Path, report: Report) -> Result:
    job = merge.job(model)
    action = {"merge": "Merging.", "convert": "Converting."}[job.phase]
    heard = Progress(0, 1, 0)

    def reported(progress: Progress | None) -> None:
        nonlocal heard
        heard = progress or heard
        details = {
            "model": model.name,
            "bytes": heard.done,
            "total_bytes": heard.total,
            "tensors": heard.tensors,
            "reason": merge.reason,
        }
        report(action, details, heard.done / heard.total)

    def planned(plan: Result) -> None:
        nonlocal heard
        heard = Progress(0, plan.size, 0)
        storage.require_space(plan.size, f"{action.removesuffix('.')} the model")

    if merge.command:
        files = [model.folder / name for name in merge.base]
        size = sum(path.stat().st_size for path in files)
        storage.require_space(2 * size, "Converting the model")

        def written(count: int) -> None:
            report(action, {"model": model.name, "bytes": count, "reason": merge.reason})

        made = converted(merge.command, files, staged.parent, written)
        job = replace(job, model=(str(made),))
    try:
        return run(job, staged, reported, planned)
    except WeightsError as error:
        raise Unusable(str(error), error.hint) from error

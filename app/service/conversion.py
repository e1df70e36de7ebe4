"""A plan's conversion: checked before any work, done by a process of its own, and kept with the
model, so that it is done once."""

import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

from app.formats.files import ModelFile
from app.planning.conversion import Conversion
from app.planning.unusable import Unusable
from app.progress import Report
from app.service.converter import converted
from app.storage.directory import Storage
from app.storage.model import Model
from app.weights import job
from app.weights.errors import WeightsError
from app.weights.job import Job, Progress, Result

METHOD = 4
"""Part of what a result is kept under: to be raised when converting gives other bytes."""

BLOCK = 2**20
ACTIONS = {"merge": "Merging.", "convert": "Converting."}


@dataclass(frozen=True)
class Converted:
    """What was made: its file with digest, how many tensors the adapter has changed, those whose
    type has no encoder, so that they were written in a larger one, and notes on the rest."""

    file: ModelFile
    tensors: int
    recoded: Sequence[str]
    notes: Sequence[str]


def job_of(conversion: Conversion, name: str) -> Job:
    """The work on the conversion's files, which all lie on this machine, for the model `name`."""
    base, adapter, matrix = conversion.base, conversion.adapter, conversion.importance_matrix
    return Job(
        model=_paths(base.files),
        adapter=_paths((*adapter.files, *adapter.beside)) if adapter else (),
        scale=conversion.scale,
        quantize=conversion.quantize,
        imatrix=str(matrix.path) if matrix else None,
        name=name,
    )


def _paths(files: Sequence[ModelFile]) -> tuple[str, ...]:
    return tuple(str(file.path) for file in files)


def check(conversion: Conversion, name: str, folder: Path) -> None:
    """Raise Unusable where the conversion can't work, as far as headers and configs tell.

    `name` is the model's. Of files that are still within an archive, what is read of them is copied
    into `folder`, which is made and removed. What a command will make of a base isn't known before.
    """
    if conversion.command:
        return
    base, adapter = conversion.base, conversion.adapter
    try:
        on_disk = conversion.replaced(
            lambda file: file if file.path else _head(file, conversion, folder)
        )
        job.check(job_of(on_disk, name))
    except WeightsError as error:
        culprit = adapter.label if adapter is not None and base.is_gguf else base.label
        raise Unusable(f"{culprit}: {error}", error.hint) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _head(file: ModelFile, conversion: Conversion, folder: Path) -> ModelFile:
    """A copy of the file with its header alone, as large as the file, but taking no space for its
    tensors; of other files than weights, a whole copy."""
    path = folder / file.name
    path.parent.mkdir(parents=True, exist_ok=True)
    part = next((part for part in conversion.parts if file in part.files), None)
    with file.open() as source, path.open("xb") as copy:
        _copy(source, copy, part.header_bytes(file) if part else file.size)
        copy.truncate(file.size)
    return replace(file, path=path)


def _copy(source: BinaryIO, target: BinaryIO, count: int) -> None:
    while count and (block := source.read(min(BLOCK, count))):
        target.write(block)
        count -= len(block)


def convert(storage: Storage, model: Model, conversion: Conversion, report: Report) -> Converted:
    """What the conversion makes, made now unless it is kept with the model.

    The caller holds the model, and those whose files are read. Raises Unusable where the adapter
    doesn't fit or the result isn't finite, NoSpace, WeightsKilled and OSError.
    """
    files = conversion.files
    hashed = dict(zip(files, storage.hashed(model, files, report), strict=True))
    conversion = conversion.replaced(hashed.__getitem__)
    name = f"{_key(model.name, conversion)}.gguf"
    if kept := model.results.find(name):
        with suppress(TypeError):  # kept by another version
            return _converted(model, *kept)
    model.results.clear()
    with storage.staging(str(uuid4())) as staging:
        staged = staging.folder / name
        made = _made(storage, model, conversion, staged, report)
        facts = {
            "sha256": made.sha256,
            "tensors": made.changed,
            "recoded": made.recoded,
            "notes": made.notes,
        }
        inputs = [file.path for file in conversion.files if file.path]
        path = model.results.add(staged, name, facts, inputs, METHOD)
        return _converted(model, path, facts)


def _converted(model: Model, path: Path, facts: dict[str, Any]) -> Converted:
    facts = {"sha256": None, **facts}
    file = ModelFile(
        name=path.relative_to(model.folder).as_posix(),
        size=path.stat().st_size,
        open=lambda: path.open("rb"),
        path=path,
        sha256=facts.pop("sha256"),
    )
    return Converted(file=file, **facts)


def _key(name: str, conversion: Conversion) -> str:
    """What the result is kept under: by all that goes into it, wherever that lies."""
    base, adapter, matrix = conversion.base, conversion.adapter, conversion.importance_matrix
    roles = [
        base.files,
        adapter.files if adapter else (),
        adapter.beside if adapter else (),
        [matrix] if matrix else (),
    ]
    inputs = [[[Path(str(file.path)).name, file.sha256] for file in files] for files in roles]
    settings = [METHOD, name, conversion.scale, conversion.quantize, conversion.command]
    return sha256(json.dumps([settings, inputs]).encode()).hexdigest()[:32]


def _made(
    storage: Storage, model: Model, conversion: Conversion, staged: Path, report: Report
) -> Result:
    action = ACTIONS[conversion.phase]
    what = f"{action.removesuffix('.')} the model"
    asked, heard = job_of(conversion, model.name), Progress(0, 1, 0)

    def reported(progress: Progress | None) -> None:
        nonlocal heard
        heard = progress or heard
        details = {
            "model": model.name,
            "bytes": heard.done,
            "total_bytes": heard.total,
            "tensors": heard.tensors,
            "reason": conversion.reason,
        }
        report(action, details, heard.done / heard.total)

    def planned(plan: Result) -> None:
        nonlocal heard
        heard = Progress(0, plan.size, 0)
        storage.require_space(plan.size, what)

    if conversion.command:
        storage.require_space(2 * sum(file.size for file in conversion.base.files), what)

        def written(count: int) -> None:
            details = {"model": model.name, "bytes": count, "reason": conversion.reason}
            report(action, details)

        brought = [Path(path) for path in asked.model]
        made = converted(conversion.command, brought, staged.parent, written)
        asked = replace(asked, model=(str(made),))
    try:
        return job.run(asked, staged, reported, planned)
    except WeightsError as error:
        raise Unusable(str(error), error.hint) from error

"""A plan's conversion: checked before any work, done once, and kept with the model."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from app.formats.files import ModelFile
from app.planning.contents import Unusable
from app.planning.parts import GgufAdapter, GgufModel
from app.planning.plan import Conversion
from app.progress import Report
from app.service.merging import Merge, merged_file
from app.storage.directory import Storage
from app.storage.model import Model
from app.weights import job
from app.weights.errors import WeightsError

BLOCK = 2**20


@dataclass(frozen=True)
class Converted:
    """What was made: its file with digest, how many tensors the adapter has changed, those whose
    type has no encoder, so that they were written in a larger one, and notes on the rest."""

    file: ModelFile
    tensors: int
    recoded: tuple[str, ...]
    notes: tuple[str, ...]


def check(conversion: Conversion, name: str, folder: Path) -> None:
    """Raise Unusable where the conversion can't work, as far as headers and configs tell.

    `name` is the model's. Of files that are still within an archive, what is read of them is copied
    into `folder`, which is made and removed. What a command will make of a base isn't known before.
    """
    if conversion.command:
        return
    paths = {
        id(file): str(file.path or _head(file, conversion, folder)) for file in conversion.files
    }
    base, adapter, matrix = conversion.base, conversion.adapter, conversion.importance_matrix
    asked = job.Job(
        model=tuple(paths[id(file)] for file in base.files),
        adapter=(
            tuple(paths[id(file)] for file in (*adapter.files, *adapter.beside)) if adapter else ()
        ),
        scale=conversion.scale,
        quantize=conversion.quantize,
        imatrix=paths[id(matrix)] if matrix else None,
        name=name,
    )
    try:
        job.check(asked)
    except WeightsError as error:
        culprit = adapter.label if adapter is not None and base.is_gguf else base.label
        raise Unusable(f"{culprit}: {error}", error.hint) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _head(file: ModelFile, conversion: Conversion, folder: Path) -> Path:
    """A copy of the file with its header alone, as large as the file, but taking no space for its
    tensors; of other files than weights, a whole copy."""
    path = folder / file.name
    path.parent.mkdir(parents=True, exist_ok=True)
    with file.open() as source, path.open("xb") as copy:
        _copy(source, copy, _head_bytes(file, conversion))
        copy.truncate(file.size)
    return path


def _head_bytes(file: ModelFile, conversion: Conversion) -> int:
    base, adapter = conversion.base, conversion.adapter
    if isinstance(base, GgufModel):
        for each, header in zip(base.files, base.headers, strict=True):
            if each is file:
                return header.data_offset
    if isinstance(adapter, GgufAdapter) and file is adapter.files[0]:
        return adapter.header.data_offset
    if file.name.lower().endswith(".safetensors"):
        with file.open() as source:
            return 8 + int.from_bytes(source.read(8), "little")
    return file.size


def _copy(source: BinaryIO, target: BinaryIO, count: int) -> None:
    while count and (block := source.read(min(BLOCK, count))):
        target.write(block)
        count -= len(block)


def convert(storage: Storage, model: Model, conversion: Conversion, report: Report) -> Converted:
    """The file that the conversion makes, made now unless it is kept with the model.

    The caller holds the model, and those whose files are read. Raises Unusable, NoSpace,
    WeightsKilled and OSError.
    """
    hashed = iter(storage.hashed(model, conversion.files, report))
    base = [next(hashed) for _ in conversion.base.files]
    adapter = [next(hashed) for _ in (conversion.adapter.files if conversion.adapter else ())]
    beside = [next(hashed) for _ in (conversion.adapter.beside if conversion.adapter else ())]
    matrix = next(hashed, None)
    merge = Merge(
        base=tuple(str(file.path) for file in base),
        adapter=str(adapter[-1].path) if adapter else None,
        config=str(adapter[0].path) if len(adapter) > 1 else None,
        scale=conversion.scale,
        reason=conversion.reason,
        quantize=conversion.quantize,
        imatrix=str(matrix.path) if matrix else None,
        beside=tuple(str(file.path) for file in beside),
        command=conversion.command,
    )
    files = [*base, *adapter, *beside, *([matrix] if matrix else [])]
    digests = {str(file.path): file.sha256 or "" for file in files}
    made = merged_file(storage, model, merge, digests, report)
    path = model.folder / made.name
    file = ModelFile(
        name=made.name,
        size=path.stat().st_size,
        open=lambda: path.open("rb"),
        path=path,
        sha256=made.sha256,
    )
    return Converted(file, made.tensors, tuple(made.recoded), tuple(made.notes))

"""A plan's conversion: checked before any work, done once, and kept with the model."""

from dataclasses import dataclass

from app.formats.files import ModelFile
from app.planning.contents import Unusable
from app.planning.parts import GgufModel, SafetensorsAdapter
from app.planning.plan import Conversion
from app.progress import Report
from app.service.merging import Merge, merged_file
from app.storage.directory import Storage
from app.storage.model import Model


@dataclass(frozen=True)
class Converted:
    """What was made: its file with digest, how many tensors were changed, and those whose type has
    no encoder, so that they were written in a larger one."""

    file: ModelFile
    tensors: int
    recoded: tuple[str, ...]


def check(conversion: Conversion) -> None:
    """Raise Unusable where the conversion can't work, as far as headers and configs tell."""
    base, adapter = conversion.base, conversion.adapter
    if not isinstance(base, GgufModel) or not isinstance(adapter, SafetensorsAdapter):
        return
    from app.weights.adapters import check_adapter
    from app.weights.errors import WeightsError

    try:
        check_adapter(base.headers, adapter.header, adapter.config)
    except WeightsError as error:
        raise Unusable(f"{adapter.label}: {error}", error.hint) from error


def convert(storage: Storage, model: Model, conversion: Conversion, report: Report) -> Converted:
    """The file that the conversion makes, made now unless it is kept with the model.

    The caller holds the model, and those whose files are read. Raises Unusable, NoSpace, OSError.
    """
    hashed = storage.hashed(model, conversion.files, report)
    names = {file: str(file.path) for file in hashed}
    base, adapter = hashed[: len(conversion.base.files)], hashed[len(conversion.base.files) :]
    merge = Merge(
        base=tuple(names[file] for file in base),
        adapter=names[adapter[-1]],
        config=names[adapter[0]] if len(adapter) > 1 else None,
        scale=conversion.scale,
        reason=conversion.reason,
    )
    digests = {names[file]: file.sha256 or "" for file in hashed}
    merged = merged_file(storage, model, merge, digests, report)
    path = model.folder / merged.name
    file = ModelFile(
        name=merged.name,
        size=path.stat().st_size,
        open=lambda: path.open("rb"),
        path=path,
        sha256=merged.sha256,
    )
    return Converted(file, merged.tensors, tuple(merged.recoded))

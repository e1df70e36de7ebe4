"""What is told of models and uploads, without changing them."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from zipstream import ZipStream

from app.formats.files import ModelFile
from app.planning.contents import examine
from app.planning.description import describe_model
from app.planning.options import Options
from app.planning.selection import select, select_with_any_projector
from app.service.planner import entries
from app.service.work import Service, Upload
from app.storage.model import BLOCK


def describe(service: Service, name: str) -> dict[str, Any]:
    """What the model `name` is; a digest that isn't known yet is None."""
    model = service.storage.model(name)
    kept = model.manifest().facts
    files = {file.name: {"size": file.size, "sha256": file.sha256} for file in model.files()}
    selection = select_with_any_projector(examine(model.files()))
    templates, created_at = service.planner.templates, kept.get("created_at")
    described = describe_model(model.name, selection, files, templates, created_at)
    return {**described, "last_create": kept.get("last_create")}


def check(service: Service, upload: Upload) -> dict[str, Any]:
    """The description of an upload, every byte of which is read and none is kept."""
    with upload.staging.archive() as archive:
        selection = select_with_any_projector(examine(entries(archive)))
        files = {
            entry.name: {"size": entry.size, "sha256": archive.digest(entry)}
            for entry in archive.entries
        }
    described = describe_model(upload.name, selection, files, service.planner.templates, None)
    return {**described, "last_create": None}


def modelfile(service: Service, name: str, options: Options) -> str:
    """The Modelfile that `ollama create -f` takes in the model's folder."""
    selection = select(examine(service.storage.model(name).files()), options.projector)
    return service.planner.plan(selection, options, None).modelfile.text


@contextmanager
def zipped(service: Service, name: str) -> Iterator[ZipStream]:
    """The model's files as a zip, made while it is read; its `len()` is its size in bytes.

    A model deleted or replaced meanwhile is still read as it was. Raises NoSuchModel.
    """
    stream = ZipStream(sized=True)
    with service.storage.opened(name) as files:
        for file in files:
            stream.add(_blocks(file), file.name, size=file.size)
        yield stream


def _blocks(file: ModelFile) -> Iterator[bytes]:
    """The content of a file that is opened once it is asked for."""
    with file.open() as opened:
        yield from iter(partial(opened.read, BLOCK), b"")

"""The upload of a request that fails: kept, unless it is itself what is wrong."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from app.archive.limits import ArchiveError
from app.archive.reader import Archive
from app.metrics import phase
from app.modelfile.grammar import ModelfileError
from app.ollama.errors import OllamaError
from app.ollama.names import InvalidName
from app.planning.contents import examine
from app.planning.options import BadRequest
from app.planning.selection import Selection, select_with_any_projector
from app.planning.unusable import Unfit, Unusable
from app.service.planner import entries
from app.storage.failures import Busy, NoSuchModel, StorageError
from app.storage.staging import Staging

KEPT_FOR = (BadRequest, InvalidName, ModelfileError, OllamaError, Unfit, Busy, NoSuchModel)
"""What another request, or another moment, would put right, with the same files."""

STILL_HERE = "The upload is still here: send the same request again, without its bytes."
REMOVED = "The upload is removed, since no other request would make a model of it."


@contextmanager
def keeping(staging: Staging) -> Iterator[None]:
    """Where the block raises one of KEPT_FOR, keep the upload that has arrived in `staging`."""
    try:
        yield
    except KEPT_FOR as error:
        with suppress(ArchiveError, Unusable, StorageError, OSError), staging.archive() as archive:
            keep(staging, archive, select_with_any_projector(examine(entries(archive))), error)
        raise


@contextmanager
def removing(staging: Staging, *, is_complete: bool) -> Iterator[None]:
    """Where the block raises what says that a resumable upload can never become a model, have it
    removed, and `error` say so. One that isn't `is_complete` may do with other files beside it."""
    try:
        yield
    except (ArchiveError, Unusable) as error:
        is_of_no_use = is_complete and (isinstance(error, ArchiveError) or not _is_model(staging))
        if is_of_no_use or staging.is_of_no_use:
            staging.is_of_no_use = True
            _add_hint(error, REMOVED)
        raise


def _is_model(staging: Staging) -> bool:
    """Whether the upload could be stored, whatever can't be done with it."""
    with suppress(ArchiveError, Unusable), staging.archive() as archive:
        select_with_any_projector(examine(entries(archive)))
        return True
    return False


def keep(staging: Staging, archive: Archive, selection: Selection, error: Exception) -> None:
    """Make an upload the model that it was to become, and have `error` say so. A resumable one
    stays as it is: the same request can be sent again.

    Raises as Staging.extract and Staging.publish.
    """
    if staging.keeps_upload:
        _add_hint(error, STILL_HERE)
    else:
        name = staging.model_name
        with phase("extract"):
            staging.extract(archive, selection.facts(), _report_nothing)
        staging.publish(name)
        error.kept_as = name  # type: ignore[attr-defined]
        say_kept(name, error)


def say_kept(name: str, error: Exception) -> None:
    """Have `error` say that the upload is the model `name`."""
    _add_hint(
        error,
        f"The upload is kept as model {name!r}: POST /models/create/ makes it, without a new"
        " upload.",
    )


def _add_hint(error: Exception, said: str) -> None:
    error.hint = " ".join(filter(None, (getattr(error, "hint", None), said)))  # type: ignore[attr-defined]


def _report_nothing(action: str, details: object, done: float | None = None) -> None:
    """Nobody is told how far it is."""

"""What each failure means to a client: one table from exception to HTTP status."""

import errno
from dataclasses import dataclass
from typing import Any

from gunicorn.http.errors import ParseException
from werkzeug.exceptions import HTTPException

from app.archive import limits as archive
from app.modelfile import grammar as modelfile
from app.ollama import errors as ollama
from app.ollama.names import InvalidName
from app.planning import options as requested
from app.planning import unusable
from app.storage import failures as storage
from app.storage import tasks
from app.weights import errors as weights

STATUS: dict[type[Exception], int] = {
    requested.BadRequest: 400,
    storage.NameNotAllowed: 400,
    InvalidName: 400,
    modelfile.ModelfileError: 400,
    storage.NoSuchModel: 404,
    tasks.NoSuchTask: 404,
    tasks.TaskStopped: 409,
    storage.NoSuchUpload: 404,
    storage.Busy: 409,
    storage.WrongOffset: 409,
    storage.UploadUnfinished: 409,
    storage.ContentMissing: 409,
    storage.UploadTooLong: 413,
    storage.UploadLocked: 423,
    storage.ChecksumMismatch: 460,
    ollama.NameTaken: 409,
    archive.ArchiveError: 422,
    unusable.Unusable: 422,
    ollama.OllamaError: 502,
    ollama.OllamaSilent: 504,
    weights.WeightsError: 422,
    weights.WeightsKilled: 500,
    storage.NoSpace: 507,
}


SENTENCES = {
    400: "The request can't be read, or its body is shorter than its Content-Length says.",
    404: "There is nothing at this address. The page at /docs shows what there is.",
    405: "This address doesn't support that method. The Allow header lists those that it does.",
    413: "The request's body, one of its fields or the number of its parts exceeds the limit.",
}


ERROR_CHARACTERS = 4000


@dataclass(frozen=True)
class Failure:
    """What a client is told of a failure: HTTP status, a sentence, what may help, the line of the
    Modelfile that it is about, and the model that the upload is kept as."""

    status: int
    error: str
    hint: str | None = None
    line: int | None = None
    kept_as: str | None = None

    def details(self, *, verbose: bool = False) -> dict[str, Any]:
        """The keys that the contract adds to an error line's details; the others are more."""
        details: dict[str, Any] = {"error": self.error, "hint": self.hint}
        if verbose:
            details |= {"line": self.line, "kept_as": self.kept_as}
        return {key: value for key, value in details.items() if value}


def describe(error: Exception) -> Failure:
    """Turn any exception into what a client is told; never a path or a stack trace."""
    for kind in type(error).__mro__:
        if kind in STATUS:
            more = {name: getattr(error, name, None) for name in ("hint", "line", "kept_as")}
            return Failure(STATUS[kind], _clipped(str(error)), **more)
    if isinstance(error, ParseException):
        return Failure(400, f"The request's body can't be read: {_plain(error)}.")
    if isinstance(error, HTTPException):
        said = error.description if error.description != type(error).description else None
        told = said or SENTENCES.get(error.code or 500, error.name)
        return Failure(error.code or 500, _clipped(told))
    if isinstance(error, OSError):
        return _describe_os_error(error)
    return Failure(500, "The service failed unexpectedly.", "Its log says more.")


def _clipped(text: str) -> str:
    """The text without its middle, where it is longer than anybody reads."""
    half = ERROR_CHARACTERS // 2
    return text if len(text) <= ERROR_CHARACTERS else f"{text[:half]} … {text[-half:]}"


def _plain(error: Exception) -> str:
    return str(error)[:200].rstrip(".")


def _describe_os_error(error: OSError) -> Failure:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return Failure(
            507,
            "There is no space left for this in the models directory.",
            "Delete models that are no longer needed, or give it a larger disk.",
        )
    reason = error.strerror or type(error).__name__
    return Failure(500, f"The models directory can't be used: {reason}.", "The log says more.")

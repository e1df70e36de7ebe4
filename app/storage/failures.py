"""What the models directory raises."""

from collections.abc import Sequence


class StorageError(Exception):
    """The models directory can't be used that way."""


class NameNotAllowed(StorageError):
    """A model's name breaks names.NAME_RULE."""


class NoSuchModel(StorageError):
    """There is no model of that name."""


class Busy(StorageError):
    """Another task holds that model, or that name on Ollama."""


class NoSpace(StorageError):
    """The models directory's filesystem has too little room."""


class NoSuchUpload(StorageError):
    """There is no partial upload of that id, or no longer."""


class UploadLocked(StorageError):
    """Another request is writing to that partial upload."""


class WrongOffset(StorageError):
    """Bytes were sent for another place than the one where the partial upload goes on."""


class UploadTooLong(StorageError):
    """More bytes were sent than the partial upload was said to have."""


class ChecksumMismatch(StorageError):
    """What arrived isn't what its checksum says; nothing of it was taken."""


class WrongDigest(StorageError):
    """A file isn't what its digest says; `got` (hex) is that of what came."""

    def __init__(self, got: str) -> None:
        super().__init__("The file isn't what its digest says. Send it again.")
        self.got = got


class UploadUnfinished(StorageError):
    """The partial upload isn't whole yet."""


class ContentMissing(StorageError):
    """Files that a client said are here aren't; `names` are theirs."""

    def __init__(self, names: Sequence[str]) -> None:
        shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
        super().__init__(f"Not stored here (any more): {shown}. Send these files.")
        self.names = names

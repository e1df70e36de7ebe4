"""What can be wrong with a use of the models directory."""


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

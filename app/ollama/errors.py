"""What goes wrong with an Ollama server."""


class OllamaError(Exception):
    """Ollama can't be reached, or refused or broke off the work; carries its own words.

    `words` are those alone, and `answered` is the HTTP status that came with them, where it has
    refused something; `line` is that of the Modelfile which they are about, where that is known.
    """

    hint: str | None = None
    line: int | None = None
    words: str | None = None
    answered: int | None = None


class OllamaSilent(OllamaError):
    """Ollama didn't answer in time."""


class OllamaLost(OllamaError):
    """The connection couldn't be made or was broken off."""


class ModelMissing(OllamaError):
    """Ollama has no model of that name."""


class NameTaken(OllamaError):
    """Ollama has a model of that name already."""


class BlobMissing(OllamaError):
    """Ollama no longer has a blob that it had a moment ago."""


class NotFound(OllamaError):
    """The server has nothing there."""

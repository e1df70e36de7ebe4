"""model handler: from a zip of a fine-tuned model to a model on an Ollama server."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from app.factory import create_app

__all__ = ["create_app"]


def __getattr__(name: str) -> Any:
    """The factory, loaded once somebody asks for it: the processes that work on weights, which
    each merge starts anew, need nothing of it."""
    if name != "create_app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from app.factory import create_app

    return create_app

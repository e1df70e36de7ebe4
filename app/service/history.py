"""What a model's history keeps of each create, however it ends."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from app.modelfile.grammar import Modelfile
from app.ollama.errors import OllamaError
from app.planning.options import Options
from app.planning.unusable import Unusable
from app.storage.failures import StorageError
from app.storage.model import Model
from app.weights.errors import WeightsError, WeightsKilled

SAID_PLAINLY = (OllamaError, Unusable, StorageError, WeightsError, WeightsKilled)
"""Failures whose words are a sentence for whoever asked."""


@dataclass(frozen=True)
class Made:
    """A create that begins: the model's name on Ollama, the task, what was asked, and with which
    Modelfile."""

    new_name: str
    task: str
    options: Options
    modelfile: Modelfile


@contextmanager
def recorded(model: Model, made: Made) -> Iterator[dict[str, Any]]:
    """What is known of a create, to be added to while the block runs; kept with the model at its
    end, with how it ended: `succeeded`, `failed`, or `stopped` where its client has left."""
    create: dict[str, Any] = {"model_name_on_ollama": made.new_name, "servers": []}
    started, state, error, line = time.monotonic(), "stopped", None, None
    try:
        yield create
        state = "succeeded"
    except Exception as failure:
        state = "failed"
        error = str(failure) if isinstance(failure, SAID_PLAINLY) else None
        line = getattr(failure, "line", None)
        raise
    finally:
        ended = {
            "task_uuid": made.task,
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "seconds": round(time.monotonic() - started, 1),
            "state": state,
            "error": error,
            "line": line,
            "uploaded_at": model.manifest().facts.get("created_at"),
            "options": made.options.stated(),
            "modelfile": made.modelfile.text,
            "edited": made.options.modelfile is not None,
        }
        model.add_create(create | ended)

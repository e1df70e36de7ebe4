"""A stand-in for Ollama: a real HTTP server that answers as recorded from real ones.

It runs nothing: it stores blobs, reads GGUF headers, keeps models, and says what Ollama would say.
It does not pick a chat template by comparing `tokenizer.chat_template` with Ollama's list, and
doesn't pull models. The tests and the demo use it; the service knows nothing of it.
"""

from .faults import Gate, Recorded
from .server import Standin

__all__ = ["Gate", "Recorded", "Standin"]

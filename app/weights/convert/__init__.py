"""From a trainer's safetensors folder to a GGUF model."""

from app.weights.convert.architectures import ARCHITECTURES, CLASSES
from app.weights.convert.reader import read_safetensors

__all__ = ["ARCHITECTURES", "CLASSES", "read_safetensors"]

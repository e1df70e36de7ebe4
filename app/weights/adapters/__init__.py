"""Adapters of PEFT, mlx-lm and llama.cpp, merged into a model: Model to Model."""

from app.weights.adapters.apply import NOTE_KEY, apply_adapter, named_as_merged

__all__ = ["NOTE_KEY", "apply_adapter", "named_as_merged"]

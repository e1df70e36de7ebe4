"""Adapters of PEFT, mlx-lm and llama.cpp, merged into a model: Model to Model."""

from app.weights.adapters.apply import apply_adapter

__all__ = ["apply_adapter"]

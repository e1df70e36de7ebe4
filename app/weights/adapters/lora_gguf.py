"""LoRA adapters in GGUF, merged as llama.cpp applies them: src/llama-adapter.cpp and .h."""

from dataclasses import replace
from pathlib import Path

from app.formats.gguf import GGUFError, Header, Tensor
from app.formats.lora_gguf import EMBEDDING, check_fits
from app.weights.adapters.low_rank import (
    Added,
    EditedRows,
    ProductRows,
    product_of_experts,
    stack,
    with_rows,
)
from app.weights.model import Model, Rows, WeightsError
from app.weights.rows import StoredRows, TransposedRows


def apply_lora_gguf(model: Model, path: Path, header: Header, scale: float) -> Model:
    """The model with an adapter in GGUF merged into it. Raises WeightsError."""
    shapes = {name: tensor.shape for name, tensor in model.tensors.items()}
    try:
        passed_over = check_fits(model.architecture, shapes, header)
    except GGUFError as error:
        raise WeightsError(f"{path.name} {error}.") from error
    alpha = header.lora_alpha or 0.0
    tensors = dict(model.tensors)
    for name, a in header.tensors.items():
        if not name.endswith(".lora_a"):
            continue
        stem = name.removesuffix(".lora_a")
        b = header.tensors[f"{stem}.lora_b"]
        factor = scale * (alpha / b.shape[0] if alpha else 1.0)
        if factor == 0:
            continue
        left, right = _stored(path, b), _stored(path, a)
        tensor = model.tensors[stem]
        if stem == EMBEDDING:
            # A has a row for each token, and B one for each column.
            added: Rows = ProductRows(right, TransposedRows(left), factor)
        else:
            experts = tensor.shape[2] if len(tensor.shape) == 3 else 1
            added = product_of_experts(stack(left, experts), stack(right, experts), factor)
        rows = EditedRows(tensor.rows, (Added(added),), tensor.rows.count)
        tensors[stem] = with_rows(tensor, rows)
    notes = list(model.notes)
    if passed_over:
        notes.append(
            f"The adapter's norm vectors ({len(passed_over)} tensors) were passed over, as"
            " llama.cpp does."
        )
    return replace(model, tensors=tensors, notes=tuple(notes))


def _stored(path: Path, tensor: Tensor) -> StoredRows:
    columns = tensor.shape[0]
    return StoredRows(str(path), tensor.offset, tensor.type, columns, tensor.elements // columns)

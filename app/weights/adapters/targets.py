"""Which rows of which GGUF tensor a tensor of transformers is, in a model as it was converted.

Names and orders of rows are the converter's table; beside it, there are models whose queries, keys
and values (or gate and up) are one tensor on one side and several on the other.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from app.weights.convert.architecture import Architecture
from app.weights.convert.architectures import ARCHITECTURES
from app.weights.convert.config import Config
from app.weights.convert.keys import Keys
from app.weights.convert.llama import PERMUTED
from app.weights.convert.places import Place
from app.weights.convert.qwen import STACKED
from app.weights.convert.shapes import Expected
from app.weights.model import Model, Rows, Tensor, WeightsError
from app.weights.rows import ReshapedRows, SlicedRows

_FUSED = (
    (re.compile(r"self_attn\.([qkv])_proj(?=\.)"), "self_attn.qkv_proj", ("q", "k", "v")),
    (re.compile(r"mlp\.(gate|up)_proj(?=\.)"), "mlp.gate_up_proj", ("gate", "up")),
)


@dataclass(frozen=True)
class Target:
    """Rows of a GGUF tensor from `start` on (values, where it is a vector), and what goes there,
    with the lengths that they get. `is_part` is set for those of a part of a fused tensor."""

    tensor: str
    start: int
    rows: Rows
    lengths: Rows | None = None
    is_part: bool = False


def _unused(config: Config) -> Keys:
    raise NotImplementedError


def _no_shapes(config: Config) -> Iterator[tuple[str, Expected]]:
    return iter(())


# Not converted here, but known to llama.cpp's converter, which orders their rows so.
_MORE = {
    name: Architecture(name, (), _unused, _no_shapes, changes=changes)
    for changes, names in (
        (PERMUTED, ("minicpm", "deci", "arcee")),
        ((), ("starcoder2", "stablelm")),
    )
    for name in names
}


def architecture_of(model: Model) -> Architecture:
    """What is known of the model's architecture. Raises WeightsError for one that isn't known."""
    found = ARCHITECTURES.get(model.architecture) or _MORE.get(model.architecture)
    if found is None:
        known = ", ".join(sorted({*ARCHITECTURES, *_MORE}))
        raise WeightsError(
            f"Adapters in safetensors can't be merged into {model.architecture} models here;"
            f" known are {known}.",
            "Where it was trained, load it with PEFT, call merge_and_unload() on the model, save"
            " the result with save_pretrained(), convert that to GGUF, and zip it.",
        )
    return found if found.splits else replace(found, splits=STACKED)


def places(name: str, model: Model) -> list[Place]:
    """The converter's places of a tensor, under its name or one that a trainer gave it."""
    architecture = architecture_of(model)
    return architecture.places(name, model) or architecture.places(f"model.{name}", model)


def targets(name: str, rows: Rows, model: Model, lengths: Rows | None = None) -> list[Target]:
    """Where the rows of transformers' tensor `name` go in the model, in GGUF's order, and with them
    a matrix of one column.

    Raises WeightsError where the model has no such tensor, or one of another shape.
    """
    found = [
        _target(place, rows, model, lengths)
        for place in places(name, model)
        if place.name in model.tensors
    ]
    if found and all(_fits(target, model) for target in found):
        return found
    others = _in_fused(name, rows, model, lengths) or _in_parts(name, rows, model, lengths)
    if others and all(_fits(target, model) for target in others):
        return others
    if not found:
        raise WeightsError(
            f"The adapter changes {name.removesuffix('.weight')}, which the base model doesn't"
            " have.",
            "Send it with the base model that it was trained on.",
        )
    target = found[0]
    raise WeightsError(
        f"The adapter's change of {target.tensor} makes {target.rows.count}x{target.rows.columns}"
        f" where the base has {'x'.join(map(str, model.tensors[target.tensor].shape[::-1]))}.",
        "Send it with the base model that it was trained on.",
    )


def is_vector(tensor: Tensor) -> bool:
    return len(tensor.shape) == 1


def height(tensor: Tensor) -> int:
    """Rows of the tensor, or values of a vector."""
    return tensor.shape[0] if is_vector(tensor) else tensor.rows.count


def _target(place: Place, rows: Rows, model: Model, lengths: Rows | None) -> Target:
    tensor = model.tensors[place.name]
    changed = place.change(rows)
    start = 0
    if place.expert is not None:
        if len(tensor.shape) != 3 or place.expert >= tensor.shape[2]:
            raise WeightsError(
                f"The adapter changes expert {place.expert} of {place.name}, which the base model"
                " doesn't have."
            )
        start = place.expert * tensor.shape[1]
    return Target(
        place.name,
        start,
        _column(changed) if is_vector(tensor) else changed,
        place.change(lengths) if lengths is not None else None,
    )


def _column(rows: Rows) -> Rows:
    return ReshapedRows(rows, 1) if rows.count == 1 and rows.columns != 1 else rows


def _fits(target: Target, model: Model) -> bool:
    """Whether the rows fill a whole tensor, the whole of an expert, or the part that they are."""
    tensor = model.tensors[target.tensor]
    columns = 1 if is_vector(tensor) else tensor.shape[0]
    if target.rows.columns != columns:
        return False
    if target.is_part:
        return target.start + target.rows.count <= height(tensor)
    per_expert = tensor.shape[1] if len(tensor.shape) == 3 else 0
    return target.rows.count == height(tensor) or (
        target.rows.count == per_expert and target.start % per_expert == 0
    )


def _in_fused(name: str, rows: Rows, model: Model, lengths: Rows | None) -> list[Target]:
    """Queries, keys or values (or gate or up) where the model has them as one tensor."""
    for pattern, fused, parts in _FUSED:
        match = pattern.search(name)
        if match is None:
            continue
        for place in places(pattern.sub(fused, name), model):
            tensor = model.tensors.get(place.name)
            if tensor is None:
                continue
            sizes = _sizes(parts, height(tensor), model, place.name)
            number = parts.index(match[1])
            changed = _column(rows) if is_vector(tensor) else rows
            if changed.count == sizes[number]:
                return [Target(place.name, sum(sizes[:number]), changed, lengths, is_part=True)]
    return []


def _in_parts(name: str, rows: Rows, model: Model, lengths: Rows | None) -> list[Target]:
    """A fused tensor's rows where the model has several."""
    for pattern, fused, parts in _FUSED:
        if f"{fused}." not in name:
            continue
        found, start = [], 0
        prefix, group = pattern.pattern.split(r"\.")[0], fused.split(".")[1]
        for part in parts:
            own = name.replace(f"{prefix}.{group}.", f"{prefix}.{part}_proj.")
            for place in places(own, model):
                tensor = model.tensors.get(place.name)
                if tensor is None:
                    return []
                size = height(tensor)
                piece = _slice(rows, start, size)
                if piece is None:
                    return []
                found.append(_target(place, piece, model, lengths and _slice(lengths, start, size)))
                start += size
        whole = rows.columns if rows.count == 1 else rows.count
        return found if start == whole else []
    return []


def _slice(rows: Rows, start: int, count: int) -> Rows | None:
    if rows.count == 1 and rows.columns > 1:
        if start + count > rows.columns:
            return None
        return ReshapedRows(SlicedRows(ReshapedRows(rows, 1), start, count), count)
    return SlicedRows(rows, start, count) if start + count <= rows.count else None


def _sizes(parts: Sequence[str], total: int, model: Model, name: str) -> list[int]:
    if parts[0] == "gate":
        return [total // 2, total - total // 2]
    match = re.match(r"blk\.(\d+)\.", name)
    block = int(match[1]) if match else 0
    heads = model.integer("attention.head_count", block) or 0
    kv = model.integer("attention.head_count_kv", block) or heads
    if heads < 1 or kv < 1 or total % (heads + 2 * kv):
        return [0, 0, 0]
    size = total // (heads + 2 * kv)
    return [heads * size, kv * size, kv * size]

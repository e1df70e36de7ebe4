"""The architectures that can be converted, by GGUF's name and by transformers' class."""

from app.weights.convert import gemma, gemma4, gpt_oss, llama, others, qwen, qwen35
from app.weights.convert.architecture import Architecture
from app.weights.model import Model, Rows

ARCHITECTURES: dict[str, Architecture] = {
    each.name: each
    for module in (llama, qwen, qwen35, gemma, gemma4, gpt_oss, others)
    for each in module.ARCHITECTURES
}
CLASSES: dict[str, Architecture] = {
    name: each for each in ARCHITECTURES.values() for name in each.classes
}


def gguf_rows(
    name: str, rows: Rows, architecture: Architecture, model: Model
) -> dict[str, tuple[Rows, int | None]]:
    """The rows of the tensor `name` of transformers, as GGUF has them: by the names of GGUF's
    tensors, with the number of the expert where they are one's of a stack.

    The numbers of heads and experts come from `model`'s metadata. Empty for an unknown tensor.
    """
    return {
        place.name: (place.change(rows), place.expert) for place in architecture.places(name, model)
    }

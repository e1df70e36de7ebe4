"""Whether a LoRA adapter in GGUF fits a base model, by their headers."""

from collections.abc import Mapping, Sequence
from math import isfinite

from app.formats.gguf import GGUFError, Header

EMBEDDING = "token_embd.weight"
INVOCATION_TOKENS = "adapter.alora.invocation_tokens"


def check_adapter_fits(base: Sequence[Header], adapter: Header) -> tuple[str, ...]:
    """Raise GGUFError unless a LoRA adapter fits the base model (its shards' headers).

    Returns the names of its norm vectors, which are passed over as llama.cpp does.
    """
    shapes = {name: tensor.shape for header in base for name, tensor in header.tensors.items()}
    return check_fits(base[0].architecture, shapes, adapter)


def check_fits(
    architecture: str | None, shapes: Mapping[str, tuple[int, ...]], adapter: Header
) -> tuple[str, ...]:
    """Raise GGUFError unless a LoRA adapter fits a base model with tensors of these shapes.

    Rank and sides are checked as llama.cpp's llama-adapter.cpp does; of a token embedding, A and B
    are flipped. Returns the names of norm vectors, which are passed over.
    """
    if adapter.architecture != architecture:
        raise GGUFError(f"is for {adapter.architecture}, but the base model is {architecture}")
    if INVOCATION_TOKENS in adapter.metadata:
        raise GGUFError(
            "is an activated LoRA (aLoRA), which acts only after its invocation tokens, so that it"
            " can't be merged"
        )
    if adapter.lora_alpha is None or not isfinite(adapter.lora_alpha):
        raise GGUFError("has no usable adapter.lora.alpha; convert the adapter again")
    passed_over = []
    for name, tensor in adapter.tensors.items():
        if name.endswith("_norm.weight"):
            passed_over.append(name)
            continue
        stem, suffix = name.rpartition(".lora_")[::2]
        if stem == "" or suffix not in ("a", "b"):
            raise GGUFError(f"has the tensor {name}, which is no half of a LoRA pair")
        other = adapter.tensors.get(f"{stem}.lora_{'b' if suffix == 'a' else 'a'}")
        if other is None:
            raise GGUFError(f"has {name} without the other half of its pair")
        if stem not in shapes:
            raise GGUFError(f"changes {stem}, which the base model doesn't have")
        if suffix == "a":
            _check_shapes(stem, shapes[stem], tensor.shape, other.shape)
    return tuple(passed_over)


def _check_shapes(name: str, base: tuple[int, ...], a: tuple[int, ...], b: tuple[int, ...]) -> None:
    if name == EMBEDDING:
        fits = a[:1] == b[:1] and (*b[1:2], *a[1:]) == base
    else:
        fits = a[1:2] == b[:1] and (*a[:1], *b[1:]) == base and a[2:] == b[2:]
    if not fits or len(a) < 2 or len(b) < 2:
        raise GGUFError(
            f"doesn't fit {name}: lora_a is {_times(a)} and lora_b {_times(b)}"
            f" where the base has {_times(base)}"
        )


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))

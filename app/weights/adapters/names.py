"""The names in an adapter's file: what each tensor is, and of which module.

Source: peft, utils/save_and_load.py and utils/other.py; mlx-lm, tuner/lora.py and dora.py.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from app.formats import safetensors
from app.weights.model import WeightsError
from app.weights.quants import DTYPES

A, B, B_BIAS, MAGNITUDE, TOKENS = "A", "B", "B bias", "magnitude", "tokens"
EMBEDDING_A, EMBEDDING_B = "embedding A", "embedding B"
MLX_A, MLX_B = "mlx A", "mlx B"
_PARTS = {
    "lora_A": A,
    "lora_B": B,
    "lora_embedding_A": EMBEDDING_A,
    "lora_embedding_B": EMBEDDING_B,
    "lora_magnitude_vector": MAGNITUDE,
}
_PREFIX = "base_model.model."
_PEFT = re.compile(
    r"(?P<module>.+?)\.(?P<part>lora_(?:embedding_)?[AB]|lora_magnitude_vector)"
    r"(?:\.(?P<adapter>(?!(?:weight|bias)$)[^.]+))?(?:\.(?P<end>weight|bias))?"
)
_TOKENS = re.compile(
    r"(?P<module>.+)\.token_adapter\.trainable_tokens_delta(?:\.(?P<adapter>[^.]+))?"
)
_MLX = re.compile(r"(?P<module>.+)\.(?P<part>lora_a|lora_b|m)")
_SAVED = re.compile(r"\.modules_to_save(?:\.(?!(?:weight|bias)$)[^.]+)?(?=\.(?:weight|bias)$)")
_UNUSED = re.compile(
    r"\.original_module\.|\.trainable_tokens_original(\.|$)|\.token_adapter\.base_layer\."
    r"|\.lora_velora_|\.lora_monteclora_"
)


@dataclass
class AdapterTensors:
    """What an adapter's file holds, by names without PEFT's prefix: of each module the parts that
    change it, and `whole` tensors that take another one's place."""

    modules: dict[str, dict[str, safetensors.Tensor]] = field(default_factory=dict)
    whole: dict[str, safetensors.Tensor] = field(default_factory=dict)


def read_names(tensors: Mapping[str, safetensors.Tensor], mlx: bool) -> AdapterTensors:
    """Sort the tensors of an adapter's file. Raises WeightsError, which names the tensor."""
    contents = AdapterTensors()
    adapters: set[str] = set()
    for key, tensor in tensors.items():
        if _UNUSED.search(key):
            continue
        if tensor.dtype not in DTYPES:
            raise WeightsError(
                f"The adapter holds {key} as {tensor.dtype}; F32, F16 and BF16 can be merged.",
                "Save the adapter in one of those.",
            )
        if not tensor.shape or 0 in tensor.shape:
            raise WeightsError(
                f"The adapter's {key} is empty.",
                "It was saved in parts (DeepSpeed ZeRO-3, FSDP): gather them before saving.",
            )
        _sort(contents, adapters, key, tensor, mlx)
    if len(adapters) > 1:
        raise WeightsError(
            f"The file holds several adapters: {', '.join(sorted(adapters))[:200]}.",
            "Save one of them alone: save_pretrained(folder, selected_adapters=[...]).",
        )
    for module, parts in contents.modules.items():
        _check_parts(module, parts)
    return contents


def _sort(
    contents: AdapterTensors, adapters: set[str], key: str, tensor: safetensors.Tensor, mlx: bool
) -> None:
    name = key.removeprefix(_PREFIX)
    if mlx:
        match = _MLX.fullmatch(name)
        part = {"lora_a": MLX_A, "lora_b": MLX_B, "m": MAGNITUDE}[match["part"]] if match else ""
    else:
        match = _PEFT.fullmatch(name)
        part = _PARTS[match["part"]] if match else ""
        if match and match["end"] == "bias":
            if part != B:
                raise WeightsError(f"The adapter holds {key}, which isn't known here.")
            part = B_BIAS
        if match is None and (match := _TOKENS.fullmatch(name)):
            part = TOKENS
        if match and match["adapter"]:
            adapters.add(match["adapter"])
    if match is None:
        if ".lora_" in name:
            raise WeightsError(f"The adapter holds {key}, which is no half of a LoRA pair.")
        whole = _SAVED.sub("", name).replace(".base_layer.", ".")
        if whole in contents.whole:
            raise WeightsError(f"The adapter holds {whole} twice.")
        contents.whole[whole] = tensor
        return
    parts = contents.modules.setdefault(match["module"], {})
    if part in parts:
        raise WeightsError(f"The adapter holds {key} twice.")
    parts[part] = tensor


def _check_parts(module: str, parts: Mapping[str, safetensors.Tensor]) -> None:
    pairs = ((A, B), (EMBEDDING_A, EMBEDDING_B), (MLX_A, MLX_B))
    found = [pair for pair in pairs if pair[0] in parts or pair[1] in parts]
    if any((pair[0] in parts) != (pair[1] in parts) for pair in found) or len(found) > 1:
        raise WeightsError(f"The adapter holds only half of the pair for {module}.")
    if not found and (MAGNITUDE in parts or B_BIAS in parts):
        raise WeightsError(f"The adapter holds no pair for {module}.")
    for a, b in found:
        one, other = parts[a].shape, parts[b].shape
        if len(one) != len(other) or len(one) not in ((2, 3) if a == MLX_A else (2,)):
            raise WeightsError(
                f"The adapter's pair for {module} isn't of two matrices.",
                "It may have been saved in parts (DeepSpeed ZeRO-3, FSDP): gather them first.",
            )
        switch = len(one) == 3
        ranks = (one[1], other[2]) if switch else (one[0], other[1])
        if a == MLX_A and not switch:
            ranks = (one[1], other[0])
        if ranks[0] != ranks[1] or (switch and one[0] != other[0]):
            raise WeightsError(f"The adapter's two halves for {module} differ in rank.")

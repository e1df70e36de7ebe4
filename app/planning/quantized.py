"""Weights of a folder that are quantized already, in a layout that can't become a GGUF."""

from collections.abc import Iterable, Mapping
from typing import Any

from app.formats import safetensors
from app.planning.unusable import Unusable

_METHODS = {
    "bitsandbytes": "bitsandbytes",
    "gptq": "GPTQ",
    "awq": "AWQ",
    "fp8": "FP8",
    "fbgemm_fp8": "FP8",
    "compressed-tensors": "compressed-tensors",
}
# Tensors that only quantized weights have, by the ends of their names.
_TENSORS = {
    ".quant_state.bitsandbytes__nf4": "bitsandbytes",
    ".quant_state.bitsandbytes__fp4": "bitsandbytes",
    ".SCB": "bitsandbytes",
    ".qzeros": "GPTQ",
    ".weight_packed": "compressed-tensors",
    ".weight_scale_inv": "FP8",
}
_SAVE_16_BIT_ANYHOW = "Save the model in 16 bit (float16 or bfloat16) and zip that folder."
_SAVE_16_BIT = {
    "bitsandbytes": "Save it in 16 bit: with Unsloth, model.save_pretrained_merged(folder,"
    ' tokenizer, save_method="merged_16bit"); with PEFT, load the base with'
    " torch_dtype=torch.bfloat16 and without load_in_4bit or load_in_8bit, put the adapter on it,"
    " then merge_and_unload() and save_pretrained(folder). Or zip the adapter alone.",
    "MLX": "Save it in 16 bit: mlx_lm.fuse --de-quantize, or mlx_lm.convert --dequantize.",
    **dict.fromkeys(
        ("GPTQ", "AWQ"),
        "Use the model that it was quantized from, in 16 bit: load that one with"
        " torch_dtype=torch.bfloat16, put your adapter on it, merge_and_unload() and"
        " save_pretrained(folder).",
    ),
    **dict.fromkeys(
        ("FP8", "compressed-tensors"),
        "Use the 16 bit version of the model, or load this one with dequantize=True in its"
        " quantization config, and save_pretrained(folder).",
    ),
}


def quantized_by(config: Mapping[str, Any], headers: Iterable[safetensors.Header]) -> str | None:
    """Who has quantized the weights, where their layout isn't that of 16 or 32 bit."""
    stated = config.get("quantization_config")
    if isinstance(stated, dict):
        method = _METHODS.get(str(stated.get("quant_method")).lower())
        if method is not None:
            return method
    of_mlx = config.get("quantization")
    if isinstance(of_mlx, dict) and {"group_size", "bits"} <= of_mlx.keys():
        return "MLX"
    for header in headers:
        for name in header.tensors:
            for ending, method in _TENSORS.items():
                if name.endswith(ending):
                    return method
    return None


def refusal(label: str, method: str) -> Unusable:
    """Why the model of that label can't be converted, and how to save one that can."""
    return Unusable(
        f"{label} is quantized already, by {method}: that can't become a GGUF.",
        _SAVE_16_BIT.get(method, _SAVE_16_BIT_ANYHOW),
    )

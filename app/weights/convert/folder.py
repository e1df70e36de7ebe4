"""The safetensors files of a folder as one set of tensors, before any of them is read.

Shards are listed in an index as save_pretrained writes it (`model.safetensors.index.json`).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from app.formats.safetensors import SafetensorsError, open_header
from app.formats.safetensors import Tensor as Stored
from app.weights import quants
from app.weights.convert.config import read_json
from app.weights.model import WeightsError
from app.weights.rows import StoredRows

INDEX_BYTES = 64 * 2**20
OTHER_FILES = ("adapter_", "consolidated", "optimizer", "scheduler", "random_states")
_SHARD = re.compile(r".*-(\d{1,6})-of-(\d{1,6})\.safetensors")
_AGAIN = "Copy the folder again, whole, and zip it again."
_SOURCE = "Use the 16-bit model that it was made of, or save it in 16 bit."
UNSLOTH = '`model.save_pretrained_merged("out", tokenizer, save_method="merged_16bit")`'
QUANTIZED = {
    "bitsandbytes": (
        "bitsandbytes",
        f"Save it in 16 bit: with Unsloth {UNSLOTH}; with PEFT load the base without"
        " quantization_config in bfloat16, then `model.merge_and_unload().save_pretrained(...)`.",
    ),
    "gptq": ("GPTQ", _SOURCE),
    "awq": ("AWQ", _SOURCE),
    "fp8": (
        "FP8",
        "Save it in 16 bit: load it with"
        " `quantization_config=FineGrainedFP8Config(dequantize=True)`, then"
        " `model.save_pretrained(...)`.",
    ),
    "mxfp4": (
        "MXFP4",
        "Save it in 16 bit: load it with `quantization_config=Mxfp4Config(dequantize=True)`, then"
        " `model.save_pretrained(...)`.",
    ),
    "compressed-tensors": (
        "compressed-tensors",
        "Save it in 16 bit: load it with"
        " `quantization_config=CompressedTensorsConfig(run_compressed=False)`, then"
        " `model.save_pretrained(...)`.",
    ),
    "mlx": (
        "MLX",
        "Save it in 16 bit: `mlx_lm.convert --hf-path IN --mlx-path OUT --dequantize`, or fuse with"
        " `mlx_lm.fuse --dequantize`.",
    ),
}
_SIGNS = (
    (re.compile(r"\.(absmax|quant_map|nested_absmax|quant_state\b.*)$"), "bitsandbytes"),
    (re.compile(r"\.(qzeros|g_idx|qweight)$"), "gptq"),
    (re.compile(r"\.(weight_packed|weight_shape|weight_zero_point)$"), "compressed-tensors"),
    (re.compile(r"(\.weight_scale(_inv|_2)?|\.input_scale)$"), "fp8"),
    (re.compile(r"_proj_(blocks|scales)$"), "mxfp4"),
    (re.compile(r"\.(scales|biases)$"), "mlx"),
)


@dataclass(frozen=True)
class Source:
    """A tensor of the folder: its `shape` is row-major, `type` ggml's number of its type."""

    name: str
    shape: tuple[int, ...]
    type: int
    path: Path
    offset: int

    @property
    def rows(self) -> StoredRows:
        """Its values as a matrix: those of a vector in one row, experts one after the other."""
        columns = self.shape[-1] if self.shape else 1
        count = 1
        for size in self.shape[:-1]:
            count *= size
        return StoredRows(str(self.path), self.offset, self.type, columns, count)


def refuse_quantized(config: Mapping[str, Any]) -> None:
    """Raise WeightsError for weights that config.json calls quantised, with the way out."""
    for key in ("quantization_config", "compression_config", "quantization"):
        given = config.get(key)
        if not given:
            continue
        method = given.get("quant_method") if isinstance(given, dict) else None
        if key == "quantization":
            method = "mlx"
        raise quantized(str(method or given)[:40].lower())


def quantized(method: str) -> WeightsError:
    """The error for weights quantised with that method."""
    for sign, (name, way_out) in QUANTIZED.items():
        if method.startswith(sign):
            return WeightsError(
                f"The weights are quantised ({name}) and can't be converted.", way_out
            )
    return WeightsError(f"The weights are quantised ({method}) and can't be converted.", _SOURCE)


def read_sources(files: Mapping[str, Path]) -> dict[str, Source]:
    """The tensors of the folder's safetensors files, by name. `files` go by their names in the
    folder. Raises WeightsError, which names the file or the tensor."""
    shards = {
        name: path
        for name, path in files.items()
        if name.endswith(".safetensors") and not name.startswith(OTHER_FILES)
    }
    index = _index(files)
    if index is None:
        _check_numbers(shards)
    else:
        _check_files(index, shards)
    sources: dict[str, Source] = {}
    for name in sorted(shards):
        try:
            header = open_header(shards[name])
        except SafetensorsError as error:
            raise WeightsError(f"{name} {error}.", _AGAIN) from error
        for tensor in header.tensors.values():
            if tensor.name in sources:
                raise WeightsError(f"{name} has the tensor {tensor.name} once more.", _AGAIN)
            if index is not None and index.get(tensor.name) != name:
                raise WeightsError(
                    f"{name} has {tensor.name}, which the index doesn't list.", _AGAIN
                )
            sources[tensor.name] = _source(tensor, name, shards[name])
    if index is not None and (missing := sorted(index.keys() - sources.keys())):
        raise WeightsError(
            f"{index[missing[0]]} lacks {missing[0]}, which the index lists.", _AGAIN
        )
    if not sources:
        raise WeightsError("The folder has no weights: no *.safetensors file.", _AGAIN)
    return sources


def _source(tensor: Stored, name: str, path: Path) -> Source:
    for sign, method in _SIGNS:
        if sign.search(tensor.name):
            raise quantized(method)
    if tensor.dtype not in quants.DTYPES and not is_buffer(tensor.name):
        if tensor.dtype.startswith("F8_"):
            raise quantized("fp8")
        raise WeightsError(
            f"{name} has {tensor.name} as {tensor.dtype}; weights must be BF16, F16 or F32.",
            "Save the model in 16 bit: `model.to(torch.bfloat16).save_pretrained(...)`.",
        )
    kind = quants.DTYPES.get(tensor.dtype, quants.F32)
    return Source(tensor.name, tensor.shape, kind, path, tensor.offset)


def is_buffer(name: str) -> bool:
    """Whether the tensor is computed anew whenever a model is loaded."""
    return name.endswith((".rotary_emb.inv_freq", ".attention.masked_bias", ".attention.bias"))


def _index(files: Mapping[str, Path]) -> dict[str, str] | None:
    """The names of the files that hold each tensor; None without an index."""
    for name in sorted(files):
        if name.endswith(".safetensors.index.json") and not name.startswith(OTHER_FILES):
            places = read_json(files[name], name, INDEX_BYTES).get("weight_map")
            if not isinstance(places, dict) or not all(
                isinstance(place, str) for place in places.values()
            ):
                raise WeightsError(f"{name} has no weight_map of names to files.", _AGAIN)
            return places
    return None


def _check_files(index: Mapping[str, str], shards: Mapping[str, Path]) -> None:
    listed = set(index.values())
    if missing := sorted(listed - shards.keys()):
        raise WeightsError(
            f"{PurePosixPath(missing[0]).name} is missing: the index lists it.", _AGAIN
        )
    if unlisted := sorted(shards.keys() - listed):
        raise WeightsError(
            f"{unlisted[0]} isn't listed in the index.",
            "Remove it if it isn't part of the model, or save the model again.",
        )


def _check_numbers(shards: Mapping[str, Path]) -> None:
    """Without an index, the names of shards tell whether all are there."""
    numbered = {name: match for name in shards if (match := _SHARD.fullmatch(name))}
    if not numbered:
        if len(shards) > 1:
            raise WeightsError(
                f"The folder has {', '.join(sorted(shards)[:4])}, and no index says which are the"
                " model's.",
                "Add model.safetensors.index.json, or remove what isn't the model's.",
            )
        return
    total = max(int(match[2]) for match in numbered.values())
    have = {int(match[1]) for match in numbered.values()}
    if len(have) != len(shards) or have != set(range(1, total + 1)):
        raise WeightsError(
            f"The folder has {len(shards)} of {total} shards, and no index.",
            _AGAIN,
        )

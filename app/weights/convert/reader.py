"""A safetensors folder, as save_pretrained writes it, read as the model that becomes a GGUF."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from app.formats.tensor_types import TENSOR_TYPES
from app.weights import quants
from app.weights.convert.architecture import Architecture, plain_name
from app.weights.convert.architectures import CLASSES
from app.weights.convert.config import Config, class_names, model_config, read_json
from app.weights.convert.folder import Source, is_buffer, read_sources, refuse_quantized
from app.weights.convert.general import general_keys
from app.weights.convert.keys import text, whole
from app.weights.model import Model, Rows, Tensor, Value, WeightsError
from app.weights.rows import ArrayRows, JoinedRows
from app.weights.tokenizers import tokenizer_metadata

Tokenizer = Callable[
    [Mapping[str, Path], Mapping[str, Any], int], tuple[Mapping[str, Value], tuple[str, ...]]
]
"""Makes the `tokenizer.*` metadata of a folder's files, its config.json and the embedding's rows,
and sentences on what became of it."""

FILE_TYPES = {quants.F32: 0, quants.F16: 1, quants.BF16: 32}
_BLOCK = re.compile(r"\blayers\.(\d{1,6})\.")
_OTHER_PARTS = re.compile(
    r"(^|\.)(vision_tower|vision_model|visual|multi_modal_projector|audio_tower|embed_vision"
    r"|embed_audio|mm_projector|image_newline|patch_merger)\b"
)
_PREDICTORS = re.compile(r"^(model\.)?mtp\.")
_FULL_PRECISION = re.compile(
    r"_norm\.weight$|\.ffn_gate_inp(_shexp)?\.weight$|\.ssm_conv1d\.weight$"
)


def read_safetensors(
    files: Mapping[str, Path] | Iterable[Path],
    *,
    name: str | None = None,
    tokenizer: Tokenizer = tokenizer_metadata,
    type: int | None = None,
) -> Model:
    """The model in a folder: `files` are its files, by their names in it or all in one place;
    `name` is what the model is called, as that place is without.

    Matrices get ggml's `type` (F32, F16 or BF16), or, without one, that of the first matrix that
    is in 16 bit, F16 where none is; vectors are F32. The tokenizer is `app.weights.tokenizers`'
    where no other is given. Only headers and JSON files are read here. Raises WeightsError, which
    names the file or the tensor, and OSError.
    """
    if not isinstance(files, Mapping):
        files = {path.name: path for path in files}
    if "config.json" not in files:
        raise WeightsError(
            "The folder has no config.json.", "Zip the whole folder that save_pretrained wrote."
        )
    values = read_json(files["config.json"], "config.json")
    refuse_quantized(values)
    architecture = _architecture(class_names(values))
    config = model_config(values, architecture.defaults)
    sources, notes = _own(read_sources(files), values)
    _check_blocks(config, sources)
    expected = _expected(architecture, config, sources)
    kind = _type(sources.values()) if type is None else type
    keys = {f"{architecture.name}.{key}": value for key, value in architecture.keys(config).items()}
    numbers = Model(architecture.name, keys, {})
    tensors = _tensors(architecture, config, numbers, expected, kind)
    vocabulary, remarks = tokenizer(files, values, sources["model.embed_tokens.weight"].shape[0])
    name = name or files["config.json"].absolute().parent.name
    metadata = {
        "general.architecture": text(architecture.name),
        **general_keys(name, values, files, tensors.values()),
        "general.file_type": whole(FILE_TYPES[kind]),
        **keys,
        **vocabulary,
    }
    return Model(architecture.name, metadata, tensors, notes=(*notes, *remarks))


def _architecture(names: Sequence[str]) -> Architecture:
    for name in names:
        if name in CLASSES:
            return CLASSES[name]
    raise WeightsError(
        f"The architecture {names[0][:60]} isn't one of those that can be converted here:"
        f" {', '.join(sorted(CLASSES))}.",
        "Convert it elsewhere and send the GGUF, or have the service's owner set"
        " MODEL_HANDLER_CONVERTER to the command of a llama.cpp checkout.",
    )


def _own(
    sources: Mapping[str, Source], values: Mapping[str, Any]
) -> tuple[dict[str, Source], tuple[str, ...]]:
    """The tensors of the language model, by their names in one that has no other parts, and what
    was left out."""
    own: dict[str, Source] = {}
    others = predictors = 0
    composite = isinstance(values.get("text_config"), dict)
    for name, source in sources.items():
        if composite and _OTHER_PARTS.search(name):
            others += 1
        elif _PREDICTORS.search(name):
            predictors += 1
        elif not is_buffer(name):
            plain = plain_name(name)
            if plain in own:
                raise WeightsError(f"The folder has both {own[plain].name} and {name}.")
            own[plain] = source
    notes = []
    if others:
        notes.append(
            f"Only the text part was converted: {others} tensors for images or sound were left out."
        )
    if predictors:
        notes.append(f"{predictors} tensors that predict further tokens (MTP) were left out.")
    return own, tuple(notes)


def _check_blocks(config: Config, sources: Mapping[str, Source]) -> None:
    """config.json's number of blocks must be that of the tensors' names."""
    named = {int(match[1]) for name in sources if (match := _BLOCK.search(name))}
    blocks = config.need("num_hidden_layers")
    if blocks > len(named):
        raise WeightsError(
            f"config.json has num_hidden_layers={blocks}, but the folder has tensors of only"
            f" {len(named)} blocks.",
            "Copy the folder again, whole, with its own config.json.",
        )


def _expected(
    architecture: Architecture, config: Config, sources: Mapping[str, Source]
) -> dict[str, Source]:
    """The tensors in the order in which config.json calls for them; each must be there, in its
    shape, and no other."""
    found: dict[str, Source] = {}
    for name, expected in architecture.shapes(config):
        source = sources.get(name)
        if source is None:
            if not expected.optional:
                raise WeightsError(
                    f"{name} is missing, which config.json calls for.",
                    "Copy the folder again, whole, with its own config.json.",
                )
            continue
        if source.shape != expected.shape:
            raise WeightsError(
                f"{source.name} is {_times(source.shape)}, but by config.json it must be"
                f" {_times(expected.shape)}.",
                "Zip the weights with their own config.json.",
            )
        found[name] = source
    if unknown := next((name for name in sources if name not in found), None):
        raise WeightsError(
            f"{sources[unknown].name} isn't a tensor that config.json calls for.",
            "Zip the weights with their own config.json; merge an adapter before, or send it as"
            " one.",
        )
    return found


def _times(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape)) or "a single value"


def _type(sources: Iterable[Source]) -> int:
    """The type of matrices that llama.cpp's converter chooses: that of the first in 16 bit."""
    for source in sources:
        if len(source.shape) > 1 and source.type in (quants.F16, quants.BF16):
            return source.type
    return quants.F16


def _tensors(
    architecture: Architecture,
    config: Config,
    numbers: Model,
    sources: Mapping[str, Source],
    kind: int,
) -> dict[str, Tensor]:
    """GGUF's tensors, each made of those of transformers that go there."""
    parts: dict[str, list[tuple[int | None, Rows]]] = {}
    ranks: dict[str, int] = {}
    for name, source in sources.items():
        places = architecture.places(name, numbers)
        if not places:
            raise WeightsError(f"GGUF's {architecture.name} has no tensor for {source.name}.")
        for place in places:
            parts.setdefault(place.name, []).append((place.expert, place.change(source.rows)))
            ranks[place.name] = len(source.shape)
    tensors = {
        name: Tensor(name, (len(factors),), quants.F32, ArrayRows(factors.reshape(1, -1)))
        for name, factors in architecture.extra(config).items()
    }
    for name, found in parts.items():
        tensors[name] = _tensor(name, found, ranks[name], numbers, kind)
    return tensors


def _tensor(
    name: str,
    parts: Sequence[tuple[int | None, Rows]],
    rank: int,
    numbers: Model,
    kind: int,
) -> Tensor:
    stack = [rows for _, rows in sorted(parts, key=lambda part: part[0] or 0)]
    rows = stack[0] if len(stack) == 1 else JoinedRows(stack)
    shape: tuple[int, ...] = (rows.columns, rows.count)
    if parts[0][0] is not None:
        shape = (rows.columns, stack[0].count, len(stack))
    elif rank == 3 and (experts := numbers.integer("expert_count")):
        shape = (rows.columns, rows.count // experts, experts)
    elif rank < 2:
        shape = (rows.columns,)
    vector = len(shape) < 2 or not name.endswith(".weight") or _FULL_PRECISION.search(name)
    type = quants.F32 if vector else kind
    if rows.columns % TENSOR_TYPES[type].block:
        raise WeightsError(f"{name} has rows of {rows.columns} values.")
    return Tensor(name, shape, type, rows)

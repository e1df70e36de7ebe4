"""The parts of a model that are safetensors: folders in Hugging Face's and MLX's layout."""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from app.formats import counted_json, safetensors
from app.formats.adapter_config import AdapterConfig, ollama_understands, read_adapter_config
from app.formats.files import ModelFile
from app.modelfile.templates import Chat
from app.planning.parts import Adapter, Base
from app.planning.quantized import quantized_by, refusal
from app.planning.unusable import Unusable

# What Ollama's own converter for adapters knows. Source: Ollama, convert/convert.go, v0.34.0.
CONVERTED_BY_OLLAMA = ("llama", "gemma2")
# transformers' classes that are converted here, by GGUF's architecture; a test checks this against
# the converter's own table.
CONVERTIBLE: Mapping[str, tuple[str, ...]] = {
    "llama": (
        *("LlamaForCausalLM", "LLaMAForCausalLM", "MistralForCausalLM", "MixtralForCausalLM"),
    ),
    "granite": ("GraniteForCausalLM",),
    "smollm3": ("SmolLM3ForCausalLM",),
    "mistral3": ("Mistral3ForConditionalGeneration", "Ministral3ForCausalLM"),
    "qwen2": ("Qwen2ForCausalLM",),
    "qwen3": ("Qwen3ForCausalLM",),
    "qwen2moe": ("Qwen2MoeForCausalLM",),
    "qwen3moe": ("Qwen3MoeForCausalLM",),
    "qwen35": ("Qwen3_5ForCausalLM", "Qwen3_5ForConditionalGeneration"),
    "gemma": ("GemmaForCausalLM",),
    "gemma2": ("Gemma2ForCausalLM",),
    "gemma3": ("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
    "gemma4": ("Gemma4ForCausalLM", "Gemma4ForConditionalGeneration"),
    "gpt-oss": ("GptOssForCausalLM",),
    "phi3": ("Phi3ForCausalLM",),
    "olmo2": ("Olmo2ForCausalLM",),
}
_ARCHITECTURES = {name: each for each, names in CONVERTIBLE.items() for name in names}
TEXT_BYTES = 8 * 2**20
MOST_TENSORS = 200_000
"""61 layers of 384 experts, each with three matrices and their scales, have 140,544."""
ADAPTER_CONFIG, MODEL_CONFIG = "adapter_config.json", "config.json"
CONFIGS = (ADAPTER_CONFIG, MODEL_CONFIG)
_TOKENIZER_FILES = frozenset(
    ("tokenizer.json", "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json")
)
_ONLY_OTHERS_READ = frozenset(("merges.txt", "vocab.txt", "spiece.model"))
_MLX_WEIGHTS = "adapters.safetensors"
_MLX_CHECKPOINT = re.compile(r"\d+_adapters\.safetensors")


@dataclass(frozen=True, kw_only=True)
class SafetensorsModel(Base):
    """A model folder in Hugging Face's layout: weights, config, tokenizer.

    `files` are those that Ollama's converter reads, `beside` what only others do. `class_name` is
    the first of the config's `architectures`.
    """

    class_name: str | None
    tensor_parameters: int
    how_it_chats: Chat
    quantized_by: str | None = None
    beside: tuple[ModelFile, ...] = ()
    is_gguf = False

    @property
    def architecture(self) -> str | None:
        return _ARCHITECTURES.get(self.class_name or "", self.class_name)

    @property
    def is_convertible(self) -> bool:
        return self.class_name in _ARCHITECTURES

    @property
    def parameter_count(self) -> int:
        return self.tensor_parameters

    @property
    def chat(self) -> Chat:
        return replace(self.how_it_chats, architecture=self.architecture)

    def for_any_converter(self) -> Base:
        return replace(self, files=(*self.files, *self.beside), beside=())

    def check(self) -> None:
        if self.quantized_by is not None:
            raise refusal(self.label, self.quantized_by)


@dataclass(frozen=True, kw_only=True)
class SafetensorsAdapter(Adapter):
    """A LoRA adapter in safetensors: `files` are its config and its weights."""

    config: AdapterConfig
    header: safetensors.Header

    @property
    def label(self) -> str:
        return self.files[1].name

    @property
    def architecture(self) -> None:
        """Its config doesn't say; the base model does."""

    @property
    def parameter_count(self) -> int:
        return self.header.parameter_count

    @property
    def base_name(self) -> str | None:
        return self.config.base_model_name_or_path

    def check(self) -> None:
        if self.config.peft_type != "LORA":
            raise Unusable(f"{self.files[0].name}: {self.config.peft_type} isn't a LoRA adapter.")

    def check_fits(self, base: Base) -> None:
        """Its names and shapes are those of another layout: whoever merges it checks them."""

    def why_not_sent(self, architecture: str | None) -> str | None:
        if architecture not in CONVERTED_BY_OLLAMA:
            return f"Ollama doesn't convert safetensors adapters for {architecture}."
        return ollama_understands(self.config, self.header.tensors)


def read_text(file: ModelFile, most: int = TEXT_BYTES) -> bytes:
    """The content of a small file. Raises Unusable where it has more than `most` bytes."""
    if file.size > most:
        raise Unusable(
            f"{file.name} has {file.size} bytes; a file of its kind can have {most} at most."
        )
    with file.open() as stream:
        return stream.read(most)


def safetensors_parts(
    files: Mapping[str, ModelFile],
) -> tuple[list[SafetensorsModel], list[SafetensorsAdapter]]:
    """The models and adapters, each in a folder of its own. Raises Unusable for broken ones."""
    folders: dict[str, dict[str, ModelFile]] = defaultdict(dict)
    for name, file in files.items():
        folders[str(PurePosixPath(name).parent)][name] = file
    headers = _Headers()
    models, adapters = [], []
    for folder, beside_it in sorted(folders.items()):
        weights = [name for name in beside_it if name.lower().endswith(".safetensors")]
        of_adapter = [name for name in weights if is_adapter_name(PurePosixPath(name).name)]
        beside = {config for config in CONFIGS if str(PurePosixPath(folder, config)) in beside_it}
        if beside == {ADAPTER_CONFIG} and len(weights) == 1:
            of_adapter = weights  # whatever its owner calls it
        of_model = [name for name in weights if name not in of_adapter]
        if of_adapter:
            adapters.append(_adapter(folder, of_adapter, beside_it, headers))
        if of_model:
            models.append(_model(folder, of_model, beside_it, headers))
    return models, adapters


def is_adapter_name(name: str) -> bool:
    """Whether PEFT or MLX calls an adapter's weights so."""
    return name.startswith("adapter_") or name == _MLX_WEIGHTS or bool(_MLX_CHECKPOINT.match(name))


def _adapter(
    folder: str, weights: list[str], files: Mapping[str, ModelFile], headers: "_Headers"
) -> SafetensorsAdapter:
    config_name = str(PurePosixPath(folder, ADAPTER_CONFIG))
    if config_name not in files:
        raise Unusable(
            f"{weights[0]} has no adapter_config.json beside it.",
            "Zip the whole folder that PEFT's save_pretrained wrote.",
        )
    mlx = str(PurePosixPath(folder, _MLX_WEIGHTS))
    if mlx in weights:  # the others are earlier states of it
        weights = [name for name in weights if not _MLX_CHECKPOINT.match(PurePosixPath(name).name)]
    if len(weights) > 1:
        raise Unusable(f"The folder {folder!r} holds several adapters: {', '.join(weights[:5])}.")
    try:
        config = read_adapter_config(read_text(files[config_name]))
    except safetensors.SafetensorsError as error:
        raise Unusable(f"{config_name} {error}.", getattr(error, "hint", None)) from error
    return SafetensorsAdapter(
        folder=folder,
        files=(files[config_name], files[weights[0]]),
        config=config,
        header=headers.read(files[weights[0]]),
        beside=tuple(
            file for name, file in files.items() if PurePosixPath(name).name in _TOKENIZER_FILES
        ),
    )


def _model(
    folder: str, weights: list[str], files: Mapping[str, ModelFile], headers: "_Headers"
) -> SafetensorsModel:
    config_name = str(PurePosixPath(folder, MODEL_CONFIG))
    if config_name not in files:
        raise Unusable(
            f"{weights[0]} has no config.json beside it.",
            "Zip the whole folder that save_pretrained wrote, tokenizer files included.",
        )
    config = _json_object(files[config_name])
    if config is None:
        raise Unusable(f"{config_name} isn't the JSON object of a model's config.")
    read = [headers.read(files[name]) for name in weights]
    class_names = config.get("architectures")
    class_name = class_names[0] if isinstance(class_names, list) and class_names else None
    along = [name for name in files if _goes_along(PurePosixPath(name).name)]
    others = [name for name in files if PurePosixPath(name).name in _ONLY_OTHERS_READ]
    return SafetensorsModel(
        folder=folder,
        files=tuple(files[name] for name in (*sorted(weights), *sorted(along))),
        class_name=class_name if isinstance(class_name, str) else None,
        tensor_parameters=sum(header.parameter_count for header in read),
        how_it_chats=_chat(folder, files),
        quantized_by=quantized_by(config, read),
        beside=tuple(files[name] for name in sorted(others)),
    )


def _goes_along(name: str) -> bool:
    """Whether Ollama's own client sends a file of that name beside a model's weights.

    Source: Ollama, parser/parser.go, filesForModel.
    """
    if name.startswith("adapter_"):
        return False
    return name.endswith(".json") or name in ("tokenizer.model", "chat_template.jinja")


def _chat(folder: str, files: Mapping[str, ModelFile]) -> Chat:
    """What the tokenizer's config tells of how the model chats."""
    jinja = files.get(str(PurePosixPath(folder, "chat_template.jinja")))
    config_file = files.get(str(PurePosixPath(folder, "tokenizer_config.json")))
    config = (_json_object(config_file) if config_file else None) or {}
    template = config.get("chat_template")
    if jinja is not None:
        template = read_text(jinja).decode(errors="replace")
    tokens = config.get("added_tokens_decoder")
    added = [
        token.get("content")
        for token in (tokens.values() if isinstance(tokens, dict) else ())
        if isinstance(token, dict)
    ]
    end = config.get("eos_token")
    end = end.get("content") if isinstance(end, dict) else end
    return Chat(
        has_template=bool(template),
        knows_tools="tools" in str(template or ""),
        special_tokens=frozenset(token for token in added if isinstance(token, str)),
        end_tokens=(end,) if isinstance(end, str) else (),
    )


def _json_object(file: ModelFile) -> dict[str, Any] | None:
    """The file's JSON object; None where it is anything else."""
    try:
        value = counted_json.loads(read_text(file))
    except counted_json.TooManyValues as error:
        raise Unusable(f"{file.name} can't be used: {error}.") from error
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


class _Headers:
    """Reads the headers of an upload's files, of at most MOST_TENSORS in all."""

    def __init__(self) -> None:
        self._tensors = 0

    def read(self, file: ModelFile) -> safetensors.Header:
        """One file's header. Raises Unusable."""
        try:
            with file.open() as stream:
                header = safetensors.read_header(stream, file.size)
        except safetensors.SafetensorsError as error:
            raise Unusable(f"{file.name} {error}.") from error
        self._tensors += len(header.tensors)
        if self._tensors > MOST_TENSORS:
            raise Unusable(f"Up to {file.name} there are more than {MOST_TENSORS} tensors.")
        return header

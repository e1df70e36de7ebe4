"""What is to be made here of a model's files before anything is sent, and why."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from app.formats.files import ModelFile
from app.ollama.client import Ollama
from app.planning.bases import UPLOAD_BASE
from app.planning.options import Options
from app.planning.parts import Adapter, Base
from app.planning.safetensors_parts import CONVERTIBLE
from app.planning.selection import Selection
from app.planning.unusable import Unfit, Unusable

CONVERT_MODEL = "python convert_hf_to_gguf.py <folder> --outfile model.gguf"
UNQUANTIZED = ("F16", "BF16", "F32")
# Run by Ollama's own engine, which had no adapters: 0.12 creates such a model, and fails to chat.
# Source: Ollama, fs/ggml/ggml.go, OllamaEngineRequired.
NO_ADAPTERS_BEFORE_0_30 = frozenset(
    ("bert", "deepseek2", "deepseekocr", "gemma3", "gemma3n", "gptoss", "gpt-oss", "lfm2")
    + ("lfm2moe", "llama4", "mistral3", "mllama", "nomic-bert", "olmo3", "qwen25vl", "qwen3")
    + ("qwen3moe", "qwen3next", "qwen3vl", "qwen3vlmoe")
)


@dataclass(frozen=True)
class Conversion:
    """One GGUF that is to be made here of a base and, where there is one, an adapter, and why.

    `scale` multiplies the adapter's alpha. `quantize` is one of tensor_types.QUANTIZATIONS; without
    it the types stay as they are. Where there is a `command`, it makes a GGUF of the base first.
    """

    base: Base
    adapter: Adapter | None
    scale: float
    reason: str
    quantize: str | None = None
    importance_matrix: ModelFile | None = None
    command: tuple[str, ...] = ()

    @property
    def phase(self) -> str:
        """`merge` where a GGUF only gets an adapter, else `convert`."""
        only_merges = self.base.is_gguf and self.adapter is not None and self.quantize is None
        return "merge" if only_merges else "convert"

    @property
    def parts(self) -> list[Base | Adapter]:
        """The base, and the adapter where there is one."""
        return [self.base, self.adapter] if self.adapter else [self.base]

    @property
    def files(self) -> list[ModelFile]:
        """All that it reads."""
        adapter = (*self.adapter.files, *self.adapter.beside) if self.adapter else ()
        matrix = (self.importance_matrix,) if self.importance_matrix else ()
        return [*self.base.files, *adapter, *matrix]

    def replaced(self, change: Callable[[ModelFile], ModelFile]) -> "Conversion":
        """The same with each file changed."""
        base, adapter, matrix = self.base, self.adapter, self.importance_matrix
        return replace(
            self,
            base=replace(base, files=tuple(map(change, base.files))),
            adapter=adapter.replaced(change) if adapter else None,
            importance_matrix=change(matrix) if matrix else None,
        )


def conversion_for(
    selection: Selection, options: Options, server: Ollama | None
) -> Conversion | None:
    """What is to be made here before anything is sent. Raises Unusable where that can't work."""
    base, adapter = selection.base, selection.adapter
    why_merged = _why_merged(selection, options, server)
    if base is None:
        if why_merged is not None and adapter is not None:
            raise Unfit(
                f"{why_merged} The adapter would have to be merged, but its base is a model that"
                " only Ollama has.",
                UPLOAD_BASE,
            )
        return None
    command: tuple[str, ...] = ()
    if not base.is_convertible:
        try:
            _check_converted_by(base, why_merged, server)
            return None
        except Unusable:
            if not options.converter:
                raise
            command, base = options.converter, base.for_any_converter()
    quantize = quantization(base, options)
    reason = why_merged or _why_made(base, quantize, server)
    if reason is None:
        return None
    return Conversion(
        base=base,
        adapter=adapter if options.merge != "never" else None,
        scale=options.adapter_scale,
        reason=reason,
        quantize=quantize,
        importance_matrix=selection.importance_matrix if quantize else None,
        command=command,
    )


def _why_made(base: Base, quantize: str | None, server: Ollama | None) -> str | None:
    """Why another file than the base's own is sent; None where that one will do."""
    if not base.is_gguf:
        return "Every Ollama takes GGUF, and few of them convert safetensors."
    if quantize is not None:
        return f"{quantize} was asked for."
    if len(base.files) > 1 and server is not None and is_before_0_30(server.recent_version()):
        return "Ollama before 0.30 doesn't join the shards of a GGUF."
    return None


def _check_converted_by(base: Base, why_merged: str | None, server: Ollama | None) -> None:
    """Raise Unusable unless `server` converts a safetensors model that can't be converted here."""
    if server is None:
        return
    unknown = f"Safetensors models of the architecture {base.architecture} can't be converted here"
    hint = (
        f"Convert the model to GGUF with llama.cpp: {CONVERT_MODEL} Known here are"
        f" {', '.join(sorted(CONVERTIBLE))}. The service's owner can set MODEL_HANDLER_CONVERTER to"
        " such a command."
    )
    if not server.takes_adapters():  # both went with 0.34.1
        version = server.recent_version()
        raise Unusable(
            f"{unknown}, and this Ollama server (version {version}) doesn't convert them.", hint
        )
    if why_merged is not None:
        raise Unusable(f"{why_merged} {unknown}, so that no adapter can be merged.", hint)


def quantization(base: Base, options: Options) -> str | None:
    """The type to quantize to; None where the types stay. Raises Unusable for what is quantized."""
    kind, asked = base.quantization, options.quantize
    is_quantized = kind is not None and kind not in UNQUANTIZED
    if asked is None:
        asked = None if is_quantized else options.quantize_by_default
    if asked is None or asked == kind:
        return None
    if is_quantized:
        raise Unfit(
            f"The model is {kind} already; only {', '.join(UNQUANTIZED)} can be quantized.",
            "Leave the field 'quantize' out, or zip the unquantized model.",
        )
    return asked


def _why_merged(selection: Selection, options: Options, server: Ollama | None) -> str | None:
    """Why the adapter has to be merged before it is sent; None where it needn't be."""
    adapter = selection.adapter
    if adapter is None or options.merge == "never":
        return None
    if options.merge == "always":
        return "Merging was asked for."
    if options.adapter_scale != 1:
        return "Ollama knows no scale for an adapter."
    if server is None:
        return None
    if not server.takes_adapters():
        return f"This Ollama server (version {server.recent_version()}) no longer takes adapters."
    if selection.base is None:
        return None
    architecture = selection.base.architecture
    if architecture in NO_ADAPTERS_BEFORE_0_30 and is_before_0_30(server.recent_version()):
        return f"Ollama before 0.30 takes adapters for {architecture}, but can't run them."
    return adapter.why_not_sent(architecture)


def check_adapter_sent(selection: Selection, adapter: Adapter, server: Ollama) -> None:
    """Raise Unusable for an adapter that this server can't put on the base itself."""
    way_out = "Send merge=auto, and the adapter is merged into its base before it is sent."
    if not server.takes_adapters():
        raise Unfit(
            f"This Ollama server (version {server.recent_version()}) no longer takes LoRA"
            " adapters.",
            way_out,
        )
    if selection.base is not None:
        reason = adapter.why_not_sent(selection.base.architecture)
        if reason is not None:
            raise Unfit(f"{adapter.label}: {reason}", way_out)


def is_before_0_30(version: str) -> bool:
    """Whether `version`, as /api/version gives it, is one before 0.30."""
    match = re.match(r"(\d{1,6})\.(\d{1,6})", version)
    return match is not None and (int(match[1]), int(match[2])) < (0, 30)

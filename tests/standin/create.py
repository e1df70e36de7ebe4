"""`POST /api/create`: the lines it streams and the model it leaves (server/create.go)."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from . import go_json, go_template, store
from .convert import ConversionError, convert_adapter, convert_model
from .create_request import CreateRequest, as_go_value
from .gguf_copy import write_copy
from .gguf_header import GGUFError, Header, read_header
from .names import Name
from .parts import Part, PartError, human_number, media_type, with_shards_joined
from .store import DigestError, Layer, Manifest, Store
from .versions import Behaviour

Line = dict[str, Any]

_NO_GGUF = "supplied file was not in GGUF format"
_QUANTIZATIONS = {"F32": 0, "F16": 1, "Q4_K_S": 14, "Q4_K_M": 15, "Q8_0": 7}
_EMBEDDED_PARTS = ("a.", "mm.", "mtp.", "s.", "v.")
_SHARD_KEYS = ("split.no", "split.count", "split.tensors.count")


class CreateError(Exception):
    """Create failed: the last line says why, or `status` where nothing was sent yet."""

    def __init__(self, message: str, status: int = 500) -> None:
        super().__init__(message)
        self.status = status


Steps = Generator[Line, None, list[Part]]


@dataclass(frozen=True)
class Creation:
    """One run of create."""

    store: Store
    behaviour: Behaviour
    request: CreateRequest

    def run(self) -> Iterator[Line]:
        """Make the model, giving the lines as they become true. Raises CreateError."""
        name = self.request.name.spelled_as(self.store.names())
        try:
            before: Manifest | None = self.store.load(name)
        except FileNotFoundError:
            before = None
        with self._in_words_of_go():
            parts = yield from self._base()
            parts += yield from self._adapter(parts)
            parts = yield from self._finished(parts)
            config = self._config(parts)
            layers = self._with_texts([part.layer for part in parts])
            for layer in layers:
                yield {"status": layer.status}
            yield {"status": "writing manifest"}
            self.store.save(name, config, layers)
        if before:
            self.store.drop_unused(before)
        yield {"status": "success"}

    def _base(self) -> Steps:
        if self.request.source:
            return (yield from self._from_model(Name.parse(self.request.source)))
        if self.request.files is None:
            raise CreateError("neither 'from' or 'files' was specified", 400)
        return (yield from self._from_files(self.request.files))

    def _adapter(self, base: list[Part]) -> Steps:
        if self.request.adapters is None:
            return []
        try:
            return (yield from self._from_files(self.request.adapters, base))
        except CreateError as error:
            raise CreateError(str(error), 400) from None
        except (OSError, DigestError, GGUFError, ConversionError, PartError) as error:
            raise CreateError(_words(error), 400) from None

    def _from_model(self, name: Name) -> Steps:
        if not name.valid:
            raise CreateError("invalid model name", 400)
        try:
            manifest = self.store.load(name)
        except FileNotFoundError:
            yield {"status": "pulling manifest"}
            url = f"https://{name.host}/v2/{name.namespace}/{name.model}/manifests/{name.tag}"
            reason = f"dial tcp: lookup {name.host}: no such host"
            raise CreateError(f'pull model manifest: Get "{url}": {reason}') from None
        parts = []
        for layer in manifest.layers:
            origin = replace(layer, origin=name.shortest, is_new=False)
            is_gguf = layer.media_type in (store.MODEL, store.ADAPTER, store.PROJECTOR)
            parts.append(Part(origin, self._header(layer.digest) if is_gguf else None))
        return parts

    def _from_files(self, files: dict[str, str], base: list[Part] | None = None) -> Steps:
        match self._kind(files):
            case "safetensors" if base is None:
                layer, header = yield from convert_model(self.store, self.behaviour, files)
                return [Part(layer, header, is_own=True, is_converted=True)]
            case "safetensors" if not any(part.header for part in base or []):
                raise CreateError("no base model was found")
            case "safetensors":
                bases = [part.header for part in base or [] if part.header]
                layer, header = yield from convert_adapter(self.store, files, bases[0])
                return [Part(layer, header, is_own=True, is_converted=True)]
            case "gguf" if base is not None and len(files) > 1:
                raise CreateError("only one adapter is currently supported", 400)
            case "gguf":
                parts = []
                # 0.12 takes them in no order.
                for file_name in sorted(files):
                    yield {"status": "parsing GGUF"}
                    parts.append(self._gguf(file_name, files[file_name]))
                return with_shards_joined(parts) if self.behaviour.merges_shards else parts
        raise CreateError("unknown type", 400)

    def _kind(self, files: dict[str, str]) -> str | None:
        for name, digest in files.items():
            if name.endswith(".safetensors"):
                return "safetensors"
            if name.endswith(".gguf"):
                return "gguf"
            try:
                with self.store.blob_path(digest).open("rb") as file:
                    if file.read(4) in (b"GGUF", b"FUGG"):
                        return "gguf"
            except (OSError, DigestError):
                return None
        return None

    def _gguf(self, file_name: str, digest: str) -> Part:
        header = self._header(digest)
        if header.kind == "adapter" and not self.behaviour.takes_adapters:
            refusal = f"LoRA adapters are no longer supported: {file_name} is a LoRA adapter"
            raise CreateError(refusal, 400)
        origin = str(self.store.blob_path(digest)) if self.behaviour.parent_is_path else file_name
        layer = self.store.existing(digest, media_type(header), origin)
        return Part(layer, header, is_own=True)

    def _header(self, digest: str) -> Header:
        path = self.store.blob_path(digest)
        return read_header(path, check_bounds=self.behaviour.checks_tensor_bounds)

    def _finished(self, parts: list[Part]) -> Steps:
        finished = []
        for part in parts:
            header = part.header
            if header is not None and part.is_model and self.request.quantize:
                number = self._quantization_of(header)
                if header.file_type != self.request.quantize:
                    finished.append((yield from self._quantized(part, number)))
                    continue
            if header is not None and part.is_model and part.is_own:
                part = yield from self._rewritten(part, header)
            finished.append(part)
        return finished

    def _quantization_of(self, header: Header) -> int:
        wanted, allowed = self.request.quantize, self.behaviour.quantizable
        if not self.behaviour.converts:
            raise CreateError("quantization is not supported for GGUF models", 400)
        if wanted not in (*_QUANTIZATIONS, "Q4_K", "BF16"):
            raise CreateError(
                f"unsupported quantization type {wanted} - supported types are"
                f" {', '.join(_QUANTIZATIONS)}"
            )
        if header.file_type not in allowed:
            names = f"{', '.join(allowed[:-1])} and {allowed[-1]}"
            raise CreateError(f"quantization is only supported for {names} models")
        return {**_QUANTIZATIONS, "Q4_K": 15, "BF16": 32}[wanted]

    def _quantized(self, part: Part, number: int) -> Generator[Line, None, Part]:
        header, total, done = part.header, part.layer.size, 0
        assert header is not None
        for tensor in () if self.behaviour.rewrites_base else header.tensors:
            done += tensor.size or 0
            yield {
                "status": f"quantizing {header.file_type} model to {self.request.quantize}",
                "digest": "0000000000000000000",
                "total": total,
                "completed": total if tensor is header.tensors[-1] else done,
            }
        yield {"status": "verifying conversion"}
        return self._copied(part, {"general.file_type": number, "general.quantization_version": 2})

    def _rewritten(self, part: Part, header: Header) -> Generator[Line, None, Part]:
        is_embedded = any(tensor.name.startswith(_EMBEDDED_PARTS) for tensor in header.tensors)
        if not part.shards and (not self.behaviour.rewrites_base or is_embedded):
            return part
        if part.is_converted:
            yield {"status": "verifying conversion"}
            return part
        broken = not header.tensors or len(header.tensors) != header.tensor_count
        if broken or header.architecture == "unknown":
            raise CreateError(
                "failed to validate GGUF with llama-quantize without compatibility patches:"
                " llama-quantize failed: exit status 1"
            )
        yield {"status": "verifying conversion"}
        if "general.quantization_version" in header.values and not part.shards:
            return replace(part, layer=replace(part.layer, origin=""))
        return self._copied(part, {"general.quantization_version": 2})

    def _copied(self, part: Part, put: dict[str, int]) -> Part:
        sources = []
        for shard in part.shards or [part]:
            assert shard.header is not None
            sources.append((self.store.blob_path(shard.layer.digest), shard.header))
        drop = (*_SHARD_KEYS, *(f"{sources[0][1].architecture}.{key}" for key in _SHARD_KEYS))
        with self.store.temporary() as path:
            with path.open("wb") as file:
                write_copy(sources, file, put=put, drop=drop)
            with path.open("rb") as file:
                layer = self.store.add(file.read, part.layer.media_type)
        return Part(layer, self._header(layer.digest))

    def _config(self, parts: list[Part]) -> Layer:
        headers = [
            part.header
            for part in parts
            if part.header and (part.is_model or self.behaviour.family_per_layer)
        ]
        config: dict[str, Any] = {"model_format": "gguf" if headers else ""}
        if headers:
            first = headers[0]
            config |= {
                "model_family": first.architecture,
                "model_families": [header.architecture for header in headers],
                "model_type": human_number(first.parameters),
                "file_type": first.file_type,
            }
        texts = ("renderer", "parser", "requires")
        config |= {key: text for key in texts if (text := getattr(self.request, key))}
        config |= {"architecture": "amd64", "os": "linux"}
        return self.store.add_bytes(go_json.encode(config) + b"\n", store.CONFIG)

    def _with_texts(self, layers: list[Layer]) -> list[Layer]:
        request = self.request
        if request.template:
            if flaw := go_template.flaw(request.template):
                raise CreateError(f"template error: {flaw}", 400)
            layers = self._put(layers, store.TEMPLATE, request.template.encode())
        if request.system:
            layers = self._put(layers, store.SYSTEM, request.system.encode())
        for text in request.licenses:
            if text:
                layers.append(self.store.add_bytes(text.encode(), store.LICENSE))
        parameters: dict[str, Any] = {}
        for layer in layers:
            if layer.media_type == store.PARAMS:
                parameters |= go_json.decode(self.store.blob_path(layer.digest).read_bytes())
        if parameters | request.parameters:
            encoded = go_json.encode(as_go_value(parameters | request.parameters))
            layers = self._put(layers, store.PARAMS, encoded + b"\n")
        if request.messages:
            encoded = go_json.encode(request.messages)
            layers = self._put(layers, store.MESSAGES, encoded + b"\n")
        return layers

    def _put(self, layers: list[Layer], media_type: str, content: bytes) -> list[Layer]:
        kept = [layer for layer in layers if layer.media_type != media_type]
        return [*kept, self.store.add_bytes(content, media_type)]

    @contextmanager
    def _in_words_of_go(self) -> Iterator[None]:
        try:
            yield
        except GGUFError as error:
            raise CreateError(str(error), 400 if str(error) == _NO_GGUF else 500) from None
        except (OSError, DigestError, ConversionError, PartError) as error:
            raise CreateError(_words(error), getattr(error, "status", 500)) from None


def _words(error: Exception) -> str:
    match error:
        case FileNotFoundError():
            return f"open {error.filename}: no such file or directory"
        case IsADirectoryError():
            return f"read {error.filename}: is a directory"
    return str(error)

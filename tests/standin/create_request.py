"""The body of `POST /api/create`: what is refused before anything is streamed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from . import go_json
from .names import Name
from .versions import Behaviour


class BadRequest(Exception):
    """The request is answered with HTTP 400 and this message, at once."""


@dataclass(frozen=True)
class CreateRequest:
    """A create request whose form is right. `files` is None where it was absent, as in Go."""

    name: Name
    source: str
    files: dict[str, str] | None
    adapters: dict[str, str] | None
    quantize: str
    template: str
    system: str
    licenses: list[str]
    parameters: dict[str, Any]
    messages: list[dict[str, str]]
    renderer: str
    parser: str
    requires: str
    stream: bool

    @classmethod
    def parse(cls, body: Any, behaviour: Behaviour) -> "CreateRequest":
        """Check `body`, the decoded JSON, in Ollama's order. Raises BadRequest."""
        fields = _Fields(body)
        files, adapters = fields.text_map("files"), fields.text_map("adapters")
        if adapters and not behaviour.takes_adapters:
            raise BadRequest("LoRA adapters are no longer supported")
        for path, digest in (files or {}).items():
            if not _is_relative(path):
                raise BadRequest("file path must be relative")
            if not digest and behaviour.refuses_empty_digest:
                raise BadRequest("invalid digest format")
        if behaviour.refuses_empty_digest and "" in (adapters or {}).values():
            raise BadRequest("invalid digest format")
        name = Name.parse(fields.text("model") or fields.text("name"))
        if not name.valid:
            raise BadRequest("invalid model name")
        return cls(
            name=name,
            source=fields.text("from"),
            files=files,
            adapters=adapters,
            quantize=(fields.text("quantize") or fields.text("quantization")).upper(),
            template=fields.text("template"),
            system=fields.text("system"),
            licenses=fields.licenses(),
            parameters=fields.map("parameters", "map[string]interface {}") or {},
            messages=fields.messages(),
            renderer=fields.text("renderer"),
            parser=fields.text("parser"),
            requires=fields.text("requires"),
            stream=fields.flag("stream"),
        )


@dataclass(frozen=True)
class _Fields:
    body: Any

    def __post_init__(self) -> None:
        if not isinstance(self.body, dict | None):
            kind = _go_kind(self.body)
            raise BadRequest(
                f"json: cannot unmarshal {kind} into Go value of type api.CreateRequest"
            )

    def _get(self, key: str, kind: type, go_type: str) -> Any:
        value = (self.body or {}).get(key)
        if value is not None and not isinstance(value, kind):
            raise BadRequest(
                f"json: cannot unmarshal {_go_kind(value)} into Go struct field"
                f" CreateRequest.{key} of type {go_type}"
            )
        return value

    def text(self, key: str) -> str:
        return self._get(key, str, "string") or ""

    def flag(self, key: str) -> bool:
        return self._get(key, bool, "bool") is not False

    def map(self, key: str, go_type: str) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self._get(key, dict, go_type)
        return found

    def text_map(self, key: str) -> dict[str, str] | None:
        found = self.map(key, "map[string]string")
        for value in (found or {}).values():
            if not isinstance(value, str):
                raise BadRequest(
                    f"json: cannot unmarshal {_go_kind(value)} into Go struct field"
                    f" CreateRequest.{key} of type string"
                )
        return found

    def licenses(self) -> list[str]:
        found = (self.body or {}).get("license") or []
        return [found] if isinstance(found, str) else [str(text) for text in found]

    def messages(self) -> list[dict[str, str]]:
        found = self._get("messages", list, "[]api.Message") or []
        return [
            {"role": message.get("role", ""), "content": message.get("content", "")}
            for message in found
        ]


def _is_relative(path: str) -> bool:
    """Go's fs.ValidPath: no empty, `.` or `..` element, so neither an absolute path."""
    return path == "." or not {"", ".", ".."} & set(path.split("/"))


def _go_kind(value: Any) -> str:
    match value:
        case bool():
            return "bool"
        case str():
            return "string"
        case int() | float():
            return "number"
        case Mapping():
            return "object"
        case _:
            return "array"


def as_go_value(value: Any) -> Any:
    """A JSON value as Go's `any` holds it: numbers are float64, maps have their keys sorted."""
    match value:
        case bool() | str() | None:
            return value
        case int() | float():
            return float(value)
        case dict():
            return {key: as_go_value(value[key]) for key in sorted(value)}
        case _:
            return [as_go_value(item) for item in value]


def decode(body: bytes) -> Any:
    """The JSON in a request's body. Raises BadRequest."""
    try:
        return go_json.decode(body)
    except EOFError:
        raise BadRequest("missing request body") from None
    except ValueError as error:
        raise BadRequest(str(error)) from None

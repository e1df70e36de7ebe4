"""Ollama's request to create a model, as its clients send it to POST /api/create.

Source for its fields, its checks and what it answers: Ollama, api/types.go and server/create.go
(v0.12.11 to main after 0.34.1).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.modelfile.grammar import ROLES, Modelfile, quote
from app.modelfile.parameters import GIVEN_UP_PARAMETERS, check_parameters, merge_parameters
from app.ollama.names import InvalidName, check_name
from app.planning.options import QUANTIZE_TYPES, BadRequest, optional_text
from app.planning.unusable import Unusable

_DIGEST = re.compile(r"sha256[:-]([0-9a-fA-F]{64})")
_NOT_SENT_ON = ("draft_files", "draft_quantize", "remote_host", "info")
# What llama.cpp and Ollama also take. Source: llama.cpp, tools/quantize/quantize.cpp.
_OTHER_NAMES = {f"Q{bits}_K": f"Q{bits}_K_M" for bits in (3, 4, 5)}
_NO_TEMPLATE = "{{ .Prompt }}"


class Refused(Unusable):
    """Refused as Ollama refuses it: in its words, with its HTTP status."""

    def __init__(self, words: str, status: int = 400) -> None:
        super().__init__(words)
        self.status = status


@dataclass(frozen=True)
class CreateRequest:
    """A request whose form is right.

    `files` and `adapters` map names to digests as they were given, and are None where they weren't.
    `body` is all that was sent.
    """

    model: str
    from_: str | None
    files: Mapping[str, str] | None
    adapters: Mapping[str, str] | None
    quantize: str | None
    template: str | None
    system: str | None
    licenses: tuple[str, ...]
    parameters: Mapping[str, Any]
    messages: tuple[tuple[str, str], ...]
    renderer: str | None
    parser: str | None
    requires: str | None
    is_streamed: bool
    body: Mapping[str, Any] = field(repr=False)

    @property
    def says_more(self) -> bool:
        """Whether it says more than which files there are, and how to quantize them."""
        texts = (self.template, self.system, self.renderer, self.parser, self.requires)
        return any(texts) or any((self.licenses, self.parameters, self.messages))

    def quantization(self) -> str | None:
        """The type to quantize to. Raises Refused for one that isn't known here."""
        asked = _OTHER_NAMES.get(self.quantize or "", self.quantize)
        if asked is None or asked in QUANTIZE_TYPES:
            return asked
        known = ", ".join(QUANTIZE_TYPES)
        raise Refused(
            f"unsupported quantization type {self.quantize} - supported types are {known}"
        )


def parse(body: Any) -> CreateRequest:
    """Read the request's JSON in Ollama's order. Raises BadRequest, in its words where it has any,
    and InvalidName for a model's tag that it keeps for itself."""
    if not isinstance(body, dict):
        raise BadRequest('The body must be a JSON object such as {"model": "my-model"}.')
    files, adapters = _digests(body, "files"), _digests(body, "adapters")
    if not all(map(_is_relative, files or ())):
        raise BadRequest("file path must be relative")
    if "" in {*(files or {}).values(), *(adapters or {}).values()}:
        raise BadRequest("invalid digest format")
    from_ = _text(body, "from")
    if from_ is None or adapters:
        _check_made_here(body)
    model = _name(_text(body, "model") or _text(body, "name") or "")
    if from_ is None and not files:
        unsaid = "neither 'from' or 'files' was specified"
        raise BadRequest(unsaid if files is None else "unknown type")
    quantize = _word(body, "quantize") or _word(body, "quantization")
    stream = body.get("stream")
    if stream not in (None, True, False):
        raise BadRequest("The field 'stream' takes true or false.")
    return CreateRequest(
        model=model,
        from_=_name(from_) if from_ else None,
        files=files,
        adapters=adapters,
        quantize=quantize.upper() if quantize else None,
        template=_text(body, "template"),
        system=_text(body, "system"),
        licenses=_licenses(body.get("license")),
        parameters=_parameters(body.get("parameters")),
        messages=_messages(body.get("messages")),
        renderer=_word(body, "renderer"),
        parser=_word(body, "parser"),
        requires=_word(body, "requires"),
        is_streamed=stream is not False,
        body=body,
    )


def _check_made_here(body: Mapping[str, Any]) -> None:
    """Raise BadRequest for what only Ollama itself can make a model of."""
    for name in _NOT_SENT_ON:
        if body.get(name):
            raise BadRequest(
                f"The field {name!r} isn't supported by this service. Leave it out, or send the"
                " request to Ollama itself."
            )


def sha256_of(digest: str) -> str:
    """The hex digits of a digest such as sha256:<hex> or sha256-<hex>. Raises Refused."""
    match = _DIGEST.fullmatch(digest)
    if match is None:
        raise Refused("invalid digest format", 500)
    return match[1]


def modelfile(
    request: CreateRequest, bases: Sequence[str], adapter: str | None, base: Modelfile | None = None
) -> str:
    """The Modelfile that says all that the request does; FROM and ADAPTER are given.

    `base` is that of the model which it is made from: what the request doesn't say is taken from
    there, as Ollama does. Raises ModelfileError for what Ollama couldn't use, and for what no
    Modelfile can hold.
    """
    return "".join(f"{line}\n" for line in _lines(request, bases, adapter, base))


def _lines(
    request: CreateRequest, bases: Sequence[str], adapter: str | None, base: Modelfile | None
) -> Iterator[str]:
    yield from (f"FROM {quote(path)}" for path in bases)
    if adapter is not None:
        yield f"ADAPTER {quote(adapter)}"
    template = base.template if base and base.template != _NO_TEMPLATE else None
    texts = {
        "TEMPLATE": request.template or template,
        "SYSTEM": request.system or (base and base.system),
        "RENDERER": request.renderer or (base and base.renderer),
        "PARSER": request.parser or (base and base.parser),
        "REQUIRES": request.requires or (base and base.requires),
    }
    yield from (f"{name} {quote(text)}" for name, text in texts.items() if text)
    given = {
        name: value for name, value in request.parameters.items() if name not in GIVEN_UP_PARAMETERS
    }
    stated = merge_parameters(base.parameters if base else (), check_parameters(given))
    for name, value in stated.items():
        for each in value if isinstance(value, list) else [value]:
            text = str(each).lower() if isinstance(each, bool) else str(each)
            yield f"PARAMETER {name} {quote(text)}"
    for text in (*(base.license if base else ()), *request.licenses):
        yield f"LICENSE {quote(text)}"
    for role, text in request.messages or (base.messages if base else ()):
        yield f"MESSAGE {role} {quote(text)}"


def _digests(body: Mapping[str, Any], key: str) -> dict[str, str] | None:
    value = body.get(key)
    if value is None:
        return None
    if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
        raise BadRequest(
            f'The field {key!r} must be an object of names and digests, such as {{"model.gguf":'
            ' "sha256:..."}.'
        )
    for name in value:
        if not name.isprintable():
            raise BadRequest(
                f"The file name {name!r} has a character that can't be printed. Give the file"
                " another name."
            )
    return value


def _is_relative(path: str) -> bool:
    """Go's fs.ValidPath: no empty, `.` or `..` element, so neither an absolute path."""
    return not {"", ".", ".."} & set(path.split("/"))


def _name(name: str) -> str:
    try:
        return check_name(name)
    except InvalidName as error:
        if error.is_reserved:
            raise
        raise BadRequest("invalid model name") from error


def _text(body: Mapping[str, Any], key: str) -> str | None:
    return optional_text(body, key) or None


def _word(body: Mapping[str, Any], key: str) -> str | None:
    value = _text(body, key)
    if value is not None and not value.isprintable():
        raise BadRequest(f"The field {key!r} has a character that can't be printed. Remove it.")
    return value


def _licenses(value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value if value is not None else []
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise BadRequest("The field 'license' must be text or a list of texts.")
    return tuple(filter(None, texts))


def _parameters(value: Any) -> dict[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise BadRequest("The field 'parameters' must be an object such as {\"temperature\": 0}.")
    return {name: each for name, each in (value or {}).items() if each is not None}


def _messages(value: Any) -> tuple[tuple[str, str], ...]:
    messages = value or []
    if not isinstance(messages, list) or not all(map(_is_message, messages)):
        raise BadRequest(
            "The field 'messages' must be a list of objects with 'role', one of"
            f" {', '.join(ROLES)}, and 'content', a text; a model keeps nothing else of them."
        )
    return tuple((message["role"], message["content"]) for message in messages)


def _is_message(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    beside = {key for key, each in value.items() if each} - {"role", "content"}
    return value.get("role") in ROLES and isinstance(value.get("content"), str) and not beside

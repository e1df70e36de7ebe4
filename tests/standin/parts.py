"""The GGUFs of a model in the making: what each is, and which shards belong together."""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path

from . import store
from .gguf_header import Header
from .store import Layer

_SHARD_NAME = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")


class PartError(Exception):
    """The shards of a model don't belong together; the message is Ollama's."""


@dataclass
class Part:
    """A layer in the making. `is_own` marks a GGUF that came with the request."""

    layer: Layer
    header: Header | None = None
    is_own: bool = False
    is_converted: bool = False
    shards: list["Part"] = field(default_factory=list)

    @property
    def is_model(self) -> bool:
        """Whether it is a base model's GGUF."""
        return self.header is not None and self.layer.media_type == store.MODEL


def media_type(header: Header) -> str:
    """What kind of layer a GGUF becomes."""
    if header.kind == "adapter":
        return store.ADAPTER
    has_vision_alone = header.of_architecture("vision.block_count") and not header.of_architecture(
        "block_count"
    )
    if header.kind in ("projector", "mmproj") or has_vision_alone or header.architecture == "clip":
        return store.PROJECTOR
    return store.MODEL


def with_shards_joined(parts: list[Part]) -> list[Part]:
    """Put the shards of one model under their first. Raises PartError where one is absent."""
    joined, groups = [], dict[str, list[Part]]()
    for part in parts:
        count = _split_value(part, "split.count")
        if count <= 1:
            joined.append(part)
            continue
        prefix = _checked_prefix(part, count)
        shards = groups.setdefault(prefix, [])
        shards.append(part)
        if len(shards) == count:
            joined.append(replace(shards[0], shards=groups.pop(prefix)))
    for shards in groups.values():
        raise PartError(
            f'split GGUF "{shards[0].layer.origin}" has {len(shards)} shards, expected'
            f" {_split_value(shards[0], 'split.count')}"
        )
    return joined


def _split_value(part: Part, key: str) -> int:
    """The number under `key` or `<architecture>.<key>`, -1 if there is none."""
    values = (part.header.values.get(key), part.header.of_architecture(key)) if part.header else ()
    return next((value for value in values if isinstance(value, int)), -1)


def _checked_prefix(part: Part, count: int) -> str:
    """What the names of a model's shards begin with; PartError if name and metadata differ."""
    name, number = Path(part.layer.origin).name, _split_value(part, "split.no")
    match = _SHARD_NAME.fullmatch(name)
    if not match:
        raise PartError(f'split GGUF "{name}" must use llama.cpp split filename pattern')
    if number < 0:
        raise PartError(f'split GGUF "{name}" is missing split.no metadata')
    for what, named, stored in (
        ("count", int(match[3]), count),
        ("index", int(match[2]) - 1, number),
    ):
        if named != stored:
            raise PartError(
                f'split GGUF "{name}" filename {what} {named} does not match metadata {what}'
                f" {stored}"
            )
    return match[1]


def human_number(count: int) -> str:
    """A parameter count as Ollama prints it: 27K, 268.10M, 7.2B."""
    for unit, letter, digits in ((10**9, "B", 1), (10**6, "M", 2)):
        if count >= unit:
            return f"{count / unit:.{0 if count % unit == 0 else digits}f}{letter}"
    return f"{count / 1000:.0f}K" if count >= 1000 else str(count)

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
        assert part.header is not None
        values, name = part.header.values, Path(part.layer.origin).name
        count = values.get("split.count", part.header.of_architecture("split.count")) or 0
        if count <= 1:
            joined.append(part)
            continue
        match = _SHARD_NAME.fullmatch(name)
        if not match:
            raise PartError(f'split GGUF "{name}" must use llama.cpp split filename pattern')
        number = values.get("split.no", part.header.of_architecture("split.no"))
        if int(match[3]) != count:
            raise PartError(
                f'split GGUF "{name}" filename count {int(match[3])} does not match metadata'
                f" count {count}"
            )
        if number != int(match[2]) - 1:
            raise PartError(
                f'split GGUF "{name}" filename index {int(match[2]) - 1} does not match metadata'
                f" index {number}"
            )
        groups.setdefault(match[1], []).append(part)
        if len(groups[match[1]]) == count:
            joined.append(replace(groups[match[1]][0], shards=groups.pop(match[1])))
    for shards in groups.values():
        first, header = shards[0], shards[0].header
        count = header.values.get("split.count") if header else None
        raise PartError(
            f'split GGUF "{first.layer.origin}" has {len(shards)} shards, expected {count}'
        )
    return joined


def human_number(count: int) -> str:
    """A parameter count as Ollama prints it: 27K, 268.10M, 7.2B."""
    for unit, letter, digits in ((10**9, "B", 1), (10**6, "M", 2)):
        if count >= unit:
            return f"{count / unit:.{0 if count % unit == 0 else digits}f}{letter}"
    return f"{count / 1000:.0f}K" if count >= 1000 else str(count)

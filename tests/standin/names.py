"""Model names by Ollama's rule (types/model/name.go)."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Self

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"

_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}", re.ASCII)
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}", re.ASCII)
_MODEL_OR_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}", re.ASCII)


@dataclass(frozen=True)
class Name:
    """`host/namespace/model:tag`, with every part given; it need not be valid."""

    host: str
    namespace: str
    model: str
    tag: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Split `text` from its end and fill the absent parts with Ollama's defaults.

        A part that is there but empty (as in `a/:b`) stays empty, which makes the name invalid.
        """
        host, namespace, tag = DEFAULT_HOST, DEFAULT_NAMESPACE, "latest"
        if text.rfind(":") > text.rfind("/"):
            text, _, tag = text.rpartition(":")
        text, slash, model = text.rpartition("/")
        if slash:
            text, slash, namespace = text.rpartition("/")
            if slash:
                host = text.partition("://")[2] or text
        return cls(host, namespace, model, tag)

    @property
    def valid(self) -> bool:
        """Whether each part has allowed characters and an allowed length."""
        return bool(
            _HOST.fullmatch(self.host)
            and _NAMESPACE.fullmatch(self.namespace)
            and _MODEL_OR_TAG.fullmatch(self.model)
            and _MODEL_OR_TAG.fullmatch(self.tag)
        )

    @property
    def shortest(self) -> str:
        """The form that tags and show print: default host and namespace left out."""
        short = f"{self.model}:{self.tag}"
        if self.host.lower() != DEFAULT_HOST:
            return f"{self.host}/{self.namespace}/{short}"
        if self.namespace.lower() != DEFAULT_NAMESPACE:
            return f"{self.namespace}/{short}"
        return short

    @property
    def path(self) -> PurePosixPath:
        """Where a valid name's manifest lies, below the manifests folder."""
        return PurePosixPath(self.host, self.namespace, self.model, self.tag)

    def spelled_as(self, existing: Iterable["Name"]) -> "Name":
        """Take each part's spelling from an existing name that has it in another case."""
        name = self
        for other in existing:
            parts = {
                part: theirs
                for part in ("host", "namespace", "model", "tag")
                if (theirs := getattr(other, part)).lower() == getattr(name, part).lower()
            }
            name = replace(name, **parts)
        return name

"""Ollama's own clients, which only have OLLAMA_HOST set to this service, create what Ollama has
dropped: the PyPI package `ollama`, through gunicorn."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ollama
import pytest

from tests.conftest import litter, show
from tests.gguf_files import write_base, write_lora
from tests.serving import Served

each_version = pytest.mark.parametrize("ollama_version", ["0.34.1"])
pytestmark = each_version


@dataclass
class Files:
    """Files of tiny models."""

    base: Path
    lora: Path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("files")
    return Files(base=write_base(folder / "base.gguf"), lora=write_lora(folder / "lora.gguf"))


@dataclass
class Creator:
    """The client, which sends files and creates models."""

    client: ollama.Client
    lines: list[dict[str, Any]] = field(default_factory=list)

    def sent(self, **files: Path | bytes) -> dict[str, str]:
        return {name: self.client.create_blob(path) for name, path in files.items()}

    def create(self, **fields: Any) -> list[str]:
        """The statuses that creating says."""
        answer = self.client.create(stream=True, **fields)
        self.lines = [line.model_dump(exclude_none=True) for line in answer]
        return [line["status"] for line in self.lines]


@pytest.fixture
def creator(served: Served) -> Iterator[Creator]:
    with ollama.Client(host=served.url) as client:
        yield Creator(client)


def test_base(creator: Creator, files: Files, ollama: str, models_dir: Path) -> None:
    said = creator.create(model="mine", files=creator.sent(base=files.base))
    assert said[0] == "parsing GGUF"
    assert said[-2:] == ["writing manifest", "success"]
    assert all(line.keys() == {"status"} for line in creator.lines)
    assert show(ollama, "mine")["details"]["family"] == "llama"
    assert (models_dir / "mine" / "base").read_bytes() == files.base.read_bytes()
    assert not litter(models_dir)


@pytest.mark.parametrize("is_streamed", [True, False])
def test_base_and_adapter(
    creator: Creator, files: Files, ollama: str, models_dir: Path, is_streamed: bool
) -> None:
    digests = creator.sent(base=files.base, lora=files.lora)
    fields = {"files": {"b.gguf": digests["base"]}, "adapters": {"a.gguf": digests["lora"]}}
    if is_streamed:
        assert creator.create(model="mine", **fields)[-1] == "success"
    else:
        assert creator.client.create(model="mine", **fields).status == "success"
    shown = show(ollama, "mine")
    assert "model_handler.merged" in shown["model_info"]
    assert not litter(models_dir)
    assert not list(models_dir.glob(".model-handler/blobs/*"))

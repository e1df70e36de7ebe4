"""From what a trainer wrote to a quantised model on an Ollama that takes neither adapters nor
safetensors: the whole way through the service, and what arrives is run by llama.cpp."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient

from app import create_app
from app.formats.gguf import open_header
from tests.adapter_files import adapter
from tests.conftest import litter
from tests.gguf_files import write_zip
from tests.llama_cpp import generate
from tests.standin import Standin
from tests.test_job import trainer_s_folder

WIDTH = 256


def lora(folder: Path) -> dict[str, Path]:
    """A PEFT adapter on one projection of the trainer's model."""
    random = np.random.default_rng(1)
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    folder.mkdir()
    weights = {
        name.format("A"): random.normal(0, 0.1, (8, WIDTH)).astype(np.float32),
        name.format("B"): random.normal(0, 0.1, (WIDTH, 8)).astype(np.float32),
    }
    files = adapter(folder, weights, {"r": 8, "lora_alpha": 16})
    return {f"lora/{path.name}": path for path in files}


def members(folder: Path) -> dict[str, Path]:
    return {f"{folder.name}/{path.name}": path for path in folder.iterdir()}


def send(client: FlaskClient, path: str, zipped: Path, **query: str) -> list[dict[str, Any]]:
    answer = client.put(path, data=zipped.read_bytes(), query_string=query)
    return [json.loads(line) for line in answer.text.splitlines()]


@pytest.mark.parametrize("way", ["in one zip", "on a stored model"])
def test_a_folder_and_its_adapter_become_one_quantised_model(tmp_path: Path, way: str) -> None:
    base = members(trainer_s_folder(tmp_path / "tiny", width=WIDTH))
    added = lora(tmp_path / "lora")
    fields = {"model_name_on_ollama": "mine", "quantize": "Q4_K_M"}
    with Standin(tmp_path / "ollama", version="0.34.1") as standin:
        settings = {"MODELS_DIR": tmp_path / "models", "OLLAMA_HOST": standin.url}
        client = create_app(settings).test_client()
        if way == "on a stored model":
            stored = write_zip(tmp_path / "stored.zip", base)
            assert send(client, "/models/upload/stored.zip", stored)[-1]["status"] == 200
            base, fields["from"] = {}, "stored"
        zipped = write_zip(tmp_path / "mine.zip", {**base, **added})
        lines = send(client, "/models/deploy/mine.zip", zipped, verbose="1", **fields)
        assert lines[-1]["status"] == 200, lines[-1]
        assert "Converting." in [line["message"]["action"] for line in lines]
        bodies = [sent.json for sent in standin.requests if sent.path == "/api/create"]
        (sent,) = [body for body in bodies if body["model"] == "mine"]
        (digest,) = sent["files"].values()
        arrived = tmp_path / "ollama" / "blobs" / digest.replace(":", "-")
        header = open_header(arrived)
        assert (header.architecture, header.quantization) == ("llama", "Q4_K_M")
        last_create = json.loads(client.get("/models/mine/").text)["last_create"]
        assert last_create["adapter"] == "merged"
        assert generate(arrived)
    assert not litter(tmp_path / "models")

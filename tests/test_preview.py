"""What would become of files, told from their beginnings alone: as a deploy then does it."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from app import create_app
from app.formats import gguf
from tests.conftest import show
from tests.gguf_files import write_base, write_lora, write_zip
from tests.standin import Standin
from tests.test_brought import hugging_face, peft

BEGINNINGS = {".safetensors": 4096, ".json": 4096}
OLD, NEW = "0.32.15", "0.34.1"


@pytest.fixture(params=[OLD, NEW])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Standin]:
    """An Ollama that takes adapters, and one that doesn't."""
    with Standin(tmp_path / "ollama", version=request.param) as standin:
        yield standin


def client_for(standin: Standin, models_dir: Path) -> FlaskClient:
    return create_app({"MODELS_DIR": models_dir, "OLLAMA_HOST": standin.url}).test_client()


def beginning(path: Path) -> bytes:
    """As much of a GGUF as the page sends: its header."""
    header = gguf.open_header(path)
    return path.read_bytes()[: header.data_offset]


def ask(client: FlaskClient, files: Mapping[str, Path | bytes], **fields: Any) -> Any:
    """What the service says of the files: GGUFs by their headers, others whole."""
    listed, heads = [], b""
    for name, content in files.items():
        whole = content if isinstance(content, bytes) else content.read_bytes()
        head = whole if isinstance(content, bytes) else beginning(content)
        listed.append({"name": name, "size": len(whole), "head": len(head)})
        heads += head
    body = json.dumps({"files": listed, **fields}).encode() + b"\n" + heads
    return client.post("/models/preview/", data=body)


@pytest.mark.parametrize(
    ("names", "quantize", "steps"),
    [
        (("base",), None, {OLD: [], NEW: []}),
        (("base",), "Q8_0", {OLD: ["quantize"], NEW: ["quantize"]}),
        (("base", "lora"), None, {OLD: [], NEW: ["merge"]}),
        (("base", "lora"), "F16", {OLD: ["quantize"], NEW: ["merge", "quantize"]}),
    ],
)
def test_it_is_what_a_deploy_does(
    tmp_path: Path,
    models_dir: Path,
    server: Standin,
    names: tuple[str, ...],
    quantize: str | None,
    steps: Mapping[str, list[str]],
) -> None:
    made = {"base": write_base(tmp_path / "base.gguf"), "lora": write_lora(tmp_path / "lora.gguf")}
    files = {f"{name}.gguf": made[name] for name in names}
    client = client_for(server, models_dir)
    fields = {"quantize": quantize} if quantize else {}
    said = ask(client, files, **fields).json
    assert said["kind"] == "+".join("adapter" if name == "lora" else name for name in names)
    assert said["architecture"] == "llama"
    (planned,) = said["servers"]
    merges = quantize is not None and "lora" in names
    assert planned["steps"] == (["merge", "quantize"] if merges else steps[server.version])
    with write_zip(tmp_path / "m.zip", files).open("rb") as zipped:
        form = {"model_name_on_ollama": "new", "Model": (zipped, "m.zip"), **fields}
        assert "Success create model" in client.post("/models/deploy/", data=form).text
    is_merged = "model_handler.merged" in show(server.url, "new")["model_info"]
    assert is_merged == ("merge" in planned["steps"])


def test_nothing_is_kept_of_it(tmp_path: Path, models_dir: Path, server: Standin) -> None:
    client = client_for(server, models_dir)
    before = sorted(models_dir.rglob("*"))
    assert ask(client, {"base.gguf": write_base(tmp_path / "base.gguf")}).status_code == 200
    assert sorted(models_dir.rglob("*")) == before


@pytest.mark.parametrize(
    ("files", "kind", "steps"),
    [
        (peft(), None, None),
        (
            {**hugging_face({"torch_dtype": "bfloat16"}), **peft("lora/")},
            "base+adapter",
            "merge convert",
        ),
        (hugging_face({}), "base", "convert"),
    ],
    ids=["adapter alone", "folder and adapter", "folder"],
)
def test_what_trainers_write(
    tmp_path: Path,
    models_dir: Path,
    files: Mapping[str, bytes],
    kind: str | None,
    steps: str | None,
) -> None:
    with Standin(tmp_path / "ollama", version=NEW) as standin:
        answer = ask(client_for(standin, models_dir), files)
    if kind is None:
        assert answer.status_code == 422
        assert "'from'" in answer.text
        return
    assert answer.json["kind"] == kind
    assert " ".join(answer.json["servers"][0]["steps"]) == steps


@pytest.mark.parametrize(("quantize", "bits"), [("Q8_0", 8.5), ("F16", 16.0), ("Q4_K_M", 4.89)])
def test_how_large_it_will_be_about(
    tmp_path: Path, models_dir: Path, quantize: str, bits: float
) -> None:
    base = write_base(tmp_path / "base.gguf")
    with Standin(tmp_path / "ollama", version=NEW) as standin:
        said = ask(client_for(standin, models_dir), {"base.gguf": base}, quantize=quantize).json
    assert said["servers"][0]["bytes"] == pytest.approx(said["parameter_count"] * bits / 8, abs=1)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"[]\n", 400),
        (b"not JSON\n", 400),
        (b'{"files": 1}\n', 400),
        (b'{"files": [{"name": "a"}]}\n', 400),
        (b'{"files": [{"name": "a", "size": 1, "head": 2}]}\n', 400),
        (b'{"files": [{"name": "a", "size": 1, "head": -1}]}\n', 400),
        (b'{"files": [], "quantize": "Q9"}\n', 400),
        (b'{"files": []}\n', 422),
        (b'{"files": [{"name": "a.gguf", "size": 99, "head": 4}]}\nGGUF', 422),
        (b'{"files": [' + b'{"name": "", "size": 0, "head": 0},' * 10_001, 400),
        (bytes(17 * 2**20), 413),
    ],
)
def test_what_is_no_list_of_beginnings(
    models_dir: Path, tmp_path: Path, body: bytes, status: int
) -> None:
    with Standin(tmp_path / "ollama") as standin:
        answer = client_for(standin, models_dir).post("/models/preview/", data=body)
    assert answer.status_code == status
    assert json.loads(answer.text)["message"]["details"]["error"]


def test_where_no_ollama_answers(models_dir: Path, tmp_path: Path) -> None:
    with Standin(tmp_path / "ollama") as standin:
        client = client_for(standin, models_dir)
    answer = ask(client, {"base.gguf": write_base(tmp_path / "base.gguf")})
    assert answer.status_code == 502

"""`model-handler deploy`: what a user has in hand, to a model, by a service that runs."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from click.testing import CliRunner, Result
from flask.testing import FlaskClient

from app.commands import main
from app.commands.payload import BLOCK, FilePayload, Folder
from app.commands.sending import Sender
from tests.conftest import Zips, litter
from tests.gguf_files import write_base, write_lora
from tests.proxy import proxy
from tests.serving import Served
from tests.test_zips import PEFT


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "model-handler"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "first", 1)


def make_folder(folder: Path, seed: int) -> Path:
    """A base of some megabytes, the same each time, and an adapter by its seed."""
    folder.mkdir()
    write_base(folder / "base.gguf", "llama", width=192, blocks=4)
    write_lora(folder / "lora.gguf", "llama", width=192, blocks=4, seed=seed)
    (folder / ".cache").mkdir()
    (folder / ".cache" / "hidden").write_bytes(bytes(100))
    return folder


def deploy(url: str, path: Path, *more: str) -> Result:
    return CliRunner().invoke(main, ["deploy", str(path), *more, "--server", url])


@pytest.mark.parametrize("kind", ["zip", "gguf", "folder"])
def test_what_a_user_has_becomes_a_model(
    kind: str,
    served: Served,
    zips: Zips,
    folder: Path,
    new_name: str,
    models_dir: Path,
    cache: Path,
) -> None:
    path = {"zip": zips.both, "gguf": folder / "base.gguf", "folder": folder}[kind]
    done = deploy(served.url, path, new_name)
    assert done.exit_code == 0, done.stderr
    assert "100% Success create model" in done.stdout
    assert (models_dir / path.stem).is_dir()
    assert not (models_dir / path.stem / ".cache").exists()
    assert "Sending" in done.stderr
    assert not litter(models_dir)
    assert not list(cache.iterdir())


def test_a_second_adapter_on_the_same_base_sends_no_base(
    served: Served, folder: Path, tmp_path: Path, new_name: str, models_dir: Path
) -> None:
    second = make_folder(tmp_path / "second", 2)
    base, lora = ((second / name).stat().st_size for name in ("base.gguf", "lora.gguf"))
    assert base > 2**20
    sent = []
    for path in (folder, second, second):
        with proxy(served.url) as passing:
            done = deploy(passing.url, path, new_name)
            assert done.exit_code == 0, done.stderr
            sent.append(passing.received)
    assert sent[0] > base + lora
    assert max(sent[1:]) < lora + 20_000
    bases = [models_dir / name / "base.gguf" for name in ("first", "second")]
    assert bases[0].samefile(bases[1])


def test_a_folder_that_is_there_whole_is_not_sent(
    served: Served, folder: Path, new_name: str, models_dir: Path
) -> None:
    (folder / "lora.gguf").unlink()
    assert deploy(served.url, folder, new_name).exit_code == 0
    again = folder.rename(folder.with_name("again"))
    with proxy(served.url) as passing:
        done = deploy(passing.url, again, new_name)
        assert done.exit_code == 0, done.stderr
        assert passing.received < 20_000
    assert (models_dir / "again" / "base.gguf").samefile(models_dir / "first" / "base.gguf")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_broken_connection_is_gone_on_with(
    kind: str, served: Served, folder: Path, new_name: str, models_dir: Path
) -> None:
    path = folder if kind == "folder" else folder / "base.gguf"
    size = (folder / "base.gguf").stat().st_size
    with proxy(served.url, size // 2, size // 4) as passing:
        done = deploy(passing.url, path, new_name)
        assert done.exit_code == 0, done.stderr
        assert passing.received < size * 3 // 2 + 2**18
    stored = models_dir / path.stem / "base.gguf"
    assert stored.read_bytes() == (folder / "base.gguf").read_bytes()


def test_a_later_run_goes_on_where_an_earlier_one_stopped(
    served: Served, folder: Path, cache: Path
) -> None:
    class Stopped(FilePayload):
        def blocks(self, offset: int) -> Iterator[bytes]:
            yield next(super().blocks(offset))
            raise RuntimeError

    offsets: list[int] = []
    with requests.Session() as session:
        sender = Sender(session, served.url)
        with pytest.raises(RuntimeError):
            sender.send(Stopped(folder / "base.gguf"), {}, offsets.append)
    upload = f"{served.url}/uploads/{next(cache.iterdir()).read_text()}"
    for _ in range(100):  # until the service has seen the connection's end
        head = requests.head(upload, headers={"Tus-Resumable": "1.0.0"}, timeout=10)
        if head.headers["Upload-Offset"] != "0":
            break
        time.sleep(0.05)
    offsets.clear()
    with requests.Session() as session:
        payload = FilePayload(folder / "base.gguf")
        Sender(session, served.url).send(payload, {}, offsets.append)
    assert 0 < offsets[0] < offsets[-1] == payload.size


def test_an_adapters_weights_are_sent_with_the_config_beside_them(
    served: Served, tmp_path: Path, models_dir: Path
) -> None:
    """And nothing else of the folder."""
    folder = tmp_path / "mine"
    folder.mkdir()
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(PEFT[weights.name])
    (folder / "notes.txt").write_text("more")
    alone = deploy(served.url, weights, "a")
    assert (alone.exit_code, "no adapter_config.json beside it" in alone.stderr) == (1, True)
    (folder / "adapter_config.json").write_bytes(PEFT["adapter_config.json"])
    refused = deploy(served.url, weights, "a")
    assert "Found an adapter without a base model" in refused.stderr
    with requests.Session() as session:
        payload = Folder.of_adapter(weights).without(())
        assert payload is not None
        upload = Sender(session, served.url).send(payload, {}, lambda at: None)
    answer = requests.post(f"{served.url}/models/upload/", json={"upload": upload}, timeout=10)
    assert answer.text.splitlines()[-1].startswith('{"status": 200'), answer.text
    assert {path.name for path in (models_dir / "mine").glob("[!.]*")} == set(PEFT)


def test_what_a_failed_deploy_sent_is_not_sent_again(
    served: Served, folder: Path, new_name: str
) -> None:
    base = folder / "base.gguf"
    with proxy(served.url) as passing:
        failed = deploy(passing.url, base, new_name, "--set", "projector=none.gguf")
        assert (failed.exit_code, "none.gguf" in failed.stderr) == (1, True), failed.stderr
        done = deploy(passing.url, base, new_name)
        assert done.exit_code == 0, done.stderr
        assert passing.received < base.stat().st_size + 20_000


def test_a_failure_is_told_and_is_the_exit_status(
    served: Served, zips: Zips, new_name: str, tmp_path: Path
) -> None:
    refused = deploy(served.url, zips.both, "not a name")
    assert refused.exit_code == 1
    assert "Error: " in refused.stderr
    text = tmp_path / "model.txt"
    text.write_text("no model")
    assert "isn't named like an upload" in deploy(served.url, text, new_name).stderr
    (tmp_path / "empty").mkdir()
    assert "holds no file" in deploy(served.url, tmp_path / "empty", new_name).stderr


def test_json_prints_the_lines_as_they_are(served: Served, zips: Zips, new_name: str) -> None:
    done = deploy(served.url, zips.both, new_name, "--json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[0]["message"]["action"] == "Start save model."
    assert lines[-1]["status"] == 200


@pytest.mark.parametrize("offset", [0, 1, BLOCK, BLOCK + 7])
def test_a_folders_zip_is_the_same_each_time(folder: Path, offset: int) -> None:
    payload = Folder.read(folder).without(())
    assert payload is not None
    whole = b"".join(payload.blocks(0))
    assert len(whole) == payload.size
    assert b"".join(payload.blocks(offset)) == whole[offset:]


GOOD = {"name": "a", "size": 1, "sha256": "0" * 64}


@pytest.mark.parametrize(
    "files",
    [
        *(None, "a", {}, [1], [{}], [GOOD | {"name": 1}], [GOOD | {"name": ""}]),
        *([GOOD | {"size": -1}], [GOOD | {"size": True}], [GOOD | {"size": 1.5}]),
        *([GOOD | {"sha256": "0"}], [GOOD | {"sha256": "g" * 64}], [GOOD] * 10_001),
    ],
)
def test_lists_of_files_that_are_refused(client: FlaskClient, files: object) -> None:
    body = {} if files is None else {"files": files}
    answer = client.post("/models/missing/", json=body)
    assert answer.status_code in (400, 413), answer.text


def test_files_that_are_not_here_are_missing(client: FlaskClient) -> None:
    answer = client.post("/models/missing/", json={"files": [GOOD]})
    assert answer.json == {"missing": ["a"]}
    body = {"known": [GOOD], "name": "m", "model_name_on_ollama": "m"}
    assert client.post("/models/deploy/", json=body).status_code == 409


@pytest.fixture
def client(app: Any) -> FlaskClient:
    made: FlaskClient = app.test_client()
    return made

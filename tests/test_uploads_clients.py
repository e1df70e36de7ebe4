"""Resumable uploads by the clients that people use, under gunicorn and through nginx."""

import hashlib
import json
import random
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import ZIP_DEFLATED

import pytest
import requests
from tusclient.client import TusClient
from tusclient.exceptions import TusCommunicationError, TusUploadFailed
from tusclient.uploader import Uploader

from tests.conftest import expire_uploads, litter, require_program
from tests.documents import URL, examples
from tests.gguf_files import write_base, write_zip
from tests.javascript import run_node
from tests.proxy import proxy
from tests.serving import ROOT, Served
from tests.test_nginx import nginx

TUS = {"Tus-Resumable": "1.0.0"}


@pytest.fixture(scope="module")
def nginxes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The address of an nginx before each service."""
    with ExitStack() as running:

        class Started(dict[str, str]):
            def __missing__(self, url: str) -> str:
                folder = tmp_path_factory.mktemp("nginx") / "nginx"
                self[url] = running.enter_context(nginx(folder, url))
                return self[url]

        yield Started()


@pytest.fixture(params=["gunicorn", "nginx"])
def url(request: pytest.FixtureRequest, served: Served) -> str:
    """The service's address, its own and that of an nginx before it."""
    if request.param == "gunicorn":
        return served.url
    found: str = request.getfixturevalue("nginxes")[served.url]
    return found


@dataclass(frozen=True)
class Source:
    """A zip, and the digests of the files in it."""

    zip: Path
    digests: dict[str, str]

    @property
    def size(self) -> int:
        return self.zip.stat().st_size


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """Some megabytes, stored and deflated."""
    folder = tmp_path_factory.mktemp("source")
    base = write_base(folder / "base.gguf", "llama", width=192, blocks=4).read_bytes()
    members = {"base.gguf": base, "notes.txt": b"notes " * 100_000}
    zipped = write_zip(folder / "mine.zip", members, ZIP_DEFLATED)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in members.items()}
    return Source(zipped, digests)


def tus_js(url: str, file: Path, **options: Any) -> dict[str, Any]:
    """What becomes of an upload by tus-js-client with these options; see node/tus.mjs."""
    given = {"endpoint": f"{url}/uploads/", "metadata": {"filename": file.name}, **options}
    said: dict[str, Any] = json.loads(run_node("tus.mjs", file, json.dumps(given)))
    return said


def offset(upload: str) -> int | None:
    """How much the service has of an upload; None where there is none."""
    answer = requests.head(upload, headers=TUS, timeout=10)
    assert answer.headers["Tus-Resumable"] == "1.0.0"
    return int(answer.headers["Upload-Offset"]) if answer.ok else None


def check_published(service: str, upload: str, source: Source, models_dir: Path) -> None:
    """Store the upload as a model, which is the source's then; nothing else is left."""
    named = {"upload": upload.rpartition("/")[2]}
    answer = requests.post(f"{service}/models/upload/", json=named, timeout=60)
    assert answer.text.splitlines()[-1].startswith('{"status": 200'), answer.text
    for name, digest in source.digests.items():
        content = (models_dir / "mine" / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest
    check_nothing_is_left(models_dir)


def check_nothing_is_left(models_dir: Path) -> None:
    state = models_dir / ".model-handler"
    assert [*litter(models_dir), *state.glob("uploads/*"), *state.glob("removed/*")] == []


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chunkSize": 700_001},
        {"uploadDataDuringCreation": True, "chunkSize": 1_000_000},
        {"overridePatchMethod": True},
    ],
    ids=["at once", "in chunks", "creation with upload", "POST for PATCH"],
)
def test_tus_js_client_uploads(
    url: str, source: Source, models_dir: Path, options: dict[str, Any]
) -> None:
    said = tus_js(url, source.zip, **options)
    assert said.get("done"), said
    assert said["url"].startswith(url)
    check_published(url, said["url"], source, models_dir)


def test_tus_js_client_goes_on_after_cuts_at_random_bytes(
    url: str, source: Source, models_dir: Path
) -> None:
    """By itself, wherever the connection breaks; what is sent twice is less than was on its way."""
    dice = random.Random(16)
    cuts = [dice.randrange(1000, source.size // 3) for _ in range(6)]
    with proxy(url, 400, *cuts) as passing:
        said = tus_js(passing.url, source.zip)
    assert said.get("done"), said
    assert said["retries"] >= 3
    check_published(url, url + said["url"].removeprefix(passing.url), source, models_dir)


def test_tus_js_client_goes_on_in_another_process(
    url: str, source: Source, models_dir: Path
) -> None:
    said = tus_js(url, source.zip, chunkSize=500_000, stopAt=1_000_000)
    assert offset(said["url"]) == said["stoppedAt"] == 1_000_000
    again = tus_js(url, source.zip, uploadUrl=said["url"])
    assert (again["url"], again["resumedAt"], again.get("done")) == (said["url"], 1_000_000, True)
    check_published(url, said["url"], source, models_dir)


def test_tus_js_client_terminates(url: str, source: Source, models_dir: Path) -> None:
    said = tus_js(url, source.zip, chunkSize=500_000, stopAt=500_000, terminate=True)
    assert said["stoppedAt"] == 500_000
    assert offset(said["url"]) is None
    check_nothing_is_left(models_dir)


def test_tus_js_client_begins_again_where_the_upload_has_expired(
    url: str, source: Source, models_dir: Path
) -> None:
    said = tus_js(url, source.zip, chunkSize=500_000, stopAt=500_000)
    expire_uploads(models_dir)
    again = tus_js(url, source.zip, uploadUrl=said["url"])
    assert again.get("done"), again
    assert again["url"] != said["url"]
    check_published(url, again["url"], source, models_dir)


@dataclass
class Tuspy:
    """Makes tuspy's uploaders of the source."""

    stream: BinaryIO

    def __call__(self, service: str, **more: Any) -> Uploader:
        given = {"metadata": {"filename": "mine.zip"}, "chunk_size": 700_001, **more}
        return TusClient(f"{service}/uploads/").uploader(file_stream=self.stream, **given)


@pytest.fixture
def tuspy(source: Source) -> Iterator[Tuspy]:
    with source.zip.open("rb") as stream:
        yield Tuspy(stream)


def test_tuspy_goes_on_after_cuts_at_random_bytes(
    url: str, source: Source, models_dir: Path, tuspy: Tuspy
) -> None:
    dice = random.Random(61)
    cuts = [dice.randrange(1000, source.size // 3) for _ in range(6)]
    with proxy(url) as passing:
        uploader = tuspy(passing.url, retries=20, retry_delay=0.05)
        uploader.set_url(uploader.create_url())
        passing.cut(*cuts)
        uploader.upload()
    check_published(url, url + uploader.url.removeprefix(passing.url), source, models_dir)


def test_tuspy_sends_checksums(
    url: str, source: Source, models_dir: Path, tuspy: Tuspy, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploader = tuspy(url, upload_checksum=True)
    uploader.upload(stop_at=700_001)
    uploader.stop_at = source.size
    with monkeypatch.context() as wrong, pytest.raises(TusUploadFailed) as failure:
        wrong.setattr(Uploader, "checksum_algorithm", lambda self, _: hashlib.sha1(b"other"))
        uploader.upload_chunk()
    assert failure.value.status_code == 460
    assert offset(uploader.url) == 700_001
    uploader.upload()
    check_published(url, uploader.url, source, models_dir)


def test_tuspy_learns_that_an_upload_has_expired_and_nothing_is_left(
    url: str, source: Source, models_dir: Path, tuspy: Tuspy
) -> None:
    uploader = tuspy(url)
    uploader.upload_chunk()
    expire_uploads(models_dir)
    with pytest.raises(TusCommunicationError) as failure:
        tuspy(url, url=uploader.url)
    assert failure.value.status_code == 404
    other = tuspy(url)
    other.upload()
    check_published(url, other.url, source, models_dir)


def test_the_example_of_an_upload_goes_on_after_a_break(
    served: Served, tmp_path: Path, models_dir: Path
) -> None:
    """As the text beside it says: the lines from `offset=` on are repeated."""
    require_program("curl")
    base = write_base(tmp_path / "base.gguf", width=192, blocks=6)
    size = write_zip(tmp_path / "my_model.zip", {"base.gguf": base}).stat().st_size
    of_api = examples(ROOT / "docs/api.rst")
    [code] = [example.code for example in of_api if "-X PATCH" in example.code]
    begin, offset, rest = code.partition("offset=")
    again = f"{offset}{rest}".replace("curl ", "curl -sS --fail-with-body ")
    go_on = "bash -euc " + shlex.quote(f"{again}\necho went on at $offset")
    with proxy(served.url, *[2**20] * 2, size * 3 // 4) as breaking:
        script = (
            f"{begin.replace(URL, breaking.url)}export service upload\n"
            f"{go_on} || echo broken\n"
            # The service may not have noticed yet, and says 423.
            f"service={served.url}; for try in $(seq 100); do {go_on} && exit; sleep 0.1; done\n"
        )
        command = ["bash", "-uc", script]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "broken" in done.stdout
    assert 0 < int(done.stdout.rpartition(" ")[2]) < size
    assert '"action": "Success create model"' in done.stdout
    assert (models_dir / "my_model" / "base.gguf").exists()


@pytest.mark.parametrize(
    ("begins", "metadata", "status", "most"),
    [
        (b"PK\3\4", {"model_name_on_ollama": "a@b"}, 400, 0),
        (b"PK\3\4", {"quantize": "Q9"}, 400, 0),
        (b"<!DOCTYPE html><html>", {}, 422, 4_000_000),
        (b"GGUF\3", {"model_name_on_ollama": "a"}, 422, 4_000_000),
    ],
    ids=["a name", "an option", "a page", "a broken model"],
)
def test_a_mistake_reaches_a_tus_client_that_still_sends(
    url: str,
    tmp_path: Path,
    models_dir: Path,
    begins: bytes,
    metadata: dict[str, str],
    status: int,
    most: int,
) -> None:
    (tmp_path / "m.gguf").write_bytes(begins + bytes(40_000_000))
    named = {"filename": "m.gguf" if begins.startswith(b"GGUF") else "m.zip", **metadata}
    said = tus_js(url, tmp_path / "m.gguf", metadata=named)
    assert said.get("status") == status, said
    assert said["sent"] <= most
    check_nothing_is_left(models_dir)

import fcntl
import gc
import os
import random
import shutil
import socket
import uuid
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from flask import Flask
from xdist.scheduler import LoadFileScheduling

from app import create_app
from app.ollama.address import ollama_url
from app.ollama.client import Ollama
from app.storage.directory import Storage
from tests.browser import Page, WebDriver, open_chromium
from tests.callers import Caller, CurlCaller, FlaskCaller, RequestsCaller
from tests.gguf_files import write_base, write_lora, write_zip
from tests.serving import Served, serve
from tests.standin import Standin

REAL_OLLAMA = os.environ.get("OLLAMA_TEST_HOST")
VERSIONS = ("0.32.15", "0.34.1")
PAGES = ("tests/test_page", "tests/test_early_browser")
each_ollama = pytest.mark.parametrize("ollama_version", ["real"] if REAL_OLLAMA else VERSIONS)
"""Runs a test on an Ollama that takes adapters and on one that doesn't, where that matters."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadFileScheduling:
    """A file's tests run in one process, and so do all that open the page, in one Chromium."""

    class Scheduling(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return "the page" if nodeid.startswith(PAGES) else str(super()._split_scope(nodeid))

    return Scheduling(config, log)


def pytest_collection_finish() -> None:
    """What was collected stays: the garbage collector needn't look at it again and again."""
    gc.collect()
    gc.freeze()


def require_program(name: str) -> None:
    """Skip the test where `name` isn't installed, saying so; under CI=true, fail it."""
    if shutil.which(name) is None:
        say = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        say(f"{name} isn't installed: tests/system-packages test")


@pytest.fixture
def ollama_version() -> str:
    """The version that the stand-in plays."""
    return VERSIONS[0]


@pytest.fixture(scope="session")
def port_of() -> Callable[[str], int]:
    """The port at which this session's stand-in of a version is always found: the shared services
    know them by it. Below those that the kernel gives to others."""
    ports: dict[str, int] = {}

    def find(version: str) -> int:
        while version not in ports:
            port = random.SystemRandom().randrange(15_000, 30_000)
            with socket.socket() as trial:
                if trial.connect_ex(("127.0.0.1", port)) and port not in ports.values():
                    ports[version] = port
        return ports[version]

    return find


@pytest.fixture
def standin(
    tmp_path: Path, ollama_version: str, port_of: Callable[[str], int]
) -> Iterator[Standin]:
    """A stand-in for Ollama with nothing on it."""
    folder, port = tmp_path / "ollama", port_of(ollama_version)
    with Standin(folder, version=ollama_version, port=port) as server:
        yield server


@pytest.fixture
def ollama(request: pytest.FixtureRequest, ollama_version: str) -> str:
    """The address of Ollama: the real one that OLLAMA_TEST_HOST names, else the stand-in's."""
    if REAL_OLLAMA:
        return ollama_url(REAL_OLLAMA)
    url: str = request.getfixturevalue("standin").url
    return url


@pytest.fixture
def new_name(ollama: str) -> Iterator[str]:
    """A name that no model on Ollama has; what was made under it is deleted afterwards."""
    name = f"mh-test-{uuid.uuid4().hex[:12]}"
    yield name
    requests.delete(f"{ollama}/api/delete", json={"model": name}, timeout=30)


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def app(models_dir: Path, ollama: str) -> Flask:
    return create_app({"TESTING": True, "MODELS_DIR": models_dir, "OLLAMA_HOST": ollama})


class SharedService:
    """One running service for the tests of a session that change no setting. Each test gives it a
    models directory of its own, by a link."""

    def __init__(self, folder: Path, ollama: str) -> None:
        self._link = folder / "models"
        self._running = ExitStack()
        self.use(folder / "first")
        self.served = self._running.enter_context(serve(self._link, ollama))
        self.stop = self._running.close

    def use(self, models_dir: Path) -> None:
        """Prepare `models_dir` as a start does, and work there from now on."""
        Storage(models_dir).prepare()
        link = self._link.with_name("next")
        link.symlink_to(models_dir)
        link.replace(self._link)


@pytest.fixture(scope="session")
def shared_services(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[str], SharedService]]:
    """The session's service for the Ollama at an address."""
    services: dict[str, SharedService] = {}

    def find(ollama: str) -> SharedService:
        if ollama not in services:
            services[ollama] = SharedService(tmp_path_factory.mktemp("shared"), ollama)
        return services[ollama]

    yield find
    for service in services.values():
        service.served.process.terminate()
    for service in services.values():
        service.stop()


@pytest.fixture
def served(
    models_dir: Path, ollama: str, shared_services: Callable[[str], SharedService]
) -> Served:
    """The service under gunicorn, one worker with threads, as it comes; shared by all tests, so
    not to be stopped or killed."""
    service = shared_services(ollama)
    service.use(models_dir)
    return service.served


@pytest.fixture(scope="session")
def chromium() -> Iterator[WebDriver]:
    """One Chromium for all tests of the page."""
    require_program("chromium")
    require_program("chromedriver")
    driver = open_chromium()
    yield driver
    driver.quit()


@pytest.fixture
def page(chromium: WebDriver, served: Served) -> Iterator[Page]:
    """The page, of the shared service; nothing that it shows is refused by its own policy."""
    chromium.get_log("browser")  # type: ignore[attr-defined]  # of other tests
    yield Page(chromium, served.url)
    said = [line["message"] for line in chromium.get_log("browser")]  # type: ignore[attr-defined]
    assert not [line for line in said if "Content Security Policy" in line]


@pytest.fixture(params=["flask", "requests", "curl"])
def caller(request: pytest.FixtureRequest) -> Caller:
    """Each way to call the service: in-process, and over HTTP under gunicorn."""
    if request.param == "flask":
        return FlaskCaller(request.getfixturevalue("app").test_client())
    served: Served = request.getfixturevalue("served")
    if request.param == "requests":
        return RequestsCaller(served.url)
    require_program("curl")
    return CurlCaller(served.url)


@dataclass(frozen=True)
class Zips:
    """Zips of tiny models."""

    base: Path
    lora: Path
    both: Path


@pytest.fixture(scope="session")
def zips(tmp_path_factory: pytest.TempPathFactory) -> Zips:
    """A base, an adapter for it, and both."""
    return make_zips(tmp_path_factory.mktemp("zips"), "llama")


@pytest.fixture(scope="session")
def large(zips: Zips, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zip of a base that takes a moment to send: 12 MB."""
    rest = random.Random(0).randbytes(2**20) * 12
    base = zipfile.ZipFile(zips.base).read("base.gguf")
    folder = tmp_path_factory.mktemp("large")
    return write_zip(folder / "large.zip", {"base.gguf": base, "rest.bin": rest})


@pytest.fixture(scope="session", params=["llama", "qwen2"])
def zips_of_each(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Zips:
    """The same, of each of two architectures."""
    return make_zips(tmp_path_factory.mktemp("zips"), request.param)


def make_zips(folder: Path, arch: str) -> Zips:
    base = write_base(folder / "base.gguf", arch)
    lora = write_lora(folder / "lora.gguf", arch)
    return Zips(
        base=write_zip(folder / "tiny_base.zip", {"base.gguf": base}),
        lora=write_zip(folder / "tiny_adapter.zip", {"lora.gguf": lora}),
        both=write_zip(folder / "tiny_lora.zip", {"base.gguf": base, "lora.gguf": lora}),
    )


def litter(models_dir: Path) -> list[str]:
    """What tasks have left behind in the service's own folder."""
    state = models_dir / ".model-handler"
    found = [*state.glob("staging/*"), *state.glob("locks/*")]
    return [str(path.relative_to(state)) for path in found]


def expire_uploads(models_dir: Path) -> None:
    """Have the time of all partial uploads be over, once what came of them is on the disk."""
    for path in models_dir.glob(".model-handler/uploads/*/journal"):
        with path.open("rb") as journal:
            fcntl.flock(journal, fcntl.LOCK_EX)
            os.utime(path, (0, 0))


def show(ollama: str, name: str) -> dict[str, Any]:
    """What Ollama says of a model."""
    response = requests.post(f"{ollama}/api/show", json={"model": name}, timeout=30)
    response.raise_for_status()
    shown: dict[str, Any] = response.json()
    return shown


def check_adapter_arrived(ollama: str, name: str) -> None:
    """The model carries an adapter on a server that takes them, and else a merged base."""
    taken = Ollama(ollama, 10, 60).takes_adapters()
    shown = show(ollama, name)
    assert ("\nADAPTER " in shown["modelfile"]) == taken
    assert ("model_handler.merged" in shown["model_info"]) == (not taken)

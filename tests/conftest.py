import inspect
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from flask import Flask

from app import create_app
from app.ollama.address import ollama_url
from app.ollama.client import Ollama
from tests.callers import Caller, CurlCaller, FlaskCaller, RequestsCaller
from tests.gguf_files import write_base, write_lora, write_zip
from tests.serving import Served, serve
from tests.standin import Standin

REAL_OLLAMA = os.environ.get("OLLAMA_TEST_HOST")


def require_program(name: str) -> None:
    """Skip the test where `name` isn't installed, saying so; under CI=true, fail it."""
    if shutil.which(name) is None:
        say = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        say(f"{name} isn't installed: tests/system-packages test")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what makes models on Ollama with a version that takes adapters and one that doesn't."""
    asked = inspect.signature(metafunc.function).parameters
    if not REAL_OLLAMA and "ollama_version" not in asked and {"new_name", "standin"} & set(asked):
        metafunc.parametrize("ollama_version", ["0.32.15", "0.34.1"])


@pytest.fixture
def ollama_version() -> str:
    """The version that the stand-in plays."""
    return "0.32.15"


@pytest.fixture
def standin(tmp_path: Path, ollama_version: str) -> Iterator[Standin]:
    """A stand-in for Ollama with nothing on it."""
    with Standin(tmp_path / "ollama", version=ollama_version) as server:
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


@pytest.fixture
def served(models_dir: Path, ollama: str) -> Iterator[Served]:
    """The service under gunicorn, one worker with threads, as it comes."""
    with serve(models_dir, ollama) as served:
        yield served


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

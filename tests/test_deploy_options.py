"""`model-handler deploy`: each option and exit status; mistakes are told before a byte is sent."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import requests
from click.testing import CliRunner, Result

from app.commands import main
from tests.conftest import Zips, litter
from tests.gguf_files import write_base, write_lora
from tests.proxy import proxy
from tests.serving import Served, serve
from tests.standin import Standin


@pytest.fixture(autouse=True)
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in [name for name in os.environ if name.startswith("MODEL_HANDLER_")]:
        monkeypatch.delenv(name)


def deploy(*arguments: str | Path, **environ: str) -> Result:
    return CliRunner().invoke(main, ["deploy", *map(str, arguments)], env=environ)


def creates(served: Served, name: str) -> list[dict[str, Any]]:
    """How a stored model was made on Ollama, the last time first."""
    report = requests.get(f"{served.url}/models/{name}/?verbose=1", timeout=30).json()
    found: list[dict[str, Any]] = report["creates"]
    return found


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """What nobody wants sent in vain."""
    path = tmp_path / "large.gguf"
    path.write_bytes(b"GGUF" + bytes(30_000_000))
    return path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["not a name"], "not a name"),
        (["x:latest:1"], "x:latest:1"),
        (["x", "--set", "replaec=false"], "Did you mean 'replace'?"),
        (["x", "--set", "merge=sometimes"], "takes one of auto, always, never"),
        (["x", "--set", "parameters={"], "isn't JSON"),
        (["x", "--set", 'parameters={"temprature": 1}'], "temprature"),
        (["x", "--set", "modelfile=FORM x"], "'FORM' is no instruction"),
        (["x", "--set", "modelfile_template=none.jinja"], "none.jinja"),
        (["x", "--ollama-server", "elsewhere:1"], "There is no Ollama server 'elsewhere:1'"),
        (["taken", "--no-replace"], "taken"),
    ],
)
def test_a_mistake_is_told_before_anything_is_sent(
    served: Served, zips: Zips, large: Path, arguments: list[str], said: str, models_dir: Path
) -> None:
    if "taken" in arguments:
        assert deploy(zips.base, "taken", "--server", served.url).exit_code == 0
    with proxy(served.url) as passing:
        done = deploy(large, *arguments, "--server", passing.url)
        assert passing.received < 2000
    assert done.exit_code == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not list(models_dir.glob(".model-handler/uploads/*"))


def test_what_the_first_bytes_tell_is_told_at_once(
    served: Served, large: Path, tmp_path: Path, models_dir: Path
) -> None:
    text = tmp_path / "large.zip"
    text.write_bytes(b"<!DOCTYPE html><html>" + bytes(30_000_000))
    for path, said in ((large, "GGUF"), (text, "HTML")):
        with proxy(served.url) as passing:
            done = deploy(path, "x", "--server", passing.url)
            assert passing.received < 4_000_000
        assert done.exit_code == 1
        assert said in done.stderr
    assert not list(models_dir.glob(".model-handler/uploads/*"))


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["nowhere.zip", "x"], 2, "nowhere.zip"),
        (["{zip}"], 2, "NAME"),
        (["{zip}", "x", "--quantize", "Q9"], 2, "Q9"),
        (["{zip}", "x", "--adapter-scale", "much"], 2, "much"),
        (["{zip}", "x", "--adapter-scale", "nan"], 2, "finite"),
        (["{zip}", "x", "--set", "system"], 2, "FIELD=VALUE"),
        (["{zip}", "x", "--no-such-option"], 2, "--no-such-option"),
        (["{zip}", "x", "--server", "http://127.0.0.1:9"], 1, "can't be reached"),
        (["{zip}", "x", "--server", "nowhere"], 1, "can't be reached"),
    ],
)
def test_what_cannot_be_understood_or_reached(
    zips: Zips, arguments: list[str], status: int, said: str
) -> None:
    done = deploy(*(each.replace("{zip}", str(zips.both)) for each in arguments))
    assert (done.exit_code, said in done.stderr) == (status, True), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ([], {}),
        (["--quantize", "q8_0"], {"quantize": "Q8_0"}),
        (["--adapter-scale", "0.5"], {"adapter_scale": 0.5}),
        (["--replace"], {}),
        (["--no-replace"], {"replace": False}),
        (["--verify"], {"verify": True}),
        (["--set", "system=a=b", "--set", "merge=always"], {"system": "a=b", "merge": "always"}),
        (["--set", 'parameters={"seed": 1}'], {"parameters": {"seed": 1}}),
        (["--set", f"system={'long ' * 2000}"], {"system": "long " * 2000}),
    ],
)
def test_each_option_reaches_the_service(
    served: Served,
    zips: Zips,
    new_name: str,
    standin: Standin,
    arguments: list[str],
    options: dict[str, Any],
) -> None:
    done = deploy(zips.both, new_name, *arguments, "--server", served.url)
    assert done.exit_code == 0, done.stderr
    [create] = creates(served, "tiny_lora")
    kept = create["options"]
    if len(options.get("system", "")) > 100:
        assert kept["system"].startswith("long long")
    else:
        assert kept == options
    tried = [asked.json for asked in standin.requests if asked.path == "/api/generate"]
    assert bool(tried) == ("--verify" in arguments)


def test_an_adapter_alone_takes_its_base_by_from(served: Served, zips: Zips, new_name: str) -> None:
    assert deploy(zips.base, "a-base", "--server", served.url).exit_code == 0
    done = deploy(zips.lora, new_name, "--from", "a-base", "--server", served.url)
    assert done.exit_code == 0, done.stderr
    assert creates(served, "tiny_adapter")[0]["options"] == {"from": "a-base"}


def test_an_ollama_server_is_chosen(
    served: Served, zips: Zips, new_name: str, standin: Standin
) -> None:
    address = standin.url.removeprefix("http://")
    done = deploy(zips.both, new_name, "--ollama-server", address, "--server", served.url)
    assert done.exit_code == 0, done.stderr
    assert creates(served, "tiny_lora")[0]["servers"] == [standin.url]


def test_the_key_and_the_server_come_from_the_environment(
    models_dir: Path, ollama: str, zips: Zips, new_name: str
) -> None:
    with serve(models_dir, ollama, {"MODEL_HANDLER_API_KEY": "a secret"}) as served:
        server = {"MODEL_HANDLER_SERVER": served.url + "/"}
        for environ in ({}, {"MODEL_HANDLER_API_KEY": "another"}):
            done = deploy(zips.both, new_name, **server, **environ)
            assert done.exit_code == 1
            assert "needs an API key" in done.stderr
        done = deploy(zips.both, new_name, **server, MODEL_HANDLER_API_KEY="a secret")
        assert done.exit_code == 0, done.stderr
        done = deploy(zips.both, new_name, "--key-env", "MINE", **server, MINE="a secret")
        assert done.exit_code == 0, done.stderr
    assert not litter(models_dir)


def test_json_is_nothing_but_the_services_lines(
    served: Served, zips: Zips, new_name: str, standin: Standin
) -> None:
    """Also where it refuses; the exit status is 0 only where the last line's is 200."""

    def told(*arguments: str | Path) -> tuple[int, list[dict[str, Any]]]:
        done = deploy(*arguments, "--json", "--server", served.url)
        return done.exit_code, [json.loads(line) for line in done.stdout.splitlines()]

    status, lines = told(zips.both, new_name)
    assert status == 0
    assert lines[0]["message"]["action"] == "Start save model."
    assert lines[-1]["message"]["details"]["model_name_on_ollama"] == new_name
    assert [line["status"] for line in lines] == [200] * len(lines)
    status, [line] = told(zips.both, "not a name")
    assert (status, line["status"]) == (1, 400)
    standin.fail_next("/api/create", 500, b'{"error": "disk"}')
    status, lines = told(zips.both, new_name)
    assert (status, lines[0]["status"], lines[-1]["status"]) == (1, 200, 502)
    assert "disk" in lines[-1]["message"]["details"]["error"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--from", "nothing-of-that-name"], "nothing-of-that-name"),
        (["--from", "other-architecture"], "architecture"),
    ],
)
def test_an_adapter_that_does_not_fit_its_base_is_told_at_once(
    served: Served, new_name: str, tmp_path: Path, models_dir: Path, options: list[str], said: str
) -> None:
    """By its first bytes, which the service holds against the options."""
    base = write_base(tmp_path / "base.gguf", "qwen2")
    assert deploy(base, "other-architecture", "--server", served.url).exit_code == 0
    lora = write_lora(tmp_path / "lora.gguf", "llama")
    with lora.open("ab") as file:
        file.write(bytes(20_000_000))
    with proxy(served.url) as passing:
        done = deploy(lora, new_name, *options, "--server", passing.url)
        assert passing.received < 4_000_000
    assert done.exit_code == 1
    assert said in done.stderr
    assert not list(models_dir.glob(".model-handler/uploads/*"))

"""The `model-handler` command."""

import hashlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from app.commands import main
from app.config import SETTINGS
from app.formats.gguf import open_header
from tests.gguf_files import write_base, write_lora, write_zip

COMMAND = (sys.executable, "-c", "from app.commands import main; main()")


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_version_and_help_say_what_there_is() -> None:
    assert run("--version").stdout.startswith("model-handler, version ")
    assert "serve" in run("--help").stdout


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"MODEL_HANDLER_THREADS": "many"}, "MODEL_HANDLER_THREADS='many': takes a whole number"),
        ({"MODEL_HANDLER_BIND": "nowhere.invalid:80"}, "MODEL_HANDLER_BIND='nowhere.invalid:80'"),
        ({"MODEL_HANDLER_MODELS_DIR": "/dev/null/x"}, "MODEL_HANDLER_MODELS_DIR=/dev/null/x"),
    ],
)
def test_a_setting_that_cannot_be_used_is_one_sentence(environ: dict[str, str], said: str) -> None:
    done = run("serve", **{"MODEL_HANDLER_BIND": "127.0.0.1:0", **environ})
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_in_use_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run("serve", "--bind", bind)
    assert done.returncode == 2
    assert f"MODEL_HANDLER_BIND={bind!r}: Address already in use." in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("variable", "text", "shown"),
    [
        ("MODEL_HANDLER_THREADS", "7", "7  [environment]"),
        ("MODEL_HANDLER_THREADS", "", "32  [default]"),
        ("MODEL_HANDLER_API_KEY", "hush", "(set, not shown)  [environment]"),
        ("MODEL_HANDLER_API_KEY", "", "(not set)  [default]"),
        ("MODEL_HANDLER_MODELS_DIR", "models", f"{Path.cwd()}/models  [environment]"),
        ("MODEL_HANDLER_VERIFY", "", "0  [default]"),
        ("MODEL_HANDLER_TRUSTED_HOSTS", "a, .b", "a,.b  [environment]"),
        ("MODEL_HANDLER_CONVERTER", "python 'a b'", "python a b  [environment]"),
        ("MODEL_HANDLER_BIND", "a\x1b[31m", "a\\x1b[31m  [environment]"),
        ("OLLAMA_HOST", "http://me:hush@one:80,two", "http://***@one:80"),
    ],
)
def test_settings_say_value_and_origin_and_keep_secrets(
    variable: str, text: str, shown: str
) -> None:
    said = CliRunner().invoke(main, ["settings"], env={variable: text}).output
    [line] = [line for line in said.splitlines() if line.startswith(f"{variable} ")]
    assert shown in line
    assert "hush" not in said
    assert said.count("[default]") + said.count("[environment]") == len(SETTINGS)


@pytest.mark.parametrize("command", ["serve", "gc", "settings"])
def test_a_setting_that_cannot_be_read_is_one_sentence_in_every_command(command: str) -> None:
    done = CliRunner().invoke(main, [command], env={"MODEL_HANDLER_THREADS": "many"})
    assert done.exit_code == 2
    [line] = done.output.splitlines()
    assert line.startswith("Error: MODEL_HANDLER_THREADS='many': takes a whole number")


def test_convert_merges_and_quantises_a_folder_with_its_adapter(tmp_path: Path) -> None:
    folder = tmp_path / "brought"
    folder.mkdir()
    write_base(folder / "base.gguf")
    lora = write_lora(tmp_path / "lora.gguf")
    done = run("convert", str(folder), "--adapter", str(lora), "-o", str(tmp_path / "out.gguf"))
    assert done.returncode == 0, done.stderr
    assert "The adapter changes" in done.stdout
    assert hashlib.sha256((tmp_path / "out.gguf").read_bytes()).hexdigest() in done.stdout
    assert open_header(tmp_path / "out.gguf").metadata["model_handler.merged"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["brought", "lora.gguf", "out.gguf"]


def test_check_and_convert_take_an_archive_and_say_what_is_wrong(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base.gguf")
    zipped = write_zip(tmp_path / "m.zip", {"base.gguf": base})
    said = run("check", str(zipped), "--quantize", "q8_0")
    assert "Q8_0" in said.stdout, said.stderr
    adapter_alone = write_zip(tmp_path / "a.zip", {"lora.gguf": write_lora(tmp_path / "lora.gguf")})
    done = run("check", str(adapter_alone))
    assert (done.returncode, "no base model" in done.stderr) == (1, True)
    assert "Traceback" not in done.stderr
    (tmp_path / "out.gguf").write_bytes(b"mine")
    done = run("convert", str(zipped), "-o", str(tmp_path / "out.gguf"))
    assert (done.returncode, "The output file exists" in done.stderr) == (1, True)
    assert (tmp_path / "out.gguf").read_bytes() == b"mine"

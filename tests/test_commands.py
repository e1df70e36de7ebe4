"""The `model-handler` command."""

import os
import socket
import subprocess
import sys

import pytest

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


def test_settings_say_value_and_origin_and_keep_the_key() -> None:
    said = run("settings", MODEL_HANDLER_THREADS="7", MODEL_HANDLER_API_KEY="hush").stdout
    assert "MODEL_HANDLER_THREADS" in said
    assert "7  [environment]" in said
    assert "[default]" in said
    assert "hush" not in said

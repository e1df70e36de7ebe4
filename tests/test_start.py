"""The start: what can't work is refused in a sentence, and what is served is said."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from tests.serving import ROOT, serve
from tests.standin import Standin
from tests.test_faults import wait_until

GUNICORN = (sys.executable, "-m", "gunicorn")
SERVE = (sys.executable, "-c", "from app.commands import main; main()", "serve")
ACTIVATED = """
import os, socket, sys
opened = socket.create_server(("127.0.0.1", 0))
os.dup2(opened.fileno(), 3)
os.set_inheritable(3, True)
os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
os.execv(sys.executable, [sys.executable, "-m", "gunicorn"])
"""
WAYS = pytest.mark.parametrize("command", [GUNICORN, SERVE], ids=["gunicorn", "serve"])


def start(
    command: tuple[str, ...], folder: Path, environ: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    defaults = {"MODEL_HANDLER_BIND": "127.0.0.1:0", "MODEL_HANDLER_MODELS_DIR": str(folder)}
    return subprocess.run(
        command,
        env={**os.environ, **defaults, **environ},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )


def check_refusal(done: subprocess.CompletedProcess[str], said: str) -> None:
    assert done.returncode == 2, done.stdout
    lines = [line for line in done.stdout.splitlines() if "Starting gunicorn" not in line]
    assert len(lines) == 1, done.stdout
    assert lines[0].startswith(f"Error: {said}")


@pytest.mark.parametrize(
    ("variable", "text", "said"),
    [
        ("THREADS", "many", "='many': takes a whole number"),
        ("BIND", "127.0.0.1:http", "='127.0.0.1:http': takes HOST:PORT or unix:PATH; 'http' is"),
        ("BIND", "127.0.0.1:99999", "='127.0.0.1:99999': takes HOST:PORT or unix:PATH; 99999 is"),
        ("BIND", "nowhere.invalid:80", "='nowhere.invalid:80': "),
        ("BIND", "unix:/nowhere/socket", "='unix:/nowhere/socket': no socket can be made in that"),
        ("MODELS_DIR", "/dev/null/x", "=/dev/null/x can't be used: Not a directory."),
        ("LOG_FORMAT", "xml", "='xml': takes text or json."),
    ],
)
def test_a_setting_that_can_t_be_used_is_one_sentence(
    tmp_path: Path, variable: str, text: str, said: str
) -> None:
    name = f"MODEL_HANDLER_{variable}"
    check_refusal(start(GUNICORN, tmp_path, {name: text}), f"{name}{said}")


@WAYS
def test_a_port_in_use_is_one_sentence(tmp_path: Path, command: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        done = start(command, tmp_path, {"MODEL_HANDLER_BIND": bind})
        check_refusal(done, f"MODEL_HANDLER_BIND={bind!r}: Address already in use.")


def test_a_port_that_gunicorn_s_own_option_gives_is_named_as_such(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        done = start((*GUNICORN, "--bind", bind), tmp_path, {"MODEL_HANDLER_BIND": "127.0.0.1:9"})
        check_refusal(done, f"--bind={bind!r}: Address already in use.")


def test_what_is_served_is_said(tmp_path: Path, standin: Standin) -> None:
    settings = {
        "MODEL_HANDLER_API_KEY": "hush",
        "MODEL_HANDLER_TRUSTED_HOSTS": "models.example",
        "MODEL_HANDLER_MODELFILES_DIR": str(tmp_path / "none"),
    }
    with socket.create_server(("127.0.0.1", 0)) as mute:  # Takes connections, and says nothing.
        port = mute.getsockname()[1]
        servers = f"{standin.url},127.0.0.1:1,127.0.0.1:{port}"
        with serve(tmp_path / "models", servers, settings) as served:
            assert requests.get(f"{served.url}/healthz", timeout=30).status_code == 200
            for each in ("version 0.32.15", "127.0.0.1:1 can't be reached"):
                wait_until(lambda each=each: any(each in line for line in served.log), 30)  # type: ignore[misc]
            said = "".join(served.log)
    assert f": the page is {served.url}/\n" in said
    assert f"Models are kept in {tmp_path / 'models'}, which has " in said
    assert "MODEL_HANDLER_API_KEY is set." in said
    assert "hosts: localhost, IP addresses, models.example (MODEL" in said
    assert "proxies in front: 0 (" in said
    assert f"MODELFILES_DIR: there is no folder {tmp_path / 'none'}." in said
    assert f"Ollama at {standin.url}: version 0.32.15." in said
    assert f"Ollama at http://127.0.0.1:{port}" not in said  # Nobody has waited for it.
    assert "hush" not in said


def test_what_socket_activation_decides_is_said(tmp_path: Path, standin: Standin) -> None:
    command = (sys.executable, "-c", ACTIVATED)
    with serve(tmp_path / "models", standin.url, port=9, command=command) as served:
        wait_until(lambda: any("isn't heeded" in line for line in served.log))
        said = "".join(served.log)
    assert not served.url.endswith(":9")
    assert f": the page is {served.url}/\n" in said
    assert "MODEL_HANDLER_BIND isn't heeded: systemd has opened the socket" in said


def test_a_page_at_every_address_is_shown_at_one(tmp_path: Path, standin: Standin) -> None:
    settings = {"MODEL_HANDLER_BIND": "0.0.0.0:0"}
    with serve(tmp_path / "models", standin.url, settings) as served:
        wait_until(lambda: any("the page is" in line for line in served.log))
        said = "".join(served.log)
    port = served.url.rpartition(":")[2]
    assert f": the page is http://localhost:{port}/, and at every address" in said

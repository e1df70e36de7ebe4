"""The streaming tests again, and whole deploys, through a real nginx with the site that ships."""

import json
import math
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from tests.callers import CurlCaller
from tests.conftest import Zips, check_adapter_arrived, each_ollama, litter, require_program
from tests.serving import ROOT, Served, serve
from tests.standin import Standin
from tests.test_early import (  # noqa: F401
    files,
    mistake,
    test_a_refusal_reaches_whoever_still_sends,
)
from tests.test_streaming import (  # noqa: F401
    test_a_client_that_leaves_stops_the_work,
    test_a_refusal_reaches_a_client_that_is_still_sending,
    test_a_slow_upload_delays_nobody,
    test_client_that_sends_the_file_field_alone,
    test_client_that_streams_the_form_and_reads_line_by_line,
    test_lines_come_before_the_work_is_done,
    test_nothing_but_the_fixed_lines_without_verbose,
    test_verbose_adds_lines_whose_ratios_never_go_back,
)

SITE = ROOT / "deploy" / "nginx" / "model-handler.conf"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


@contextmanager
def nginx(folder: Path, *instances: str, site: str = SITE.read_text()) -> Iterator[str]:
    """An nginx with the site, before these instances; its address."""
    require_program("nginx")
    port = free_port()
    servers = "\n".join(f"server {urlsplit(url).netloc};" for url in instances)
    site = site.replace("server 127.0.0.1:8000;", servers)
    site = site.replace("listen 80;", f"listen 127.0.0.1:{port};")
    site = site.replace("/var/log/nginx/", f"{folder}/")
    folder.mkdir()
    (folder / "site.conf").write_text(site)
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_processes 1;"
        " events { worker_connections 4096; }"
        f" http {{ access_log off; include {folder}/site.conf; }}"
    )
    command = [
        shutil.which("nginx") or "nginx",
        "-p",
        str(folder),
        "-c",
        str(folder / "nginx.conf"),
    ]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                assert process.poll() is None, (folder / "error.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def nginx_before(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[str], str]]:
    """The address of an nginx before a service; one for all tests."""
    urls: dict[str, str] = {}
    with ExitStack() as running:

        def find(service: str) -> str:
            if service not in urls:
                folder = tmp_path_factory.mktemp("nginx") / "nginx"
                urls[service] = running.enter_context(nginx(folder, service))
            return urls[service]

        yield find


@pytest.fixture
def served(served: Served, nginx_before: Callable[[str], str]) -> Served:
    """The service as everywhere else, but reached through nginx."""
    return replace(served, url=nginx_before(served.url))


@pytest.fixture
def most_sent(deaf: bool) -> float:
    """nginx takes more than the service asks it for, and for lingering_time what a client goes on
    to send that doesn't read."""
    return math.inf if deaf else 32e6


@each_ollama
def test_deploy_through_nginx(served: Served, ollama: str, new_name: str, zips: Zips) -> None:
    form = [("Model", zips.both), ("model_name_on_ollama", new_name)]
    answer = CurlCaller(served.url).send_form("/models/deploy/", form)
    assert [line["status"] for line in answer.lines] == [200] * 6
    check_adapter_arrived(ollama, new_name)


def test_a_raw_body_of_unknown_length(served: Served, zips: Zips, models_dir: Path) -> None:
    with zips.both.open("rb") as file:
        body = iter(lambda: file.read(1000), b"")
        answer = requests.put(f"{served.url}/models/upload/piped.zip", data=body, timeout=60)
    assert answer.status_code == 200
    assert (models_dir / "piped" / "base.gguf").exists()
    assert not litter(models_dir)


def test_two_instances_share_one_models_directory(
    models_dir: Path, standin: Standin, tmp_path: Path, zips: Zips
) -> None:
    fields = {"model": "tiny_lora", "model_name_on_ollama": "shared"}
    with (
        serve(models_dir, standin.url) as one,
        serve(models_dir, standin.url) as two,
        nginx(tmp_path / "nginx", one.url, two.url) as url,
    ):
        for _ in range(4):
            upload = CurlCaller(url).send_form("/models/upload/", [("Model", zips.both)])
            assert upload.last["status"] == 200
            names = [line["message"]["details"]["model"] for line in _lines(f"{url}/models/")]
            assert names == ["tiny_lora"]
        with standin.hold("/api/create") as gate:
            holding = requests.post(f"{url}/models/create/", json=fields, stream=True, timeout=60)
            gate.wait_reached(20)
            for _ in range(4):
                answer = requests.post(f"{url}/models/create/", json=fields, timeout=60)
                assert answer.status_code == 409
            gate.open()
            with holding:
                assert json.loads(list(holding.iter_lines())[-1])["status"] == 200
        logs = [sum("/models/create/" in line for line in service.log) for service in (one, two)]
    assert min(logs) > 0
    assert not litter(models_dir)


def _lines(url: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in requests.get(url, timeout=30).iter_lines()]

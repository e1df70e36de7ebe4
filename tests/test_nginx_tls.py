"""The site with TLS that docs/operations.rst shows, in a real nginx."""

import re
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.conftest import Zips, require_program
from tests.documents import example
from tests.serving import serve
from tests.standin import Standin
from tests.test_nginx import SITE, free_port, nginx

HOST = "models.example.org"
FILENAME = b64encode(b"my_model.zip").decode()
BLOCK = example("docs/operations.rst", "upstream model_handler").code


@dataclass(frozen=True)
class Site:
    """The addresses of the two servers, and what `curl` needs to reach them by their name."""

    http: str
    https: str
    curl: tuple[str, ...]


@pytest.fixture
def site(tmp_path: Path, standin: Standin, models_dir: Path) -> Iterator[Site]:
    require_program("openssl")
    require_program("curl")
    key, certificate, port = tmp_path / "key.pem", tmp_path / "certificate.pem", free_port()
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    block = BLOCK.replace("listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;")
    block = block.replace(f"/etc/ssl/certs/{HOST}.pem", str(certificate))
    block = block.replace(f"/etc/ssl/private/{HOST}.key", str(key))
    block = block.replace("https://$host", f"https://$host:{port}")
    settings = {"MODEL_HANDLER_TRUSTED_HOSTS": HOST, "MODEL_HANDLER_TRUSTED_PROXIES": "1"}
    with (
        serve(models_dir, standin.url, settings) as service,
        nginx(tmp_path / "nginx", service.url, site=block) as http,
    ):
        plain = urlsplit(http).port
        resolve = [
            part for each in (plain, port) for part in ("--resolve", f"{HOST}:{each}:127.0.0.1")
        ]
        yield Site(
            http=f"http://{HOST}:{plain}",
            https=f"https://{HOST}:{port}",
            curl=(*resolve, "--cacert", str(certificate)),
        )


def curl(site: Site, *arguments: str) -> str:
    command = ["curl", "-sS", *site.curl, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_a_deploy_over_tls_and_a_redirect_to_it(site: Site, zips: Zips, new_name: str) -> None:
    redirected = curl(site, "--head", f"{site.http}/models/")
    assert redirected.startswith("HTTP/1.1 301 ")
    assert f"\nLocation: {site.https}/models/\n" in redirected

    form = ("-F", f"Model=@{zips.both}", "-F", f"model_name_on_ollama={new_name}")
    page = ("-H", f"Origin: {site.https}")  # a browser says where its page is from
    lines = curl(site, "-N", *page, *form, f"{site.https}/models/deploy/").splitlines()
    assert len(lines) == 6
    assert '"Success create model"' in lines[-1]

    head = curl(site, "--head", f"{site.https}/")
    assert head.startswith("HTTP/1.1 200 ")
    assert "\nStrict-Transport-Security: max-age=31536000\n" in head
    created = curl(
        *(site, "-D", "-", "-X", "POST", "-H", "Tus-Resumable: 1.0.0"),
        *("-H", "Upload-Length: 5", "-H", f"Upload-Metadata: filename {FILENAME}"),
        f"{site.https}/uploads/",
    )
    location = re.search(r"(?i)^location: *(\S+)", created, re.M)
    assert location, created
    assert not location[1].startswith("http://")


def test_its_location_is_that_of_the_site_that_ships() -> None:
    def directives(text: str) -> list[str]:
        inside = text.partition("location / {")[2].partition("}")[0]
        lines = (line.strip() for line in inside.splitlines())
        return [line for line in lines if line and not line.startswith("#")]

    assert directives(BLOCK) == directives(SITE.read_text())
    formats = [re.search(r"log_format .*?;", text, re.S) for text in (BLOCK, SITE.read_text())]
    assert len({re.sub(r"\s+", " ", found[0]) for found in formats if found}) == 1

"""Resumable uploads by the clients that people use: tus-js-client, under gunicorn."""

import pytest
import requests

from tests.conftest import Zips
from tests.javascript import run_node
from tests.serving import Served


@pytest.mark.parametrize("chunk", [700, 100_000])
def test_tus_js_client_uploads_in_chunks(served: Served, zips: Zips, chunk: int) -> None:
    url = run_node("upload.mjs", f"{served.url}/uploads/", zips.both, "mine.zip", str(chunk))
    upload = url.strip().rpartition("/")[2]
    answer = requests.post(f"{served.url}/models/upload/", json={"upload": upload}, timeout=60)
    assert answer.text.splitlines()[-1].startswith('{"status": 200'), answer.text

"""Models for tests of the page: written into the models directory, or brought over HTTP."""

import base64
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import requests

from app.storage.manifest import MANIFEST
from app.storage.models import STATE_FOLDER
from app.storage.tasks import TaskLog


def store(models_dir: Path, name: str, size: int = 10, **facts: Any) -> None:
    """A stored model of one file, that is never opened; `facts` of its manifest."""
    folder = models_dir / name
    folder.mkdir(parents=True)
    with (folder / "base.gguf").open("wb") as file:
        file.truncate(size)
    known = {"kind": "base", "architecture": "llama", "quantization": "Q4_K_M"}
    (folder / MANIFEST).parent.mkdir()
    (folder / MANIFEST).write_text(json.dumps({**known, **facts}))


def upload(url: str, path: Path) -> None:
    """Upload a zip to the service at `url`."""
    with path.open("rb") as file:
        requests.post(f"{url}/models/upload/", files={"Model": file}, timeout=30)


def create(url: str, model: str, name: str, **options: Any) -> requests.Response:
    """Create a model that is stored there, as `name` on Ollama; `options` as the API takes them."""
    body = {"model": model, "model_name_on_ollama": name, **options}
    return requests.post(f"{url}/models/create/", json=body, timeout=60)


def begin_upload(url: str, filename: str, size: int) -> None:
    """Begin a resumable upload of that many bytes, none of which come."""
    metadata = f"filename {base64.b64encode(filename.encode()).decode()}"
    begin = {"Tus-Resumable": "1.0.0", "Upload-Length": str(size), "Upload-Metadata": metadata}
    requests.post(f"{url}/uploads/", headers=begin, timeout=30)


def received(url: str) -> float:
    """How many bytes of resumable uploads have come to the service at `url`."""
    text = requests.get(f"{url}/metrics", timeout=30).text
    found = re.search(r'received_bytes_total\{.*kind="resumable".*\} (\S+)', text)
    return float(found[1]) if found else 0


@contextmanager
def task(
    models_dir: Path,
    action: str,
    ratio: float,
    *,
    status: int = 200,
    now: dict[str, Any] | None = None,
    **details: Any,
) -> Iterator[None]:
    """A task whose last line this is, and which runs until the block ends; `now` is what it has
    noted of itself."""
    uuid = str(uuid4())
    message = {"action": action, "task_uuid": uuid, "progress": ratio, "details": details}
    log = TaskLog(models_dir / STATE_FOLDER / "tasks")
    with log.writer(uuid) as keep:
        keep(json.dumps({"status": status, "message": message}).encode() + b"\n")
        if now:
            log.note(uuid, now)
        yield

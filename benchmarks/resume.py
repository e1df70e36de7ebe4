"""What a resumable upload costs, compared with a raw one, and what resuming costs.

`python -m benchmarks.resume [--gigabytes 2] [--runs 4]`. Each row runs in turn with what it is
compared to; the table shows medians and ratios. Everything is written and synced on the filesystem
of the temporary folder (TMPDIR). Needs curl.
"""

import argparse
import base64
import hashlib
import http.client
import json
import os
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import requests

from app.commands.payload import FilePayload
from app.commands.sending import CHUNK_BYTES, Sender
from benchmarks import regressions
from benchmarks.transfer import BLOCK, Times, ballast, curl, measured, put, row
from tests.serving import Served, serve

TUS = {"Tus-Resumable": "1.0.0"}
CHUNK = TUS | {"Content-Type": "application/offset+octet-stream"}
RESUMES = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--runs", type=int, default=4)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        stored = ballast(folder, "stored", asked.gigabytes)
        tar = _tar(folder, stored)
        print(f"{os.cpu_count()} processors, {asked.runs} runs, medians")
        print(f"{'':44}{'seconds':>9}{'MB/s':>8}{'ratio':>8}  aim")
        with serve(folder / "models", "http://127.0.0.1:9") as service:
            _whole(service.url, stored, tar, asked.runs)
            _after_the_last_byte(service.url, stored, asked.runs)
            _peak("raw and resumable", service)
        with serve(folder / "resumed", "http://127.0.0.1:9") as service:
            _resumed(service, stored, folder / "resumed")
            _peak("resumed at half", service)
    print()
    print(regressions.report("resume", vars(asked), measured))


def _tar(folder: Path, stored: Path) -> Path:
    """The stored zip's files in a tar."""
    shutil.unpack_archive(stored, folder / "files")
    with tarfile.open(folder / "stored.tar", "w") as archive:
        for path in sorted((folder / "files").iterdir()):
            archive.add(path, path.name)
    shutil.rmtree(folder / "files")
    return folder / "stored.tar"


def _whole(url: str, stored: Path, tar: Path, runs: int) -> None:
    times, size = Times(), stored.stat().st_size
    ways: list[tuple[str, Callable[[], object]]] = [
        ("raw", partial(put, url, stored)),
        ("one PATCH", lambda: _publish(url, _by_curl(url, stored))),
        ("64 MiB a PATCH", lambda: _publish(url, _in_chunks(url, stored))),
        ("model-handler deploy's", lambda: _publish(url, _by_command(url, stored))),
        ("tar", partial(put, url, tar)),
    ]
    for _ in range(runs):
        for name, way in ways:
            times.add(name, way)
        ways.reverse()  # What comes second finds the disk busier.
    raw = times.median("raw")
    row("stored zip, raw", raw, size)
    for name in ("one PATCH", "64 MiB a PATCH", "model-handler deploy's"):
        share = times.median(name) / raw
        row(f"  resumable, {name}", times.median(name), size, share, "<= 1.15 of raw")
    row("  tar, raw", times.median("tar"), size, times.median("tar") / raw, "<= 1.1 of the zip")


def _by_curl(url: str, path: Path) -> str:
    upload = _begin(url, path)
    headers = [f"{key}: {value}" for key, value in (CHUNK | {"Upload-Offset": "0"}).items()]
    given = [part for header in headers for part in ("-H", header)]
    curl("-X", "PATCH", "-T", str(path), *given, f"{url}/uploads/{upload}")
    return upload


def _in_chunks(url: str, path: Path) -> str:
    """In chunks of one size, by a client that costs next to nothing."""
    upload, size = _begin(url, path), path.stat().st_size
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=600)
    with path.open("rb") as content:
        for at in range(0, size, CHUNK_BYTES):
            count = min(CHUNK_BYTES, size - at)
            connection.putrequest("PATCH", f"/uploads/{upload}")
            about = {"Upload-Offset": str(at), "Content-Length": str(count)}
            for key, value in (CHUNK | about).items():
                connection.putheader(key, value)
            connection.endheaders()
            connection.sock.sendfile(content, at, count)
            answer = connection.getresponse()
            assert answer.status == 204, answer.read()
            answer.read()
    connection.close()
    return upload


def _by_command(url: str, path: Path) -> str:
    """As `model-handler deploy` sends it."""
    with requests.Session() as session:
        sender, payload = Sender(session, url), FilePayload(path)
        upload = sender.send(payload, {}, lambda _: None)
        sender.forget(payload)
    return upload


def _begin(url: str, path: Path) -> str:
    name = base64.b64encode(path.name.encode()).decode()
    about = {"Upload-Length": str(path.stat().st_size), "Upload-Metadata": f"filename {name}"}
    answer = requests.post(f"{url}/uploads/", headers=TUS | about, timeout=60)
    return answer.headers["Location"].rpartition("/")[2]


def _publish(url: str, upload: str) -> None:
    answer = requests.post(f"{url}/models/upload/", json={"upload": upload}, timeout=600)
    assert json.loads(answer.text.splitlines()[-1])["status"] == 200, answer.text


def _after_the_last_byte(url: str, stored: Path, runs: int) -> None:
    """How long it takes from there until the model stands."""
    times = Times()
    for _ in range(runs):
        times.seconds.setdefault("raw", []).append(
            _send(url, f"/models/upload/{stored.name}", "PUT", stored, {})
        )
        upload = _begin(url, stored)
        headers = CHUNK | {"Upload-Offset": "0"}
        last = _send(url, f"/uploads/{upload}", "PATCH", stored, headers)
        started = time.perf_counter()
        _publish(url, upload)
        times.seconds.setdefault("resumable", []).append(last + time.perf_counter() - started)
    row("from the last byte to published, raw", times.median("raw"))
    share = times.median("resumable") / times.median("raw")
    row("  the same, resumable", times.median("resumable"), 0, share, "about 1")


def _send(url: str, path: str, method: str, file: Path, headers: dict[str, str]) -> float:
    """Send a file; the seconds from its last byte to the answer's."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=600)
    size = str(file.stat().st_size)
    with file.open("rb") as content:
        connection.putrequest(method, path)
        for key, value in (headers | {"Content-Length": size}).items():
            connection.putheader(key, value)
        connection.endheaders()
        for block in iter(partial(content.read, BLOCK), b""):
            connection.send(block)
    started = time.perf_counter()
    answer = connection.getresponse()
    lines = answer.read().splitlines()
    assert answer.status == 204 or json.loads(lines[-1])["status"] == 200, lines
    connection.close()
    return time.perf_counter() - started


def _resumed(service: Served, stored: Path, models: Path) -> None:
    """Half of an upload is there, all of it in an entry in progress; the worker is killed, and the
    next one goes on. For its digest, what is there has to be read and hashed once: the floor."""
    url, size = service.url, stored.stat().st_size
    half, upload = size // 2, _begin(service.url, stored)
    with stored.open("rb") as content:
        requests.patch(
            f"{url}/uploads/{upload}",
            data=_Part(content.read, half),  # type: ignore[arg-type]
            headers=CHUNK | {"Upload-Offset": "0"},
            timeout=600,
        ).raise_for_status()
    entries = models.glob(f".model-handler/uploads/{upload}/entry-*")
    here = max(entries, key=lambda path: path.stat().st_size)
    os.sync()
    times = Times()
    ways: list[tuple[str, Callable[[], object]]] = [
        ("read", lambda: _read(here)),
        ("resume", partial(_go_on, url, upload, half)),
    ]
    for cold in ("", ", cold"):
        for _ in range(RESUMES):
            psutil.Process(service.process.pid).children()[0].kill()
            while True:  # until the next one is there
                try:
                    requests.get(f"{url}/healthz", timeout=60)
                    break
                except requests.ConnectionError:
                    time.sleep(0.05)
            for name, way in ways:
                if cold:
                    _forget(here)
                times.add(name + cold, way)
            ways.reverse()
        floor, spent = times.median("read" + cold), times.median("resume" + cold)
        row(f"read and sha256 half of it{cold}", floor, half)
        row(f"  go on there, in a new process{cold}", spent, half, spent / floor, "<= 1")


def _forget(path: Path) -> None:
    """Have the kernel read the file from the disk again. Source: posix_fadvise(2)."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class _Part:
    """The first bytes of what `read` gives, as a request's body."""

    def __init__(self, read: Callable[[int], bytes], size: int) -> None:
        self._read = read
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> object:
        for at in range(0, self._size, BLOCK):
            yield self._read(min(BLOCK, self._size - at))


def _read(path: Path) -> None:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        for block in iter(partial(file.read, BLOCK), b""):
            digest.update(block)


def _go_on(url: str, upload: str, offset: int) -> None:
    """Send no byte, at the right offset: what is there has to be known for that."""
    headers = CHUNK | {"Upload-Offset": str(offset)}
    answer = requests.patch(f"{url}/uploads/{upload}", headers=headers, data=b"", timeout=600)
    assert answer.status_code == 204, answer.text


def _peak(what: str, service: Served) -> None:
    worker = psutil.Process(service.process.pid).children()[0]
    status = Path(f"/proc/{worker.pid}/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1000
    name = f"worker's peak, {what}"
    measured[name] = peak
    print(f"{name:44}{peak:17.0f} MB       < 100 MB")


if __name__ == "__main__":
    main()

"""What an upload, a push and a list cost, against the least that could do the same.

`python -m benchmarks.transfer [--gigabytes 2] [--runs 4] [--large 4]`. Each row runs in turn with
what it is compared to; the table shows medians and ratios. Everything is written and synced on the
filesystem of the temporary folder (TMPDIR). Needs curl and unzip.
"""

import argparse
import hashlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import gguf
import numpy as np
import psutil
import requests
from zlib_ng import zlib_ng

from app.archive.zip_records import LOCAL
from app.ollama.client import Ollama
from app.storage.manifest import Manifest, write_manifest
from benchmarks import regressions
from tests.gguf_files import write_base
from tests.serving import Served, serve
from tests.standin import Standin

BLOCK = 2**20
WIDTH = 2048
BLOCK_BYTES = 2 * WIDTH * WIDTH * (4 + 3 * 2)
PLAIN = (sys.executable, "-m", "gunicorn", "-c", "/dev/null", "--worker-class", "gthread")
PLAIN += ("--threads", "8", "--timeout", "600", "--bind", "127.0.0.1:0", "benchmarks.plain:app")


measured: dict[str, float] = {}
"""What is held against the last run, by the rows' names. Smaller is better."""


@dataclass
class Times:
    """Seconds of each thing that was run, one a run."""

    seconds: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, work: Callable[[], object]) -> None:
        """Run `work` with nothing left to be written from before, and note how long it took."""
        os.sync()
        started = time.perf_counter()
        work()
        self.seconds.setdefault(name, []).append(time.perf_counter() - started)

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--large", type=float, default=4.0, help="the larger upload, for memory")
    parser.add_argument("--runs", type=int, default=4, help="even, to be fair to both ways in")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stored, deflated = _build(folder, asked.gigabytes)
        models = folder / "models"
        standin = Standin(folder / "ollama", version="0.32.15")
        standin.start()
        try:
            print(f"{os.cpu_count()} processors, {asked.runs} runs, medians")
            print(f"{'':44}{'seconds':>9}{'MB/s':>8}{'ratio':>8}  aim")
            _start(models, standin.url)
            with serve(models, standin.url) as service:
                _uploads(folder, service.url, stored, deflated, asked.runs)
                _again(service.url, standin)
                _written(service, stored)
            _push(folder, models / "stored" / "base.gguf", asked.runs)
            _memory(folder, standin.url, asked.large)
            _at_once(folder, standin.url, asked.gigabytes, asked.runs)
            _list(folder, standin.url)
        finally:
            standin.stop()
    print()
    print(regressions.report("transfer", vars(asked), measured))


def row(what: str, seconds: float, size: float = 0, ratio: float = 0, aim: str = "") -> None:
    """Print a line of the table, and have its ratio, or else its seconds, held against the last
    run's; `size` in bytes."""
    measured[what.strip()] = ratio or seconds
    rate = f"{size / seconds / 1e6:8.0f}" if size else " " * 8
    print(
        f"{what:44}{seconds:9.3f}{rate}{f'{ratio:8.2f}' if ratio else ' ' * 8}  {aim}", flush=True
    )


def _build(folder: Path, gigabytes: float) -> tuple[Path, Path]:
    """The same GGUF, zipped without and with compression."""
    blocks = max(1, round(gigabytes * 1e9 / BLOCK_BYTES))
    f16 = gguf.GGMLQuantizationType.F16
    base = write_base(folder / "base.gguf", width=WIDTH, blocks=blocks, dtype=f16)
    zips = {}
    for name, method in (("stored", ZIP_STORED), ("deflated", ZIP_DEFLATED)):
        zips[name] = folder / f"{name}.zip"
        with ZipFile(zips[name], "w", method) as archive:
            archive.write(base, "base.gguf")
    base.unlink()
    return zips["stored"], zips["deflated"]


def _uploads(folder: Path, url: str, stored: Path, deflated: Path, runs: int) -> None:
    times, size = Times(), stored.stat().st_size
    plain_folder = folder / "plain"
    plain_folder.mkdir()
    os.environ["PLAIN_FOLDER"] = str(plain_folder)
    with serve(folder / "unused", url, command=PLAIN) as plain:
        ways = [("form", _form), ("raw", put)]
        for _ in range(runs):
            times.add("floor", lambda: _floor(stored, folder / "floor"))
            shutil.rmtree(folder / "floor")
            for name, way in ways:
                times.add(name, partial(way, url, stored))
            ways.reverse()  # What comes second finds the disk busier.
            times.add("plain", lambda: _form(plain.url, stored))
            _empty(plain_folder)
            times.add("unzip", lambda: _unzip(deflated, folder / "unzipped"))
            shutil.rmtree(folder / "unzipped")
            times.add("inflate", lambda: _inflate(deflated))
            times.add("deflated", lambda: put(url, deflated))
    floor = times.median("floor")
    row("floor: read, crc, sha256, write, sync", floor, size)
    for name, aim in (("form", "<= 1.5 floors"), ("raw", "<= 1.25 floors"), ("plain", "")):
        row(f"stored zip, {name}", times.median(name), size, times.median(name) / floor, aim)
    share = times.median("form") / times.median("plain")
    row("  form / plain Flask", times.median("form"), 0, share, "<= 0.33")
    row("unzip and sha256sum, zip in place", times.median("unzip"), size)
    row("inflating alone: zlib-ng, one thread", times.median("inflate"), size)
    share = times.median("deflated") / times.median("inflate")
    row("deflated zip, raw", times.median("deflated"), size, share, "<= 1.3 of inflating alone")
    share = times.median("deflated") / times.median("unzip")
    row("  deflated zip, raw / unzip", times.median("deflated"), 0, share, "<= 0.33")


def _floor(path: Path, folder: Path) -> None:
    """Each file of the zip read once, written once, checked and hashed in the same pass."""
    folder.mkdir()
    with ZipFile(path) as archive, path.open("rb", buffering=0) as source:
        for info in archive.infolist():
            source.seek(info.header_offset + 26)
            name_size, extra_size = np.frombuffer(source.read(4), "<u2")
            source.seek(info.header_offset + 30 + int(name_size) + int(extra_size))
            left, crc, digest = info.file_size, 0, hashlib.sha256()
            with (folder / info.filename).open("xb", buffering=0) as target:
                while left:
                    block = source.read(min(BLOCK, left))
                    left -= len(block)
                    crc = zlib.crc32(block, crc)
                    digest.update(block)
                    target.write(block)
                os.fsync(target.fileno())
            assert crc == info.CRC


def curl(*arguments: str) -> str:
    command = ("curl", "--fail", "--silent", "--show-error", *arguments)
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _form(url: str, path: Path) -> None:
    curl("-F", f"Model=@{path}", f"{url}/models/upload/")


def put(url: str, path: Path) -> None:
    lines = curl("-T", str(path), f"{url}/models/upload/").splitlines()
    assert json.loads(lines[-1])["status"] == 200, lines


def _unzip(path: Path, folder: Path) -> None:
    subprocess.run(["unzip", "-q", str(path), "-d", str(folder)], check=True)
    files = [str(file) for file in folder.iterdir()]
    subprocess.run(["sha256sum", *files], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["sync", *files], check=True)


def _inflate(path: Path) -> None:
    """The first entry's content, from the page cache and to nowhere."""
    inflate = zlib_ng.decompressobj(-zlib_ng.MAX_WBITS)
    with path.open("rb", buffering=0) as file:
        name_size, extra_size = LOCAL.unpack(file.read(LOCAL.size))[-2:]
        file.seek(name_size + extra_size, os.SEEK_CUR)
        block = b""
        while not inflate.eof:
            inflate.decompress(block or file.read(BLOCK), BLOCK)
            block = inflate.unconsumed_tail


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _again(url: str, standin: Standin) -> None:
    """Create a model whose files Ollama has already."""

    def create(name: str) -> float:
        """The seconds that it took beside those that Ollama worked."""
        fields = {"model": "stored", "model_name_on_ollama": name}
        started, at = time.perf_counter(), {}
        with requests.post(
            f"{url}/models/create/?verbose=1", json=fields, stream=True, timeout=600
        ) as answer:
            for line in answer.iter_lines(chunk_size=1):
                message = json.loads(line)
                at.setdefault(message["message"]["action"], time.perf_counter())
        assert message["status"] == 200, message
        ollama = at["Ollama: success"] - at["Ollama: parsing GGUF"]
        return time.perf_counter() - started - ollama

    create("first")
    before = len(standin.requests)
    seconds = create("second")
    since = standin.requests[before:]
    assert not [one for one in since if one.method == "POST" and "blob" in one.path]
    row("create again, beside Ollama's own work", seconds, aim="< 1 s")


def _worker(pid: int) -> psutil.Process:
    return psutil.Process(pid).children()[0]


def _written(service: Served, stored: Path) -> None:
    """Bytes written for each byte uploaded, as the kernel counts what the worker writes."""
    worker = _worker(service.process.pid)
    before = worker.io_counters().write_bytes
    _form(service.url, stored)
    written = worker.io_counters().write_bytes - before
    print(f"{'bytes written for a byte uploaded':44}{written / stored.stat().st_size:25.2f}")


def _push(folder: Path, blob: Path, runs: int) -> None:
    times, size = Times(), blob.stat().st_size
    with _sink() as url:
        for _ in range(runs):
            times.add(
                "push", lambda: Ollama(url, 10, 600).push_blob(blob, "0" * 64, lambda _: None)
            )
            times.add("curl", lambda: curl("-X", "POST", "-T", str(blob), f"{url}/api/blobs/x"))
    ratio = times.median("push") / times.median("curl")
    row("curl -T of a blob to a sink", times.median("curl"), size)
    row("push of that blob", times.median("push"), size, ratio, "<= 1")


@contextmanager
def _sink() -> Iterator[str]:
    """A server that reads whatever is sent, and says 201; a process, as Ollama is one."""
    code = "from benchmarks.transfer import serve_sink; serve_sink()"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def serve_sink() -> None:
    """Print a port and answer every request on it once its body is here."""
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    buffer = bytearray(BLOCK)
    while True:
        connection, _ = listener.accept()
        with connection:
            head = b""
            while b"\r\n\r\n" not in head:
                head += connection.recv(65536)
            head, _, body = head.partition(b"\r\n\r\n")
            if b"100-continue" in head.lower():
                connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            size = int(head.lower().partition(b"content-length:")[2].split()[0])
            left = size - len(body)
            while left:
                left -= connection.recv_into(buffer, min(BLOCK, left))
            connection.sendall(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")


def ballast(folder: Path, name: str, gigabytes: float) -> Path:
    """A zip of a small model and so many bytes that don't compress."""
    path, base = folder / f"{name}.zip", write_base(folder / "small.gguf")
    noise = os.urandom(64 * BLOCK)
    with ZipFile(path, "w", ZIP_STORED) as archive:
        archive.write(base, "base.gguf")
        with archive.open("ballast.bin", "w", force_zip64=True) as entry:
            for _ in range(max(1, round(gigabytes * 1e9 / len(noise)))):
                entry.write(noise)
    return path


def _memory(folder: Path, ollama: str, large: float) -> None:
    peaks = {}
    for name, size in (("small", 0.2), ("large", large)):
        path = ballast(folder, name, size)
        for way, send in (("form", _form), ("raw", put)):
            with serve(folder / "memory", ollama) as service:
                send(service.url, path)
                status = Path(f"/proc/{_worker(service.process.pid).pid}/status").read_text()
                peaks[name, way] = int(status.partition("VmHWM:")[2].split()[0]) / 1000
            shutil.rmtree(folder / "memory")
        path.unlink()
    for way in ("form", "raw"):
        small, most = peaks["small", way], peaks["large", way]
        what = f"worker's peak, {way}, 0.2 and {large:g} GB"
        measured[what] = most
        print(f"{what:44}{small:9.0f}{most:8.0f} MB       < 100 MB, and the same")


def _at_once(folder: Path, ollama: str, gigabytes: float, runs: int) -> None:
    one = ballast(folder, "one", gigabytes)
    eighth = ballast(folder, "eighth", gigabytes / 8)
    eight = [folder / f"eighth-{number}.zip" for number in range(8)]
    for path in eight:
        os.link(eighth, path)
    times, waits = Times(), list[float]()
    with serve(folder / "at-once", ollama) as service:

        def send_all() -> None:
            sending = [threading.Thread(target=put, args=(service.url, path)) for path in eight]
            for thread in sending:
                thread.start()
            for thread in sending:
                thread.join()

        for _ in range(runs):
            times.add("one", lambda: put(service.url, one))
            with _watched(service.url, waits):
                times.add("eight", send_all)
    size, small = one.stat().st_size, 8 * eighth.stat().st_size
    share = (times.median("eight") / small) / (times.median("one") / size)
    row("one upload", times.median("one"), size)
    row("8 uploads at once, of an eighth each", times.median("eight"), small, share, "<= 1")
    row("  longest /healthz meanwhile", max(waits), aim="< 0.1 s")
    row("  median /healthz meanwhile", statistics.median(waits))


@contextmanager
def _watched(url: str, waits: list[float]) -> Iterator[None]:
    """Ask for /healthz again and again, and note the seconds that each answer took."""
    stop = threading.Event()

    def watch() -> None:
        session = requests.Session()
        while not stop.wait(0.02):
            started = time.perf_counter()
            session.get(f"{url}/healthz", timeout=60)
            waits.append(time.perf_counter() - started)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield
    finally:
        stop.set()
        watching.join()


def _list(folder: Path, ollama: str) -> None:
    models = folder / "thousand"
    for number in range(1000):
        model = models / f"model-{number}"
        model.mkdir(parents=True)
        (model / "base.gguf").write_bytes(b"GGUF")
        write_manifest(model, Manifest(facts={"kind": "base", "architecture": "llama"}))
    with serve(models, ollama) as service:
        waits = []
        for _ in range(9):
            started = time.perf_counter()
            with requests.get(f"{service.url}/models/", stream=True, timeout=60) as answer:
                next(answer.iter_lines())
            waits.append(time.perf_counter() - started)
        row("1,000 models, to the first line", statistics.median(waits), aim="< 0.05 s")


def _start(models: Path, ollama: str) -> None:
    times = Times()

    def start() -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        started = time.perf_counter()
        with serve(models, ollama, port=port):
            with suppress(requests.ConnectionError):
                requests.get(f"http://127.0.0.1:{port}/healthz", timeout=10)
            times.seconds.setdefault("start", []).append(time.perf_counter() - started)

    for _ in range(3):
        start()
    row("start to first answer", times.median("start"), aim="< 1 s")


if __name__ == "__main__":
    main()

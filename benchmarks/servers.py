"""Ollama servers of different speed: how long all take together, against the slowest alone.

`python -m benchmarks.servers [--megabytes 40] [--slowest 4] [--runs 3]`. Five stand-ins, each
behind a connection that takes so many megabytes a second; each alone with `?server=`, and all
at once.
"""

import argparse
import json
import socket
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import gguf
import requests

from tests.gguf_files import write_base, write_zip
from tests.serving import serve
from tests.standin import Standin

SPEEDS = (1, 2, 4, 8, 16)
"""How many times as fast as the slowest."""
AIM = 1.2
ANY = ("127.0.0.1", 0)
BLOCK = 2**17


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=40, help="the model's size")
    parser.add_argument("--slowest", type=float, default=4, help="megabytes a second")
    parser.add_argument("--runs", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ExitStack() as running:
        folder = Path(name)
        urls = [
            running.enter_context(_server(folder / str(speed), speed * asked.slowest))
            for speed in SPEEDS
        ]
        service = running.enter_context(serve(folder / "models", ",".join(urls)))
        _upload(service.url, folder, asked.megabytes)
        alone: list[list[float]] = [[] for _ in urls]
        together = []
        for run in range(asked.runs):
            for seconds, url in zip(alone, urls, strict=True):
                seconds.append(_create(service.url, [url], f"alone-{run}", f"?server={url}"))
            together.append(_create(service.url, urls, f"all-{run}", ""))
        medians = [statistics.median(seconds) for seconds in alone]
        for speed, median in zip(SPEEDS, medians, strict=True):
            print(f"alone, {speed * asked.slowest:5.0f} MB/s  {median:7.2f} s")
        all_five = statistics.median(together)
        print(f"one after the other  {sum(medians):7.2f} s")
        ratio = all_five / max(medians)
        print(f"all at once          {all_five:7.2f} s  {ratio:.2f} of the slowest  aim <= {AIM}")


@contextmanager
def _server(folder: Path, megabytes: float) -> Iterator[str]:
    """A stand-in that takes so many megabytes a second."""
    with Standin(folder, version="0.34.1") as standin, socket.create_server(ANY) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BLOCK)
        port = urlsplit(standin.url).port
        accepting = Thread(target=_accept, args=(listener, port, megabytes * 1e6), daemon=True)
        accepting.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def _accept(listener: socket.socket, port: int, rate: float) -> None:
    with suppress(OSError):
        while True:
            client, _ = listener.accept()
            server = socket.create_connection(("127.0.0.1", port))
            for one, other, bound in ((client, server, rate), (server, client, 0.0)):
                Thread(target=_pass_on, args=(one, other, bound), daemon=True).start()


def _pass_on(one: socket.socket, other: socket.socket, rate: float) -> None:
    """Pass bytes on, at most `rate` a second, where that is above 0."""
    with suppress(OSError):
        while piece := one.recv(BLOCK):
            other.sendall(piece)
            if rate:
                time.sleep(len(piece) / rate)
        other.shutdown(socket.SHUT_WR)


def _upload(url: str, folder: Path, megabytes: float) -> None:
    width = 1024
    block = 2 * width * width * (4 + 3 * 2)
    blocks = max(1, round(megabytes * 1e6 / block))
    f16 = gguf.GGMLQuantizationType.F16
    base = write_base(folder / "base.gguf", width=width, blocks=blocks, dtype=f16)
    zipped = write_zip(folder / "m.zip", {"base.gguf": base})
    with zipped.open("rb") as body:
        requests.put(f"{url}/models/upload/m.zip", data=body, timeout=600).raise_for_status()


def _create(url: str, servers: list[str], name: str, query: str) -> float:
    """Seconds until the model is made; afterwards it is gone, so that the next is pushed anew."""
    started = time.perf_counter()
    body = {"model": "m", "model_name_on_ollama": name}
    answer = requests.post(f"{url}/models/create/{query}", json=body, timeout=600)
    seconds = time.perf_counter() - started
    last = json.loads(answer.text.splitlines()[-1])
    assert last["status"] == 200, last
    for server in servers:
        requests.delete(f"{server}/api/delete", json={"model": name}, timeout=60)
    return seconds


if __name__ == "__main__":
    main()

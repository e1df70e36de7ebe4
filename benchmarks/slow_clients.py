"""Hundreds of slow clients of each kind at once: how long others wait, directly and behind nginx.

python -m benchmarks.slow_clients [--count 500]
"""

import argparse
import resource
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import requests

from tests.serving import serve
from tests.slow_clients import KINDS, slow_clients
from tests.test_nginx import nginx

ASKED = ("/healthz", "/models/")
ROUNDS = 10


def worst(url: str) -> dict[str, float]:
    """The longest time, in seconds, that each of ASKED took in ROUNDS tries."""
    found = dict.fromkeys(ASKED, 0.0)
    for _ in range(ROUNDS):
        for path in ASKED:
            started = time.monotonic()
            requests.get(url + path, timeout=60).raise_for_status()
            found[path] = max(found[path], time.monotonic() - started)
    return found


def main() -> None:
    """Print a line for each kind of client and each way to the service."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=500)
    count = parser.parse_args().count
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (8192, most_files))
    with ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory()))
        for number in range(300):
            (folder / "models" / f"model-{number}").mkdir(parents=True)
        (folder / "models" / "large").mkdir()
        with (folder / "models" / "large" / "model.gguf").open("wb") as file:
            file.truncate(50_000_000)
        served = running.enter_context(serve(folder / "models", "127.0.0.1:9"))
        through = running.enter_context(nginx(folder / "nginx", served.url))
        for way, url in (("direct", served.url), ("nginx", through)):
            for kind in KINDS:
                with slow_clients(url, kind, count):
                    times = worst(url)
                shown = "  ".join(f"{path} {times[path]:.3f} s" for path in ASKED)
                print(f"{way:7} {count} x {kind:26} {shown}", flush=True)


if __name__ == "__main__":
    main()

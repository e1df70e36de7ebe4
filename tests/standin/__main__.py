"""`python -m tests.standin --port N --folder DIR [--version V]`: serve until SIGTERM or SIGINT."""

import argparse
import signal
import threading
from pathlib import Path

from .server import Standin


def main() -> None:
    """Serve; print the URL on one line when ready."""
    parser = argparse.ArgumentParser(prog="python -m tests.standin", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--folder", type=Path, required=True, help="where the models are kept")
    parser.add_argument("--version", default="0.32.15", help="the Ollama version to play")
    arguments = parser.parse_args()
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    server = Standin(arguments.folder, version=arguments.version, port=arguments.port)
    with server:
        print(server.url, flush=True)
        stopped.wait()


if __name__ == "__main__":
    main()

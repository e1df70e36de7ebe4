"""The service under a real gunicorn, for tests and the demo."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from werkzeug.exceptions import NotFound
from werkzeug.serving import make_server

from app import create_app

ROOT = Path(__file__).parent.parent
START_SECONDS = 30
STOP_SECONDS = 20


@dataclass
class Served:
    """A running service: its process, its address, and what it has logged so far."""

    process: subprocess.Popen[str]
    url: str = ""
    log: list[str] = field(default_factory=list)
    listening: threading.Event = field(default_factory=threading.Event)

    def read_log(self) -> None:
        """Follow the log to its end; gunicorn says its address there once it listens."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.log.append(line)
            if match := re.search(r"Listening at: (http://\S+)", line):
                self.url = match[1]
                self.listening.set()
        self.listening.set()


@contextmanager
def serve(
    models_dir: Path,
    ollama: str,
    settings: Mapping[str, str] | None = None,
    *,
    port: int = 0,
    command: tuple[str, ...] = (sys.executable, "-m", "gunicorn"),
    folder: Path = ROOT,
) -> Iterator[Served]:
    """Run gunicorn in `folder` until the block ends; port 0 takes a free one."""
    ours = ("MODEL_HANDLER_", "PROMETHEUS_")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    environ |= {
        "MODEL_HANDLER_MODELS_DIR": str(models_dir),
        "MODEL_HANDLER_BIND": f"127.0.0.1:{port}",
        "OLLAMA_HOST": ollama,
        **(settings or {}),
    }
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environ,
        stderr=subprocess.STDOUT,
        stdout=subprocess.PIPE,
        text=True,
    )
    served = Served(process)
    reader = threading.Thread(target=served.read_log)
    reader.start()
    try:
        served.listening.wait(START_SECONDS)
        if not served.url:
            raise RuntimeError("gunicorn didn't start:\n" + "".join(served.log))
        yield served
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
        reader.join()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@contextmanager
def serve_inside(
    models_dir: Path, ollama: str, *, port: int = 0, prefix: str = "", **settings: Any
) -> Iterator[str]:
    """The service in this process until the block ends; its address. It starts and stops at once,
    for tests of what talks to it; what gunicorn does for it isn't there. Where there is a `prefix`,
    it is reached below it alone, as through a proxy that takes it off and says so."""
    app = create_app({"MODELS_DIR": models_dir, "OLLAMA_HOST": ollama, **settings})

    def proxy(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if not environ["PATH_INFO"].startswith(f"{prefix}/"):
            return NotFound()(environ, start_response)
        environ["PATH_INFO"] = environ["PATH_INFO"].removeprefix(prefix)
        environ["HTTP_X_FORWARDED_PREFIX"] = prefix
        return app(environ, start_response)

    server = make_server("127.0.0.1", port, proxy if prefix else app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}{prefix}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

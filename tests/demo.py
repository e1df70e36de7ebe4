"""From nothing to a deployed model: `python -m tests.demo`, which `make demo` calls.

Serves with gunicorn, uses the Ollama at OLLAMA_HOST if one answers there and else the stand-in,
builds a tiny base + LoRA zip, deploys it with curl, lists the models on both sides, and removes
what it has made from both.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import requests

from app.ollama.address import ollama_url
from tests.gguf_files import write_base, write_lora, write_zip
from tests.serving import serve
from tests.standin import Standin

NAME = "model-handler-demo"
NEXT = (
    ".venv/bin/model-handler serve",
    ".venv/bin/model-handler deploy my_model.zip my-model",
    "ollama run my-model",
)
"""What a newcomer types next, the second line in a shell beside the first."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument(
        "--port", type=int, default=0, help="the service's port (default: a free one)"
    )
    parser.add_argument("--keep", action="store_true", help="keep serving until interrupted")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with tempfile.TemporaryDirectory() as name, _ollama(Path(name)) as ollama:
        folder = Path(name)
        with (
            serve(folder / "models", ollama, port=options.port) as service,
            _removed_at_the_end(ollama),
        ):
            say(f"The service runs under gunicorn; its page is at {service.url}/")
            zip_file = _build_zip(folder)
            _deploy(service.url, zip_file)
            say("Models in the models directory:")
            _run("curl", "-sS", f"{service.url}/models/")
            say("Models on Ollama:")
            for model in requests.get(f"{ollama}/api/tags", timeout=30).json()["models"]:
                print(model["name"])
            if options.keep:
                say(f"Serving at {service.url}/ until interrupted (Ctrl-C).")
                with suppress(KeyboardInterrupt):
                    signal.pause()
    say(
        "Everything that was started has been stopped, and what was made is gone. Yours comes next:"
    )
    print(*NEXT, sep="\n")


@contextmanager
def _ollama(folder: Path) -> Iterator[str]:
    url = ollama_url(os.environ.get("OLLAMA_HOST", "").partition(",")[0])
    try:
        version = requests.get(f"{url}/api/version", timeout=3).json()["version"]
    except (requests.RequestException, ValueError, KeyError):
        with Standin(folder / "ollama") as standin:
            say(f"No Ollama answers at {url}: using the stand-in at {standin.url}")
            yield standin.url
        return
    say(f"Using Ollama {version} at {url}")
    yield url


@contextmanager
def _removed_at_the_end(ollama: str) -> Iterator[None]:
    """Remove the demo's model from Ollama, whatever happened meanwhile."""
    try:
        yield
    finally:
        answer = requests.delete(f"{ollama}/api/delete", json={"model": NAME}, timeout=30)
        if answer.ok:
            say(f"Removed {NAME} from Ollama again.")


def _build_zip(folder: Path) -> Path:
    base, lora = write_base(folder / "base.gguf"), write_lora(folder / "lora.gguf")
    path = write_zip(folder / "tiny_lora.zip", {"base.gguf": base, "lora.gguf": lora})
    say(f"Built {path.name}: a base model and a LoRA adapter, {path.stat().st_size} bytes")
    return path


def _deploy(url: str, zip_file: Path) -> None:
    say("Deploying it:")
    fields = ["-F", f"model_name_on_ollama={NAME}", "-F", f"Model=@{zip_file}"]
    output = _run("curl", "-sS", "-N", *fields, f"{url}/models/deploy/")
    if '"Success create model"' not in output:
        raise SystemExit("The deployment failed; the last line above says why.")


def _run(*command: str) -> str:
    """Run a command, showing each line as it comes; return them all."""
    print("$", *command)
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    if process.returncode:
        raise SystemExit(f"{command[0]} failed with exit code {process.returncode}.")
    return "".join(lines)


def say(text: str) -> None:
    print(f"\n== {text}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except RuntimeError as error:  # the service didn't start, and has said why
        raise SystemExit(str(error)) from error

"""The owner's own converter: a command that makes a GGUF of a model's folder, kept within bounds.

What the folder brings is data: the command sees weights, configs and tokenizer in a copy, nothing
that transformers would run.
"""

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from app.formats.files import ModelFile
from app.planning.contents import examine
from app.planning.selection import select as select_parts
from app.planning.unusable import Unusable

LIMIT_SECONDS = 2 * 3600.0
MEMORY_BYTES = 16 * 2**30
CONFIG_BYTES = 8 * 2**20
SHOWN_CHARACTERS = 300
_TAIL_BYTES = 2**14
_POLL_SECONDS = 0.2
_DATA = re.compile(r".+\.(json|safetensors|jinja)|(tokenizer|spiece)\.model|merges\.txt|vocab\.txt")
_FROM_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV")
_ABSOLUTE_PATH = re.compile(r"(?<![\w.])~?(?:/[^\s/'\"<>|:;,()]+)+/?")
HINT = (
    "Convert the model to GGUF elsewhere and send that, or have the service's owner look at"
    " MODEL_HANDLER_CONVERTER."
)


def converted(
    command: Sequence[str], files: Sequence[Path], folder: Path, report: Callable[[int], None]
) -> Path:
    """The GGUF that `command` makes of a safetensors model's files, below `folder`, which is there.

    `{folder}` and `{output}` in the command are replaced, or appended where they are absent.
    `report` is called several times a second with the bytes written so far; what it raises ends the
    work. Raises Unusable where the command fails, takes longer than LIMIT_SECONDS, or makes no GGUF
    that could run, and OSError.
    """
    folder = folder.absolute()
    source, output, home = folder / "source", folder / "converted.gguf", folder / "home"
    source.mkdir()
    home.mkdir()
    for path in files:
        _bring(path, source / path.name)
    arguments = filled(command, str(source), str(output))
    largest = 4 * sum(path.stat().st_size for path in files) + 2**30
    with _process(arguments, home, largest) as process:
        code, tail = _followed(process, lambda: report(_size(output)))
    shutil.rmtree(source, ignore_errors=True)
    if code != 0:
        said = _last_line(tail, folder) or f"it ended with code {code} and said nothing"
        raise Unusable(f"This service's converter couldn't convert the model: {said}", HINT)
    _check(output)
    return output


def filled(command: Sequence[str], folder: str, output: str) -> list[str]:
    """The command's arguments with the paths in their places."""
    places = {"{folder}": folder, "{output}": output}
    arguments = list(command)
    for place, path in places.items():
        if not any(place in argument for argument in command):
            arguments.append(path)
        arguments = [argument.replace(place, path) for argument in arguments]
    return arguments


def _bring(path: Path, target: Path) -> None:
    """Have the file at `target`, if it is data; a config without what names Python code."""
    if not _DATA.fullmatch(path.name):
        return
    if path.name.endswith("config.json"):
        target.write_text(json.dumps(_without_code(_config(path))))
        return
    try:
        os.link(path.resolve(), target)
    except OSError:  # another filesystem, or one without links
        shutil.copyfile(path, target)


def _config(path: Path) -> Any:
    if path.stat().st_size > CONFIG_BYTES:
        raise Unusable(f"{path.name} is larger than the {CONFIG_BYTES} bytes that a config can be.")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise Unusable(f"{path.name} isn't JSON.") from error


def _without_code(value: Any) -> Any:
    """The value without any `auto_map`, which names classes of Python files beside the model."""
    if isinstance(value, dict):
        return {key: _without_code(each) for key, each in value.items() if key != "auto_map"}
    return [_without_code(each) for each in value] if isinstance(value, list) else value


@contextmanager
def _process(
    arguments: Sequence[str], home: Path, largest: int
) -> Iterator["subprocess.Popen[bytes]"]:
    """The command; all that it has started ends with the block."""
    kept = {name: os.environ[name] for name in _FROM_ENVIRONMENT if name in os.environ}
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    seconds = int(LIMIT_SECONDS + 1) * (os.cpu_count() or 1)
    limits = [str(MEMORY_BYTES), str(seconds), str(largest)]
    runner = str(Path(__file__).with_name("run_limited.py"))
    process = subprocess.Popen(
        [sys.executable, "-I", runner, *limits, *arguments],
        cwd=home,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**kept, **offline, "HOME": str(home), "TMPDIR": str(home)},
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait()
        _end_session(process.pid)


def _end_session(session: int) -> None:
    """Kill what is left of the session, where its leader was killed before it could do so."""
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        with suppress(ProcessLookupError, PermissionError):
            if os.getsid(pid) == session:
                os.kill(pid, signal.SIGKILL)


def _followed(process: "subprocess.Popen[bytes]", report: Callable[[], None]) -> tuple[int, bytes]:
    """The code that the process ends with, and the end of what it said."""
    assert process.stdout is not None
    descriptor, tail = process.stdout.fileno(), b""
    end, reported = time.monotonic() + LIMIT_SECONDS, 0.0
    while True:
        if time.monotonic() > end:
            raise Unusable(
                f"This service's converter took more than {LIMIT_SECONDS:.0f} seconds and was"
                " stopped.",
                HINT,
            )
        if time.monotonic() - reported > _POLL_SECONDS:
            report()
            reported = time.monotonic()
        has_ended = process.poll() is not None
        if select.select([descriptor], [], [], 0 if has_ended else _POLL_SECONDS)[0]:
            block = os.read(descriptor, 2**16)
            tail = (tail + block)[-_TAIL_BYTES:]
            if block:
                continue
            with suppress(subprocess.TimeoutExpired):  # closed its output, and runs on
                process.wait(_POLL_SECONDS)
        if has_ended:
            return process.returncode, tail


def _last_line(tail: bytes, folder: Path) -> str:
    """The last line that was said: bounded, printable, and without paths of this machine."""
    lines = [line.strip() for line in tail.decode(errors="replace").splitlines()]
    last = next((line for line in reversed(lines) if line), "")
    last = last.replace(f"{folder}/", "").replace(str(folder), "")
    last = _ABSOLUTE_PATH.sub(lambda found: found[0].rstrip("/").rpartition("/")[2], last)
    shown = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in last
    )
    return shown if len(shown) <= SHOWN_CHARACTERS else f"{shown[:SHOWN_CHARACTERS]}…"


def _check(output: Path) -> None:
    """Raise Unusable unless the file is a GGUF that an upload could be."""
    nothing = "This service's converter ended well, but wrote no GGUF"
    if output.is_symlink() or not output.is_file():
        raise Unusable(f"{nothing}.", HINT)
    file = ModelFile("converted.gguf", _size(output), lambda: output.open("rb"), output)
    try:
        base = select_parts(examine([file])).base
    except Unusable as error:
        raise Unusable(f"{nothing} that can be used: {error}", HINT) from error
    if base is None or not base.is_gguf:
        raise Unusable(f"{nothing} with a model.", HINT)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0

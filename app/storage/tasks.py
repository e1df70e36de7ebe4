"""What became of each task: its lines, kept on disk where every worker process finds them."""

import fcntl
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

KEPT = 200
_FILE = re.compile(r"(?P<started>\d{12})-(?P<uuid>[0-9a-f-]{36})\.jsonl")


class NoSuchTask(Exception):
    """No task of that uuid is known, or no longer."""


class TaskLog:
    """A folder with a file of lines for each of the last KEPT tasks, named by start and uuid.

    Whoever writes a task's file holds a lock on it, which the kernel drops with its holder: a task
    whose file is neither locked nor complete was stopped or killed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def writer(self, uuid: str) -> Iterator[Callable[[bytes], None]]:
        """A function that keeps a line of task `uuid`; forgets the oldest tasks beyond KEPT.

        Where the disk takes nothing more, lines are dropped: the task itself goes on.
        """
        with ExitStack() as opened:
            file = None
            with suppress(OSError):
                self._folder.mkdir(parents=True, exist_ok=True)
                path = self._folder / f"{int(time.time()):012}-{uuid}.jsonl"
                file = opened.enter_context(path.open("xb", buffering=0))
                fcntl.flock(file, fcntl.LOCK_EX)
                for old in self._newest_first()[KEPT:]:
                    old.unlink(missing_ok=True)

            def keep(line: bytes) -> None:
                with suppress(OSError):
                    if file is not None:
                        file.write(line)

            yield keep

    def lines(self, uuid: str) -> bytes:
        """The lines that a task has sent so far. Raises NoSuchTask."""
        for path in self._newest_first():
            if path.name[13:] == f"{uuid}.jsonl":
                with suppress(FileNotFoundError):
                    return path.read_bytes()
        raise NoSuchTask(f"There is no task {uuid!r}. The last {KEPT} tasks are kept.")

    def recent(self) -> list[dict[str, Any]]:
        """The tasks that are kept, newest first: state, model, started, last action and ratio.

        `state` is `running`, `succeeded`, `failed`, or `stopped`: its client left or it was killed.
        """
        found = []
        for path in self._newest_first():
            with suppress(FileNotFoundError, ValueError):
                found.append(_summary(path))
        return found

    def _newest_first(self) -> list[Path]:
        names = os.listdir(self._folder) if self._folder.is_dir() else []
        return [
            self._folder / name for name in sorted(names, reverse=True) if _FILE.fullmatch(name)
        ]


def _summary(path: Path) -> dict[str, Any]:
    name = _FILE.fullmatch(path.name)
    assert name is not None
    with path.open("rb") as file:
        running = _is_locked(file)
        lines = [json.loads(line) for line in file.read().splitlines()]
    first, last = (lines[0], lines[-1]) if lines else (None, None)
    details = first["message"]["details"] if first else {}
    ratio = last["message"].get("progress_ratio", last["message"].get("progress")) if last else 0
    if last and last["status"] != 200:
        state = "failed"
    elif ratio == 1:
        state = "succeeded"
    else:
        state = "running" if running else "stopped"
    return {
        "task_uuid": name["uuid"],
        "state": state,
        "model": details.get("model", details.get("model_name")),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(int(name["started"]))),
        "action": last["message"]["action"] if last else None,
        "progress_ratio": ratio,
    }


def _is_locked(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False

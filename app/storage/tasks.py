"""What became of each task: its lines, kept on disk where every worker process finds them."""

import fcntl
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

KEPT = 200
SUMMARY_BYTES = 2**16
LINES_BYTES = 4 * 2**20
_FILE = re.compile(
    r"(?P<number>\d{12})-((?P<started>\d{12})-)?(?P<uuid>[0-9a-f-]{36})\.jsonl", re.ASCII
)


class NoSuchTask(Exception):
    """No task of that uuid is known, or no longer."""


class TaskStopped(Exception):
    """Somebody has asked for this task to be stopped."""


class TaskLog:
    """A folder with a file of lines for each of the last KEPT tasks, and of all that still run.

    A file is named by number, start and uuid; the numbers give the order, whatever the clock says.
    Whoever writes a task's file holds a lock on it, which the kernel drops with its holder: a task
    whose file is neither locked nor complete was stopped or killed. Beside the file of one that
    runs there are, whatever process it runs in, one that says how far it is, and an empty one where
    it is to be stopped.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def writer(self, uuid: str) -> Iterator[Callable[[bytes], None]]:
        """A function that keeps a line of task `uuid`; forgets the oldest ended tasks beyond KEPT.

        Where the disk takes nothing more, lines are dropped: the task itself goes on.
        """
        with ExitStack() as opened:
            file = None
            opened.callback(self._forget_beside, uuid)
            with suppress(OSError):
                file = opened.enter_context(self._begun(uuid))
                self._forget_oldest()

            def keep(line: bytes) -> None:
                with suppress(OSError):
                    if file is not None:
                        file.write(line)

            yield keep

    def lines(self, uuid: str) -> bytes:
        """The lines that a task has sent so far, the first LINES_BYTES. Raises NoSuchTask."""
        with self._opened(uuid) as file:
            return file.read(LINES_BYTES)

    def stop(self, uuid: str) -> bool:
        """Have a task stopped, which its next `check` says; whether it runs still. Raises
        NoSuchTask."""
        with self._opened(uuid) as file:
            self._stop_file(uuid).touch()
            runs = _is_locked(file)
            if not runs:
                self._forget_beside(uuid)
            return runs

    def check(self, uuid: str) -> None:
        """Raise TaskStopped where `stop` was called for this task; cheap enough for every block of
        a file."""
        if self._stop_file(uuid).exists():
            raise TaskStopped("The task was stopped on request.")

    def note(self, uuid: str, now: Mapping[str, Any]) -> None:
        """Say what a running task does at the moment, in place of what was said before."""
        with suppress(OSError):
            self._now_file(uuid).write_text(json.dumps(now))

    def recent(self) -> list[dict[str, Any]]:
        """The tasks that are kept, newest first: state, model, started, last action and ratio; the
        name on Ollama, error and hint, where the last line has them; and `now`, what was noted of
        one that runs.

        `state` is `running`, `succeeded`, `failed`, or `stopped`: its client left or it was killed.
        """
        found = []
        for path, name in self._newest_first():
            with suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
                task = _summary(path, name)
                if task["state"] == "running":
                    task["now"] = self._noted(name["uuid"])
                found.append(task)
        return found

    def _opened(self, uuid: str) -> BinaryIO:
        """The task's file. Raises NoSuchTask."""
        for path, name in self._newest_first():
            if name["uuid"] == uuid:
                with suppress(FileNotFoundError):
                    return path.open("rb")
        raise NoSuchTask(f"There is no task {uuid[:36]!r}. The last {KEPT} tasks are kept.")

    def _noted(self, uuid: str) -> Any:
        with suppress(OSError, ValueError):
            return json.loads(self._now_file(uuid).read_bytes())
        return None

    def _stop_file(self, uuid: str) -> Path:
        return self._folder / f".stop-{uuid}"

    def _now_file(self, uuid: str) -> Path:
        return self._folder / f".now-{uuid}"

    def _forget_beside(self, uuid: str) -> None:
        for path in (self._stop_file(uuid), self._now_file(uuid)):
            with suppress(OSError):
                path.unlink()

    def _begun(self, uuid: str) -> BinaryIO:
        """A new file for the task, which is locked by the time that it can be seen."""
        self._folder.mkdir(parents=True, exist_ok=True)
        newest = next((int(name["number"]) for _, name in self._newest_first()), 0)
        name = f"{newest + 1:012}-{int(time.time()):012}-{uuid}.jsonl"
        new = self._folder / f".{uuid}"
        file = new.open("xb", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            os.rename(new, self._folder / name)
        except BaseException:
            file.close()
            new.unlink(missing_ok=True)
            raise
        return file

    def _forget_oldest(self) -> None:
        for path, name in self._newest_first()[KEPT:]:
            with suppress(FileNotFoundError), path.open("rb") as file:
                if not _is_locked(file):
                    path.unlink(missing_ok=True)
                    self._forget_beside(name["uuid"])

    def _newest_first(self) -> list[tuple[Path, re.Match[str]]]:
        names = os.listdir(self._folder) if self._folder.is_dir() else []
        found = [match for name in sorted(names, reverse=True) if (match := _FILE.fullmatch(name))]
        return [(self._folder / match.string, match) for match in found]


def _summary(path: Path, name: re.Match[str]) -> dict[str, Any]:
    with path.open("rb") as file:
        running = _is_locked(file)
        first, last = _ends(file)
    details = first["message"]["details"] if first else {}
    at_last = last["message"]["details"] if last else {}
    ratio = last["message"].get("progress_ratio", last["message"].get("progress")) if last else 0
    if last and last["status"] != 200:
        state = "failed"
    elif ratio == 1:
        state = "succeeded"
    else:
        state = "running" if running else "stopped"
    started = int(name["started"] or name["number"])  # earlier versions numbered by the clock
    return {
        "task_uuid": name["uuid"],
        "state": state,
        "model": details.get("model", details.get("model_name")),
        "model_name_on_ollama": at_last.get("model_name_on_ollama"),
        "error": at_last.get("error"),
        "hint": at_last.get("hint"),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "action": last["message"]["action"] if last else None,
        "progress_ratio": ratio,
    }


def _ends(file: BinaryIO) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The first and the last whole line of a file, of which only the ends are read."""
    head = file.read(SUMMARY_BYTES)
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - SUMMARY_BYTES))
    tail, _, _ = file.read(SUMMARY_BYTES).rpartition(b"\n")
    if not tail:
        return None, None
    first, last = head.partition(b"\n")[0], tail.rpartition(b"\n")[2]
    return json.loads(first), json.loads(last)


def _is_locked(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False

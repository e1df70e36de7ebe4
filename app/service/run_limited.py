"""Runs a command within limits, and ends it with whoever waits: a script of its own, which knows
nothing of the service. Arguments: bytes of memory, seconds of processor time, bytes a file may
have, then the command.

Standard input stays open as long as somebody waits for the command, however that ends.
"""

import ctypes
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

_PR_SET_CHILD_SUBREAPER = 36


def main() -> None:
    """Run the command; exit as it does. What it has started ends with it, or with standard input:
    as the reaper of orphans, this process stays above all of it.
    """
    memory, seconds, size = map(int, sys.argv[1:4])
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_DATA: memory,
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_FSIZE: size,
    }
    for limit, value in limits.items():
        hard = resource.getrlimit(limit)[1]
        least = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (least, least))
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    threading.Thread(target=_end_with_whoever_waits, daemon=True).start()
    try:
        code = subprocess.run(sys.argv[4:], stdin=subprocess.DEVNULL).returncode
    except OSError as error:
        print(f"It can't be started: {error.strerror}.", flush=True)
        code = 127
    _end(code if code >= 0 else 128 - code)


def _end_with_whoever_waits() -> None:
    while os.read(0, 1024):
        pass
    _end(128 + signal.SIGKILL)


def _end(code: int) -> None:
    while running := _descendants():
        for pid in running:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    os._exit(code)


def _descendants() -> list[int]:
    """What runs below this process. Source of the fields: proc_pid_stat(5)."""
    parents = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
            state, parent = file.read().rpartition(b")")[2].split()[:2]
            if state not in (b"Z", b"X"):
                parents[int(name)] = int(parent)
    found = [os.getpid()]
    for above in found:
        found += [pid for pid, parent in parents.items() if parent == above]
    return found[1:]


if __name__ == "__main__":
    main()

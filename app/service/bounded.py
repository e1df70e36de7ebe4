"""Runs a command within limits, and ends it with whoever waits: a script of its own, which knows
nothing of the service. Arguments: bytes of memory, seconds of processor time, bytes a file may
have, then the command.

Standard input stays open as long as somebody waits for the command, however that ends.
"""

import os
import resource
import signal
import subprocess
import sys
import threading
from contextlib import suppress


def main() -> None:
    """Run the command; exit as it does. Ends its whole session with standard input."""
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
    threading.Thread(target=_end_with_whoever_waits, daemon=True).start()
    try:
        code = subprocess.run(sys.argv[4:], stdin=subprocess.DEVNULL).returncode
    except OSError as error:
        print(f"It can't be started: {error.strerror}.", flush=True)
        code = 127
    os._exit(code if code >= 0 else 128 - code)


def _end_with_whoever_waits() -> None:
    while os.read(0, 1024):
        pass
    end_session(os.getsid(0))


def end_session(session: int) -> None:
    """Kill every process of the session, whatever group it has moved to, and the caller last, if
    it is one of them."""
    others = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    for pid in sorted(others, key=lambda pid: pid == os.getpid()):
        with suppress(ProcessLookupError, PermissionError):
            if os.getsid(pid) == session:
                os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()

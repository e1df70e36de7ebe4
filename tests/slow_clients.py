"""Clients that a service must live with: each opens connections and then takes its time."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

FORM = "Content-Type: multipart/form-data; boundary=b\r\n"
HEAD = "Host: localhost\r\n"
PART = '--b\r\nContent-Disposition: form-data; name="Model"; filename="{}.zip"\r\n\r\nPK\3\4'
KINDS: dict[str, Callable[[int], str]] = {
    "idle": lambda number: "",
    "half a head": lambda number: f"GET /models/ HTTP/1.1\r\n{HEAD}X-More: ",
    "half a JSON body": lambda number: (
        f"POST /models/create/ HTTP/1.1\r\n{HEAD}Content-Type: application/json\r\n"
        'Content-Length: 1000\r\n\r\n{"model": '
    ),
    "half a large JSON body": lambda number: (
        f"POST /models/create/ HTTP/1.1\r\n{HEAD}Content-Type: application/json\r\n"
        'Content-Length: 1000000\r\n\r\n{"model": '
    ),
    "a dripping upload": lambda number: (
        f"POST /models/upload/ HTTP/1.1\r\n{HEAD}{FORM}Content-Length: 10000000\r\n\r\n"
        + PART.format(f"slow{number}")
    ),
    "a dripping chunked upload": lambda number: (
        f"PUT /models/upload/chunked{number}.zip HTTP/1.1\r\n{HEAD}"
        "Transfer-Encoding: chunked\r\n\r\n8\r\nPK\3\4"
    ),
    "an unread download": lambda number: f"GET /models/large/download HTTP/1.1\r\n{HEAD}\r\n",
    "unread lines": lambda number: f"GET /models/?verbose=1 HTTP/1.1\r\n{HEAD}\r\n",
}
DRIPPING = ("a dripping upload", "a dripping chunked upload", "half a head")


@contextmanager
def slow_clients(url: str, kind: str, count: int) -> Iterator[list[socket.socket]]:
    """That many clients of a kind, for the block; those that drip send a byte now and then."""
    host = urlsplit(url)
    stopped = threading.Event()
    with contextlib.ExitStack() as opened:
        clients = []
        for number in range(count):
            client = opened.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            client.connect((host.hostname or "", host.port or 0))
            client.sendall(KINDS[kind](number).encode())
            clients.append(client)

        def drip() -> None:
            while not stopped.wait(0.3):
                for client in clients:
                    with contextlib.suppress(OSError):
                        client.send(b"x")

        dripper = threading.Thread(target=drip)
        if kind in DRIPPING:
            dripper.start()
        try:
            yield clients
        finally:
            stopped.set()
            if dripper.ident:
                dripper.join()

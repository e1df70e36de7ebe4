"""Connections that break."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit


class Proxy:
    """Passes TCP connections on; `received` counts the clients' bytes. It breaks each of the first
    connections once it brought as many bytes as `cuts` says."""

    def __init__(self, url: str, cuts: list[int]) -> None:
        self._target = (urlsplit(url).hostname, urlsplit(url).port)
        self._cuts = cuts
        self.received = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, *cuts: int) -> None:
        """Break the next connections so."""
        self._cuts += cuts

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                most = self._cuts.pop(0) if self._cuts else 2**60
                for ends in ((client, server, most), (server, client, 2**60)):
                    threading.Thread(target=self._pass, args=ends, daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, left: int) -> None:
        with suppress(OSError), source, target:
            counted = target.getpeername() == self._target
            while left > 0 and (block := source.recv(min(2**16, left))):
                left -= len(block)
                self.received += len(block) if counted else 0
                target.sendall(block)
            for end in (source, target):
                end.shutdown(socket.SHUT_RDWR)


@contextmanager
def proxy(url: str, *cuts: int) -> Iterator[Proxy]:
    """A Proxy before the service at `url`, until the block ends."""
    passing = Proxy(url, list(cuts))
    try:
        yield passing
    finally:
        passing.close()

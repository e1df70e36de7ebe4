"""The stand-in itself: a server that starts, stops, and does what a test tells it."""

import socket
import sys
import threading
import time
from contextlib import suppress
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from .faults import Fault, Gate, Recorded, Script
from .handler import Handler
from .show import Models
from .store import Store
from .versions import Behaviour

_LINGER_SECONDS = 0.5


class Standin:
    """A server on loopback that answers as Ollama `version` does; its models lie in `folder`.

    Port 0 takes a free one. `url` is known before the start; `requests` has every request in order
    of arrival.
    """

    def __init__(self, folder: Path, *, version: str = "0.32.15", port: int = 0) -> None:
        self._script = Script()
        self.version = version
        self._server = Server(port, Store(folder), Behaviour.of(version), self._script)
        self._thread: threading.Thread | None = None
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @property
    def requests(self) -> list[Recorded]:
        """The requests so far."""
        return self._script.requests

    def start(self) -> None:
        """Serve from a thread."""
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.005,))
        self._thread.daemon = True
        self._thread.start()

    def stop(self) -> None:
        """Open all gates, end all connections, free the port."""
        self._script.open_all()
        if self._thread:
            self._server.shutdown()
            self._thread.join()
            self._thread = None
        self._server.server_close()
        self._server.end_connections()

    def hold(self, path: str, *, method: str | None = None) -> Gate:
        """Hold the requests whose path begins with `path` (and of this method, if given).

        They wait after they were recorded; a create waits after its first status line was sent.
        """
        return self._script.add_gate(Gate(path, method))

    def fail_next(
        self,
        path: str,
        status: int = 500,
        body: bytes = b"",
        *,
        lines: list[bytes] | None = None,
        reset: bool = False,
        method: str | None = None,
    ) -> None:
        """Answer the next request whose path begins with `path` otherwise, once.

        With `status` and `body`; or, given `lines`, with HTTP 200 and these bytes as a stream; or,
        with `reset`, by a connection reset after the first line of a create, the first bytes of a
        blob's body, or at once.
        """
        self._script.add_fault(Fault(path, method, status, body, lines, reset))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Server(ThreadingHTTPServer):
    """Accepts connections and knows those that are open."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, store: Store, behaviour: Behaviour, script: Script) -> None:
        self.store, self.behaviour, self.script = store, behaviour, script
        self.models = Models(store, behaviour)
        self._open: set[socket.socket] = set()
        self._to_reset: set[socket.socket] = set()
        self._to_linger: set[socket.socket] = set()
        self._changed = threading.Condition()
        super().__init__(("127.0.0.1", port), Handler)

    def server_bind(self) -> None:
        """Bind without HTTPServer's look-up of the host's full name, which may take seconds."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = self.socket.getsockname()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection."""
        connection, address = super().get_request()
        with self._changed:
            self._open.add(connection)
        return connection, address

    def reset_at_end(self, connection: socket.socket) -> None:
        """Close this connection without a farewell: its SO_LINGER makes that a reset."""
        self._to_reset.add(connection)

    def linger_at_end(self, connection: socket.socket) -> None:
        """Wait before closing, as Go does where a body was left unread: the answer may land."""
        self._to_linger.add(connection)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        if request in self._to_reset:
            self.close_request(request)
        elif request in self._to_linger:
            with suppress(OSError):
                request.shutdown(socket.SHUT_WR)
            time.sleep(_LINGER_SECONDS)
            self.close_request(request)
        else:
            super().shutdown_request(request)
        with self._changed:
            for group in (self._open, self._to_reset, self._to_linger):
                group.discard(request)
            self._changed.notify_all()

    def end_connections(self, timeout: float = 5) -> None:
        """End what clients keep open, and wait until the threads let go."""
        with self._changed:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._changed.wait_for(lambda: not self._open, timeout)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Let a client that left be; print anything else."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

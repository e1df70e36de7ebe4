"""Connections to a server that another thread can end, and answers that are read to their end."""

import queue
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util import Retry

from app.progress import CANCEL, Cancelled

AT_ONCE = 32


class _Exchange:
    """A request under way, and the socket that it goes over."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._ended = False

    def goes_over(self, connection: socket.socket | None) -> None:
        """It goes over that socket from now on. Raises Cancelled if it was to end."""
        with self._lock:
            if self._ended:
                raise Cancelled
            self._socket = connection

    def end(self) -> None:
        """Have whatever reads or writes there fail at once."""
        with self._lock:
            self._ended = True
            if self._socket is not None:
                with suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)


_here = threading.local()


@contextmanager
def interruptible() -> Iterator[None]:
    """Let the requests of the block, on this thread, end at once where `progress.CANCEL` says so,
    whatever the server does or doesn't. Raises Cancelled then."""
    cancel = CANCEL.get()
    if cancel is None:
        yield
        return
    _here.exchange = exchange = _Exchange()
    try:
        with cancel.interrupting(exchange.end):
            yield
    finally:
        _here.exchange = None


def _note(connection: HTTPConnection) -> None:
    exchange: _Exchange | None = getattr(_here, "exchange", None)
    if exchange is not None:
        exchange.goes_over(connection.sock)


class _HTTPConnection(HTTPConnection):
    def connect(self) -> None:
        super().connect()
        _note(self)

    def putrequest(self, *arguments: Any, **options: Any) -> None:
        _note(self)
        super().putrequest(*arguments, **options)


class _HTTPSConnection(_HTTPConnection, HTTPSConnection):
    """The same over TLS."""


class _Pool(HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


def new_session() -> requests.Session:
    """A session for one server, to be used by all threads."""
    session = requests.Session()
    session.trust_env = False  # a proxy for the internet isn't one for Ollama
    retries = Retry(
        total=2, backoff_factor=0.2, allowed_methods=("GET", "HEAD"), status_forcelist=(503,)
    )
    retries.raise_on_status = False
    adapter = HTTPAdapter(max_retries=retries, pool_maxsize=AT_ONCE)
    adapter.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
    for scheme in ("http://", "https://"):
        session.mount(scheme, adapter)
    return session


class Answers:
    """What `read` yields, read on a thread of its own to its end, also where nobody listens any
    more; iterating gives it, and raises what `read` raises, or Cancelled."""

    def __init__(self, read: Callable[[], Iterator[dict[str, Any]]]) -> None:
        self._read = read
        self._queue: queue.SimpleQueue[dict[str, Any] | BaseException | None] = queue.SimpleQueue()
        self._is_heard = True
        threading.Thread(target=self._run, name="answers", daemon=True).start()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        cancel = CANCEL.get()
        try:
            if cancel is None:
                yield from self._heard()
            else:
                with cancel.interrupting(lambda: self._queue.put(Cancelled())):
                    yield from self._heard()
        finally:
            self._is_heard = False

    def _heard(self) -> Iterator[dict[str, Any]]:
        while (said := self._queue.get()) is not None:
            if isinstance(said, BaseException):
                raise said
            yield said

    def _run(self) -> None:
        end: BaseException | None = None
        try:
            for said in self._read():
                if self._is_heard:
                    self._queue.put(said)
        except BaseException as error:
            end = error
        self._queue.put(end)

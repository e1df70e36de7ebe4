"""gunicorn's worker of threads, which gives a thread only to a request that has arrived.

gunicorn's own hands each connection to a thread, which then waits for the client: as many slow
clients as there are threads stop the service. Here the loop that watches all connections gathers
each request's head, and its body where that is small, before a thread is asked; health, what only
reads, work, bodies still under way, and what goes through to Ollama have threads of their own, on
which they begin in turn.
"""

import os
import resource
import selectors
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from gunicorn.workers.gthread import TConn, ThreadWorker

from app.connection import TOO_SLOW, BodyReader, Connection, TooSlow
from app.refusals import GunicornAnswer, refusal
from app.threads import (
    BODIES,
    BODY_BYTES,
    DOWNLOADS,
    HEALTH,
    LISTS,
    OLLAMA,
    PASSED,
    PASSED_A_THREAD,
    WORK,
    Threads,
    threads_for,
)

HEAD_BYTES = 64 * 2**10
DISCARDED_BYTES, DISCARDED_OF_MORE = 3 * 2**20, 64 * 2**10
SHOWN_CHARACTERS = 200
LINGER_SECONDS = 2.0
DRAIN_SECONDS = 0.2
LOOK_SECONDS = 0.5
MAKE_ROOM_SECONDS = 2.0
ENDED_AT_ONCE = 4
BACKLOGS_BYTES = 64 * 2**20


@dataclass
class Bounds:
    """What clients are granted: set once, before the worker starts."""

    request_seconds: float = 20.0
    unread_seconds: float = 60.0


bounds = Bounds()


def _unread_bytes(request: Any, where_unknown: int) -> int:
    """How much of a request's body nobody has read, where its length is known."""
    return getattr(request.body.reader, "length", where_unknown)


class Client(TConn):  # type: ignore[misc]
    """A connection and what has arrived on it that no thread has yet."""

    def __init__(self, worker: "Worker", accepted: socket.socket, address: Any, own: Any) -> None:
        connection = Connection(accepted, bounds.request_seconds, bounds.unread_seconds)
        super().__init__(worker.cfg, connection, address, own)
        self.gathered = bytearray()
        self.discarded = 0
        self.most_discarded = DISCARDED_BYTES
        self.data_ready = True
        self.deadline = 0.0
        self.ready: Callable[[Client], None] | None = None
        self.keeps_alive = False

    def take_over(self) -> None:
        """Give what was gathered to the parser; for the thread that serves the request."""
        self.init()
        if not isinstance(self.parser.unreader, BodyReader):
            self.parser.unreader = BodyReader(self.sock)
        self.parser.unreader.unread(bytes(self.gathered))
        self.gathered.clear()


class Worker(ThreadWorker):  # type: ignore[misc]
    """See the module. Told to stop, or left by gunicorn's master, it refuses new connections at
    once: gunicorn's own keeps its listening socket open while requests end."""

    def init_process(self) -> None:
        self.alive: bool
        self._watched: dict[Client, None] = {}
        self._looked_at = 0.0
        self._downloading: set[Client] = set()
        self._pools = {
            HEALTH: Threads(2, HEALTH),
            LISTS: Threads(4, LISTS, newest_first=True),
            OLLAMA: Threads(8, OLLAMA, newest_first=True),
            DOWNLOADS: Threads(self.cfg.threads, DOWNLOADS, newest_first=True),
            WORK: Threads(self.cfg.threads, WORK),
            BODIES: Threads(self.cfg.threads, BODIES),
            PASSED: Threads(self.cfg.threads * PASSED_A_THREAD, PASSED, turn_seconds=0),
        }
        _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
        files = most_files if 0 < most_files < 65_536 else 65_536
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, most_files))
        self.worker_connections = min(self.cfg.worker_connections, files // 4)
        super().init_process()

    def get_thread_pool(self) -> ThreadPoolExecutor:
        return self._pools[WORK].pool

    def set_accept_enabled(self, enabled: bool) -> None:
        super().set_accept_enabled(enabled)
        if not enabled and (not self.alive or self.ppid != os.getppid()):
            self.alive = False
            for listener in self.sockets:
                listener.close()

    def accept(self, listener: socket.socket) -> None:
        """Watch a new connection; where there are too many, the one that has waited longest
        for its client makes room."""
        try:
            accepted, address = listener.accept()
        except OSError:
            return
        if self.nr_conns + 1 >= self.worker_connections and self._watched:
            self._drop(next(iter(self._watched)))
        self.nr_conns += 1
        client = Client(self, accepted, address, listener.getsockname())
        self._watch(client, self._gather, bounds.request_seconds)

    def enqueue_req(self, conn: Client, pool: str = WORK, *, is_late: bool = False) -> None:
        conn.sock.begin(keeps_backlog=pool in (HEALTH, LISTS, OLLAMA), is_late=is_late)
        self._pools[pool].submit(partial(self._serve, conn, pool))

    def _serve(self, conn: Client, pool: str, give_turn_back: Callable[[], None]) -> None:
        keeps_alive = False
        conn.sock.before_waiting = give_turn_back
        if pool == DOWNLOADS:
            self._downloading.add(conn)
        try:
            keeps_alive = self.handle(conn)
        finally:
            self._downloading.discard(conn)
            self.method_queue.defer(self.finish_request, conn, keeps_alive)

    def handle(self, conn: Client) -> bool:
        """Serve one request, in a thread; whether the connection can be used for another."""
        try:
            conn.take_over()
        except OSError:
            return False
        return bool(super().handle(conn))

    def handle_request(self, req: Any, conn: Client) -> bool:
        """Answer a request. gunicorn's own tells the client to continue before anybody knows
        whether its body is wanted, and keeps connections on which much is left unread."""
        conn.sock.ends_with(req.force_close)
        if req._expected_100_continue:
            req._expected_100_continue = False
            conn.sock.withhold_continue()
        should_close = req.should_close
        req.should_close = lambda: (
            should_close() or conn.sock.withholds_continue or _unread_bytes(req, 0) > BODY_BYTES
        )
        keeps_alive = bool(super().handle_request(req, conn))
        if _unread_bytes(req, sys.maxsize) > DISCARDED_BYTES:
            conn.most_discarded = DISCARDED_OF_MORE
        return keeps_alive

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer what isn't HTTP, or isn't taken, in the contract's shape."""
        if isinstance(exc, TooSlow):
            client.sendall(refusal(408, "Request Timeout", TOO_SLOW))
            return
        own = GunicornAnswer()
        super().handle_error(req, own, addr, exc)
        if own.status == 500:
            sentence = "The service failed unexpectedly; its log says why."
        else:
            sentence = f"The request isn't well-formed HTTP: {str(exc)[:SHOWN_CHARACTERS]}"
        client.sendall(refusal(own.status, own.reason, sentence))

    def _keepalive_after(self, conn: Client, keepalive: bool) -> bool:
        deadline = time.monotonic() + DRAIN_SECONDS
        return keepalive and bool(conn.parser.finish_body(deadline=deadline))

    def finish_request(self, conn: Client, keeps_alive: bool) -> None:
        """Go on with a connection once its thread has done with it; on the loop."""
        conn.keeps_alive = keeps_alive
        conn.sock.setblocking(False)
        self._bound_backlogs(conn.sock.backlog_bytes)
        self._watch(conn, self._flush, bounds.unread_seconds, selectors.EVENT_WRITE)

    def murder_pending(self) -> None:
        """End the connections whose clients have taken too long."""
        now = time.monotonic()
        if now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        for client in [client for client in self._watched if client.deadline <= now]:
            if b"\r\n\r\n" in client.gathered:
                self._unwatch(client)
                self.enqueue_req(client, is_late=True)
            elif client.gathered:
                self._refuse(client, 408, "Request Timeout", TOO_SLOW)
            else:
                self._drop(client)

        if self._pools[DOWNLOADS].is_awaited:
            self._end_unread_downloads(now)

    def _end_unread_downloads(self, now: float) -> None:
        """End some of those that nobody has read from lately: others wait for their threads."""
        since = {client: client.sock.unread_since or now for client in tuple(self._downloading)}
        unread = [client for client in since if now - since[client] > MAKE_ROOM_SECONDS]
        for client in sorted(unread, key=lambda client: since[client])[:ENDED_AT_ONCE]:
            with suppress(OSError):
                client.sock.shutdown(socket.SHUT_RDWR)

    def _bound_backlogs(self, added: int) -> None:
        """Drop clients that have left their answers unread the longest, where all that is kept for
        such exceeds BACKLOGS_BYTES."""
        if not added:
            return
        unread = [client for client in self._watched if client.sock.backlog_bytes]
        kept = added + sum(client.sock.backlog_bytes for client in unread)
        for client in unread:
            if kept <= BACKLOGS_BYTES:
                return
            kept -= client.sock.backlog_bytes
            self._drop(client)

    def murder_keepalived(self, force: bool = False) -> None:
        """End soon the connections on which nothing is asked, where the worker stops."""
        if self.alive and not force:
            return
        soon = time.monotonic() + (0 if force else LOOK_SECONDS)
        for client in self._watched:
            if client.ready == self._gather and not client.gathered:
                client.deadline = min(client.deadline, soon)

    def _watch(
        self, client: Client, ready: Any, seconds: float, event: int = selectors.EVENT_READ
    ) -> None:
        client.deadline = time.monotonic() + seconds
        client.ready = ready
        self._watched[client] = None
        self.poller.register(client.sock, event, lambda _: self._attempt(ready, client))

    def _unwatch(self, client: Client) -> None:
        self._watched.pop(client, None)
        with suppress(KeyError):  # _discard has stopped listening.
            self.poller.unregister(client.sock)

    def _attempt(self, ready: Any, client: Client) -> None:
        try:
            ready(client)
        except BlockingIOError:
            return
        except OSError:
            self._drop(client)

    def _gather(self, client: Client) -> None:
        """Take what has arrived, until a thread can serve it."""
        piece = client.sock.recv(HEAD_BYTES)
        if piece and not client.gathered:
            client.deadline = time.monotonic() + bounds.request_seconds
        client.gathered += piece
        pool = threads_for(client.gathered)
        if pool is None and not piece and b"\r\n\r\n" in client.gathered:
            pool = WORK  # Cut off within its body: it is answered as such.
        if pool is not None:
            self._unwatch(client)
            self.enqueue_req(client, pool)
        elif not piece:
            self._drop(client)
        elif len(client.gathered) > HEAD_BYTES + BODY_BYTES:
            reason = "Request Header Fields Too Large"
            self._refuse(client, 431, reason, f"The headers exceed {HEAD_BYTES} bytes.")

    def _flush(self, client: Client) -> None:
        """Send what the client hasn't read yet, then wait for its next request or end."""
        if not client.sock.flush():
            client.deadline = time.monotonic() + bounds.unread_seconds
            return
        self._unwatch(client)
        if not client.keeps_alive:
            self._end(client)
            return
        client.gathered += client.parser.unreader.take_buffered()
        pool = threads_for(client.gathered)
        if pool is not None:
            self.enqueue_req(client, pool)
        else:
            self._watch(client, self._gather, self.cfg.keepalive)

    def _refuse(self, client: Client, status: int, reason: str, sentence: str) -> None:
        self._unwatch(client)
        client.gathered.clear()
        with suppress(OSError):
            client.sock.send(refusal(status, reason, sentence), socket.MSG_DONTWAIT)
        self._end(client)

    def _end(self, client: Client) -> None:
        """Say that nothing more is sent, and discard for a moment what still comes, so that the
        answer isn't lost (RFC 9112, section 9.6). On the loop: no thread waits for it.

        A client that still has much to send, and reads only when it has sent all, is stopped by
        what isn't taken from it any more, and finds the answer once the connection is closed.
        """
        client.keeps_alive = False
        client.sock.setblocking(False)
        try:
            client.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.nr_conns -= 1
            client.close()
            return
        self._watch(client, self._discard, LINGER_SECONDS)

    def _discard(self, client: Client) -> None:
        piece = client.sock.recv(HEAD_BYTES)
        client.discarded += len(piece)
        if not piece:
            self._drop(client)
        elif client.discarded >= client.most_discarded:
            self.poller.unregister(client.sock)  # until its time is over

    def _drop(self, client: Client) -> None:
        self._unwatch(client)
        self.nr_conns -= 1
        client.close()

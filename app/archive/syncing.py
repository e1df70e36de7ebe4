"""Waiting for the disk on a thread of its own, while more of an upload arrives."""

import logging
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from app.archive.journal import Journal, Mark, State
from app.archive.writing import sync

log = logging.getLogger(__name__)

MOST_AHEAD_BYTES = 128 * 2**20
"""So much of an upload may be written and not on the disk: a power cut costs no more, and the
kernel is left little that others would have to wait for."""


@dataclass
class _Wanted:
    """What is to be on the disk for `mark` to be true there; `then` is done afterwards."""

    mark: Mark
    paths: dict[Path, None] = field(default_factory=dict)
    then: list[Callable[[], None]] = field(default_factory=list)


class Syncing:
    """Adds states to a journal, and has on the disk what they speak of soon afterwards.

    Those that come while it waits for the disk are synced together. Where the disk fails, what was
    not on it is lost: the journal says so, and whoever calls next is told.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._pool = ThreadPoolExecutor(1, "syncing")
        self._changed = threading.Condition()
        self._wanted: _Wanted | None = None
        self._is_at_work = False
        self._failure: BaseException | None = None

    def add(
        self, state: State, paths: Iterable[Path], then: Iterable[Callable[[], None]] = ()
    ) -> None:
        """Add a state, all of which is written. `paths` are the files and folders that changed
        since the last one; `then` is done once all is on the disk.

        Waits where too much isn't there yet. Raises what the disk has failed with.
        """
        with self._changed:
            self._check()
            mark = self._journal.add(state)
            wanted = self._wanted = self._wanted or _Wanted(mark)
            wanted.mark = mark
            wanted.paths.update(dict.fromkeys(paths))
            wanted.then += then
            if not self._is_at_work:
                self._is_at_work = True
                self._journal.lock()
                self._pool.submit(self._work)
            self._changed.wait_for(
                lambda: not self._is_at_work or self._journal.bytes_ahead <= MOST_AHEAD_BYTES
            )
            self._check()

    def wait(self) -> None:
        """Wait until all is on the disk. Raises what the disk has failed with."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_at_work)
            self._check()

    @property
    def is_current(self) -> bool:
        """Whether nobody else has resumed the upload since."""
        with self._changed:
            return self._failure is None and self._journal.is_current

    def end(self) -> None:
        """Wait until all is on the disk, and close the journal."""
        self._pool.shutdown()
        self._journal.close()

    def _check(self) -> None:
        if self._failure:
            raise self._failure

    def _work(self) -> None:
        while wanted := self._taken():
            try:
                self._sync(wanted)
            except BaseException as error:
                self._fail(error)

    def _taken(self) -> _Wanted | None:
        with self._changed:
            wanted, self._wanted = self._wanted, None
            if wanted is None:
                self._is_at_work = False
                self._journal.unlock()
            self._changed.notify_all()
            return wanted

    def _sync(self, wanted: _Wanted) -> None:
        for path in wanted.paths:
            sync(path)
        self._journal.sync()
        with self._changed:
            self._journal.mark_synced(wanted.mark)
        if wanted.then or wanted.mark["is_finished"]:
            # What is done then can't be undone: after a power cut it must be known that it may be.
            self._journal.sync()
        for each in wanted.then:
            each()

    def _fail(self, error: BaseException) -> None:
        # Where nobody calls next, nobody else says so.
        log.warning("What has arrived of an upload couldn't be synced: %s", error)
        with self._changed:
            self._failure, self._wanted = error, None
            with suppress(OSError):
                self._journal.fall_back()

"""The writers of partial uploads: what unpacks their bytes, and stays open between requests."""

import hashlib
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from app.archive.arrival import Arrival
from app.archive.intake import OnFile
from app.archive.journal import NAME as JOURNAL
from app.storage.failures import ChecksumMismatch, UploadTooLong, WrongOffset
from app.storage.partial_folders import PartialUpload
from app.storage.staged import StagedModels

KEPT_OPEN = 4
CHECKSUMS = {"sha1": 20, "sha256": 32}
"""The algorithms that a Checksum may name, with their digests' bytes."""


class Checksum(NamedTuple):
    """One of CHECKSUMS, and the digest of the bytes that are sent."""

    algorithm: str
    digest: bytes


class Arrivals:
    """The Arrivals of partial uploads. The last KEPT_OPEN that were written to stay open: what goes
    on in the process where it was needn't read anything again."""

    def __init__(self, storage: StagedModels) -> None:
        self._storage = storage
        self._open: OrderedDict[str, Arrival] = OrderedDict()
        self._lock = threading.Lock()
        weakref.finalize(self, _close_all, self._open)

    @contextmanager
    def at_end(
        self, upload: PartialUpload, folder: Path, on_file: OnFile | None
    ) -> Iterator[Arrival]:
        """The upload's Arrival: the one that is open in this process, or one that goes on from the
        disk. It stays open unless the block raises. Raises WrongOffset where the disk has less
        than `upload` says."""
        arrival = self._taken(upload.id)
        if arrival is not None and not (arrival.is_current and arrival.offset == upload.offset):
            arrival.close()
            arrival = None
        arrival = arrival or self.begin(upload, folder, on_file)
        try:
            check_offset(upload.offset, arrival.offset)
            yield arrival
        except BaseException:
            arrival.close()
            raise
        if arrival.offset == upload.length:
            arrival.close()
        else:
            self._keep(upload.id, arrival)

    def begin(self, upload: PartialUpload, folder: Path, on_file: OnFile | None = None) -> Arrival:
        """A new Arrival of the upload in `folder`, at the end of what is there. Raises as
        Arrival.resume."""

        def require(size: int) -> None:
            self._storage.require_space(size, "Extracting this archive", but=upload.id)

        arguments = (folder, self._storage.limits, require)
        about: dict[str, Any] = {"filename": upload.filename, "on_file": on_file}
        if (folder / JOURNAL).exists():
            arrival = Arrival.resume(*arguments, **about)
        else:
            arrival = Arrival(*arguments, **about, resumable=True)
        arrival.expect(upload.length)
        return arrival

    def close(self, upload_id: str) -> None:
        """Close the upload's Arrival, if it is open; it goes on from the disk."""
        if arrival := self._taken(upload_id):
            arrival.close()

    def open_ids(self) -> list[str]:
        """The ids of the uploads whose Arrivals are open."""
        with self._lock:
            return list(self._open)

    def close_all(self) -> None:
        """Close all that are open."""
        with self._lock:
            _close_all(self._open)

    def _taken(self, upload_id: str) -> Arrival | None:
        with self._lock:
            return self._open.pop(upload_id, None)

    def _keep(self, upload_id: str, arrival: Arrival) -> None:
        with self._lock:
            self._open[upload_id] = arrival
            surplus = [
                self._open.popitem(last=False)[1] for _ in range(len(self._open) - KEPT_OPEN)
            ]
        for one in surplus:
            one.close()


def _close_all(arrivals: OrderedDict[str, Arrival]) -> None:
    while arrivals:
        arrivals.popitem()[1].close()


def check_offset(at: int, offset: int) -> None:
    """Raise WrongOffset unless the upload, which has `offset` bytes, goes on at `at`."""
    if at != offset:
        raise WrongOffset(f"The upload continues at {offset}, not at {at}.")


def check_length(upload: PartialUpload, count: int) -> None:
    """Raise UploadTooLong where `count` bytes more are more than is still to come."""
    if count > upload.length - upload.offset:
        raise UploadTooLong(
            f"The upload was declared to have {upload.length} bytes, of which"
            f" {upload.offset} are here."
        )


def bounded(blocks: Iterable[bytes], upload: PartialUpload) -> Iterator[bytes]:
    """The blocks, as long as they are no more than is still to come. Raises UploadTooLong."""
    count = 0
    for block in blocks:
        count += len(block)
        check_length(upload, count)
        yield block


def checked(path: Path, blocks: Iterable[bytes], checksum: Checksum) -> Iterator[bytes]:
    """The same blocks, once all of them are seen to be what the checksum says."""
    digest = hashlib.new(checksum.algorithm, usedforsecurity=False)
    path.unlink(missing_ok=True)
    try:
        with path.open("x+b") as file:
            for block in blocks:
                file.write(block)
                digest.update(block)
            if digest.digest() != checksum.digest:
                raise ChecksumMismatch("What arrived isn't what its checksum says. Send it again.")
            file.seek(0)
            yield from iter(lambda: file.read(2**20), b"")
    finally:
        path.unlink(missing_ok=True)


def write_until_it_ends(arrival: Arrival, blocks: Iterable[bytes]) -> Exception | None:
    """Write the blocks, and return what they raised instead of ending, if anything."""
    blocks = iter(blocks)
    while True:
        try:
            block = next(blocks, None)
        except Exception as error:
            return error
        if block is None:
            return None
        arrival.write(block)

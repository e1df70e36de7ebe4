"""An upload on its way in: what its entries hold is unpacked, checked and hashed as bytes pass.

So every byte is written once, in its final form. What stays of a zip itself is a sparse file:
everything but the contents, each record at its place. ZipArchive reads that as it reads a whole zip
and checks what was unpacked against it; until then, nothing that was unpacked has even a name.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePath
from types import TracebackType
from typing import BinaryIO, Self, cast

from app.archive.intake import Arrived, Buffer, CutOff, Intake, OnFile, Waiting
from app.archive.journal import Journal, State
from app.archive.limits import ArchiveError, Limits
from app.archive.reader import Archive, Entry, ZipArchive
from app.archive.syncing import Syncing
from app.archive.tar import is_tar, read_compressed, read_tar
from app.archive.writing import BLOCK, Writer, release
from app.archive.zip_entries import read_zip
from app.archive.zip_records import Followed
from app.formats import magic
from app.formats.files import ModelFile

CHECKPOINT_BYTES = 64 * 2**20
SINGLE_FILES = {".gguf": magic.GGUF, ".safetensors": magic.SAFETENSORS}


class Arrival:
    """Takes an upload's bytes in order, and makes of them in `folder` what `archive` gives.

    The upload is a zip, a tar (plain, gzip or Zstandard), or one GGUF or safetensors file that
    `filename` says it is; `write` refuses anything else by its first bytes, and an archive as soon
    as its bytes tell that it can't be used. `require(size)` is asked before so many bytes are
    unpacked, `on_file` looks at each file while its beginning is there; what they raise, `write`
    raises.

    With `resumable`, the upload survives its process: Arrival.resume goes on where the last
    checkpoint was. Those happen every CHECKPOINT_BYTES and at `checkpoint`. What a checkpoint says
    is on the disk a little later, and the upload survives a power cut as far as that; once it was
    finished, whole.
    """

    def __init__(
        self,
        folder: Path,
        limits: Limits,
        require: Callable[[int], None],
        *,
        filename: str = "",
        on_file: OnFile | None = None,
        resumable: bool = False,
    ) -> None:
        self._start(folder, limits, require, filename, on_file)
        self._raw_file = cast(BinaryIO, self._path.open("xb", buffering=0))
        self._raw = Buffer(self._raw_file)
        self._syncing = Syncing(Journal(folder, begin=True)) if resumable else None

    @classmethod
    def resume(
        cls,
        folder: Path,
        limits: Limits,
        require: Callable[[int], None],
        *,
        filename: str = "",
        on_file: OnFile | None = None,
    ) -> Self:
        """Go on with the resumable upload in `folder`, from `offset` on.

        An entry that was in progress is read again, and written no second time. Nobody else may
        work on it. Raises OSError where there is none, and what `write` raises.
        """
        self = cls.__new__(cls)
        journal = Journal(folder, begin=False)
        self._start(folder, limits, require, filename, on_file)
        self._raw_file = cast(BinaryIO, self._path.open("r+b", buffering=0))
        self._raw = Buffer(self._raw_file)
        self._syncing = Syncing(journal)
        try:
            self._go_on(journal.state)
            if not journal.is_synced:  # by a process that was killed
                state = replace(journal.state, entries=[])
                self._syncing.add(state, [*folder.glob("entry-*"), self._path, folder])
        except BaseException:
            self.close()
            raise
        return self

    def _start(
        self,
        folder: Path,
        limits: Limits,
        require: Callable[[int], None],
        filename: str,
        on_file: OnFile | None,
    ) -> None:
        self._path = folder / "upload"
        self._folder = folder
        self._limits = limits
        self._filename = filename
        self._writer = Writer()
        self._intake = Intake(folder, limits, require, on_file or _seen, self._writer)
        self._is_zip = False
        self._reading = self._read()
        self._failure: BaseException | None = None
        self._saved = State()
        self._saved_entries = self._synced_entries = self._synced_raw = 0
        self._is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """The end of the upload, unless an exception says otherwise."""
        try:
            if error is None:
                self.finish()
        finally:
            self.close()

    def expect(self, size: int | None) -> None:
        """Say how many bytes there will be in all, so that what is cut off is told by its headers;
        of an archive, at most so many."""
        self._raw.most = size

    @property
    def offset(self) -> int:
        """How many bytes have been taken, on the disk or not."""
        return self._raw.at + self._raw.left

    @property
    def is_current(self) -> bool:
        """Whether nobody else has resumed the upload since the last checkpoint, and all that
        had come by then is still here."""
        return self._syncing is not None and self._syncing.is_current

    def write(self, block: bytes) -> None:
        """Take the next bytes. Raises ArchiveError where they show that the upload can't be used,
        OSError where they can't be written."""
        self._raw.add(block)
        self._advance()
        if self._syncing and self._raw.at - self._saved.offset >= CHECKPOINT_BYTES:
            self._save()

    def checkpoint(self) -> int:
        """Wait until all that has come is written, so that it survives this process, and return how
        many bytes that are."""
        if not self._saved.is_finished:
            self._save()
        self._writer.wait()
        return self._saved.offset

    def wait_for_disk(self) -> None:
        """Wait until what the last checkpoint said survives a power cut, too."""
        assert self._syncing is not None
        self._writer.wait()
        self._syncing.wait()

    def finish(self) -> None:
        """Say that these were all bytes. Raises as `write`; a cut-off upload is an ArchiveError.

        Once: an upload that was finished before its process ended stays so.
        """
        if not self._saved.is_finished:
            self._raw.ended = True
            self._advance()
            self._writer.wait()
            self._raw_file.truncate(self._raw.at)
            if self._syncing:
                self._save(is_finished=True)
        if self._syncing:
            self.wait_for_disk()

    def close(self) -> None:
        """Close what is open; what isn't saved is lost."""
        if self._is_closed:
            return
        self._is_closed = True
        self._reading.close()
        self._writer.end()
        self._intake.close()
        if self._syncing:
            self._syncing.end()
        self._raw_file.close()

    def archive(self) -> Archive:
        """The finished upload's files. Raises ArchiveError."""
        entries = self._intake.entries
        if self._is_zip:
            unpacked = {entry.data: found for entry in entries if (found := entry.unpacked)}
            followed = [
                Followed(entry.start, entry.end, entry.compressed_size, entry.size)
                for entry in entries
            ]
            return ZipArchive(self._path, self._limits, unpacked, followed)
        return Archive([Entry(e.name, e.size, found) for e in entries if (found := e.unpacked)])

    def _advance(self) -> None:
        if self._failure:
            raise self._failure
        try:
            next(self._reading, None)
        except BaseException as error:
            self._failure = error
            raise

    def _read(self) -> Waiting:
        if self._intake.boundary:
            beginning = self._beginning()
        else:
            with suppress(CutOff):
                yield from self._raw.need(magic.BEGINNING_BYTES)
            beginning = self._raw.peek(magic.BEGINNING_BYTES)
        spool = self._syncing is not None
        kind = magic.recognise(beginning)
        if kind is magic.ZIP:
            self._is_zip = True
            yield from read_zip(self._intake, self._raw, spool=spool)
        elif kind in (magic.GZIP, magic.ZSTANDARD):
            yield from read_compressed(self._intake, self._raw, kind, spool=spool)
        elif kind is magic.TAR or (kind is None and is_tar(beginning)):
            yield from read_tar(self._intake, self._raw, resumable=True)
        elif kind and kind is SINGLE_FILES.get(PurePath(self._filename).suffix.lower()):
            yield from self._read_file()
        elif not beginning:
            raise ArchiveError("The uploaded file is empty.")
        elif kind:
            advice = kind.advice[:1].upper() + kind.advice[1:]
            raise ArchiveError(f"The uploaded file is {kind.name}. {advice}.")
        else:
            raise ArchiveError(
                "The uploaded file is not a zip archive, nor a tar, a GGUF or a safetensors file."
            )

    def _read_file(self) -> Waiting:
        """Take the upload as the one file that it is."""
        name = self._intake.name(self._filename)
        output = self._intake.begin(name, self._raw.most, 0, is_stored=True)
        while True:
            output.write(self._raw.take(self._raw.left))
            try:
                yield from self._raw.need(1)
            except CutOff:
                break
        size = self._raw.at
        self._intake.done(
            Arrived(name, name, size, end=size, compressed_size=size, file=output.end()), size
        )

    def _save(self, *, is_finished: bool = False) -> None:
        """Have the state saved once all that was asked for before is done."""
        assert self._syncing is not None
        intake, output = self._intake, self._intake.output
        new = intake.entries[self._saved_entries :]
        changed = [
            entry.file.path for entry in intake.entries[self._synced_entries :] if entry.file
        ]
        self._synced_entries = len(intake.entries)
        entries = new if intake.boundary or is_finished else []
        self._saved_entries += len(entries)
        state = State(
            offset=self._raw.keep_rest(),
            boundary=intake.boundary,
            files=intake.files,
            size=output.size if output else None,
            hole=output.data if output and output.is_stored else None,
            is_finished=is_finished,
            entries=entries,
        )
        if output:
            changed.append(output.hashed.path)
        if self._raw.kept > self._synced_raw:
            changed.append(self._path)
            self._synced_raw = self._raw.kept
        if state.files > self._saved.files:
            changed.append(self._folder)
        room = [
            partial(release, self._raw_file.fileno(), entry.data, entry.compressed_size)
            for entry in (entries if self._is_zip else ())
            if entry.compressed_size != entry.size  # of one that is stored, nothing was kept
        ]
        self._writer.submit(self._syncing.add, state, changed, room)
        self._saved = state

    def _go_on(self, state: State) -> None:
        intake, raw = self._intake, self._raw
        for path in self._folder.glob("entry-*"):
            if int(path.name.removeprefix("entry-")) >= state.files:
                path.unlink()
        if state.size is not None:
            os.truncate(self._folder / f"entry-{state.files - 1}", state.size)
        self._raw_file.truncate(state.offset)
        self._is_zip = magic.recognise(self._beginning()) is magic.ZIP
        for entry in state.entries:
            intake.restore(entry)
        self._saved, self._saved_entries = state, len(intake.entries)
        self._synced_entries = self._saved_entries
        for number in range(intake.files, state.files):
            intake.kept[number] = (self._folder / f"entry-{number}").stat().st_size
        raw.at, raw.kept = state.offset if state.is_finished else state.boundary, state.offset
        self._synced_raw = raw.kept
        for block in () if state.is_finished else self._arrived(state):
            raw.add(block)
            self._advance()
        if self.offset != state.offset:
            raise ArchiveError("What has arrived of this upload is damaged. Start it again.")

    def _arrived(self, state: State) -> Iterator[bytes]:
        """The bytes of the upload from the state's boundary to its offset."""
        start = state.boundary
        if state.hole is not None:
            yield from _blocks(self._path, start, state.hole)
            size = state.size or 0
            yield from _blocks(self._folder / f"entry-{state.files - 1}", 0, size)
            start = state.hole + size
        yield from _blocks(self._path, start, state.offset)

    def _beginning(self) -> bytes:
        return os.pread(self._raw_file.fileno(), magic.BEGINNING_BYTES, 0)


def _seen(file: ModelFile) -> bool:
    return True


def _blocks(path: Path, start: int, end: int) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        while start < end and (block := file.read(min(BLOCK, end - start))):
            start += len(block)
            yield block

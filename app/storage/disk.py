"""Steps on a filesystem that are done whole, last, and touch nobody else's file."""

import ctypes
import errno
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from app.archive.writing import sync


def write_whole(path: Path, content: bytes) -> None:
    """Make `path` a new file with that content, whole or not at all.

    It is written under a random name that nothing had before, so whatever `path` was, a hard link
    to another model's file for instance, keeps its content.
    """
    descriptor, temporary = tempfile.mkstemp(prefix=".new-", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    sync(path.parent)


def move(source: Path, target: Path) -> None:
    """Rename a file, also to another filesystem; `target` becomes it in one step."""
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        descriptor, temporary = tempfile.mkstemp(prefix=".new-", dir=target.parent)
        try:
            with open(descriptor, "wb") as copy, source.open("rb") as file:
                shutil.copyfileobj(file, copy, 2**20)
            shutil.copystat(source, temporary)
            sync(Path(temporary))
            os.replace(temporary, target)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        source.unlink()


@contextmanager
def locked(folder: Path, how: int) -> Iterator[None]:
    """Hold the advisory lock (flock) of a folder. Raises BlockingIOError where `how` says LOCK_NB
    and another one holds it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, how)
        try:
            yield
        finally:
            # A process that is being started just now may have a copy of the descriptor.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def exchange(one: Path, other: Path) -> bool:
    """Swap two paths atomically; False where the filesystem can't. Source: renameat2(2)."""
    at_fdcwd, rename_exchange = -100, 2
    libc = ctypes.CDLL(None, use_errno=True)
    if not libc.renameat2(
        at_fdcwd, os.fsencode(one), at_fdcwd, os.fsencode(other), rename_exchange
    ):
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.EXDEV):
        return False
    raise OSError(code, os.strerror(code))


def remove_all(path: Path) -> None:
    """Remove a file, a link, or a folder with all that is in it, as far as that can be done."""
    if path.is_symlink() or not path.is_dir():
        with suppress(OSError):
            path.unlink()
        return
    _let_in(path)
    shutil.rmtree(path, onerror=_remove_again)


def disk_bytes(folder: Path) -> int:
    """What a folder's files take on the disk, in bytes; those that vanish meanwhile count as 0."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512
    return total


def freed_bytes(path: Path) -> int:
    """What removing a file or folder gives back, in bytes: a file that has other names, nothing."""
    found = [path, *(Path(parent, name) for parent, _, names in os.walk(path) for name in names)]
    total = 0
    for each in found:
        with suppress(OSError):
            status = os.lstat(each)
            if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
                total += status.st_blocks * 512
    return total


def _let_in(folder: Path) -> None:
    with suppress(OSError):
        folder.chmod(stat.S_IRWXU)


def _remove_again(function: Callable[..., Any], path: str, _: object) -> None:
    """What rmtree couldn't do, once its owner has made the folder inaccessible."""
    _let_in(Path(path).parent)
    if function in (os.unlink, os.rmdir):
        with suppress(OSError):
            function(path)
    elif not os.path.islink(path):
        _let_in(Path(path))
        shutil.rmtree(path, ignore_errors=True)

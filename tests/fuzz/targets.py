"""What is fuzzed: each target takes any bytes, and may raise nothing but its own error."""

import io
import struct
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from app.archive.arrival import Arrival
from app.archive.headers import header_is_known
from app.archive.limits import ArchiveError, Limits
from app.formats import gguf, safetensors
from tests import test_gguf, test_safetensors, test_tar, zip_defects

LIMITS = Limits(entries=100, ratio_from=2**20)


def archive(content: bytes, filename: str = "m.zip") -> None:
    """An upload, in two pieces, gone on with in between; then read whole."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        folder, cut = Path(name), len(content) // 2
        try:
            arrival = Arrival(
                *(folder, LIMITS, lambda size: None),
                filename=filename,
                on_file=header_is_known,
                resumable=True,
            )
            try:
                arrival.write(content[:cut])
                arrival.checkpoint()
                arrival.close()
                arrival = Arrival.resume(folder, LIMITS, lambda size: None, filename=filename)
                arrival.write(content[cut:])
                arrival.finish()
            finally:
                arrival.close()
            with arrival.archive() as opened:
                for entry in opened.entries:
                    path = (folder / "target" / entry.name).resolve()
                    assert path.is_relative_to((folder / "target").resolve()), entry.name
                    opened.digest(entry)
        except ArchiveError:
            return


def gguf_header(content: bytes) -> None:
    """A GGUF file's header, and what is computed from it."""
    try:
        header = gguf.read_header(io.BytesIO(content), len(content))
    except gguf.GGUFError:
        return
    gguf.block_count([header])
    assert header.quantization
    assert header.parameter_count >= 0
    assert header.kind


def safetensors_header(content: bytes) -> None:
    """A safetensors file's header."""
    try:
        header = safetensors.read_header(io.BytesIO(content), len(content))
    except safetensors.SafetensorsError:
        return
    assert header.parameter_count >= 0


def _zips() -> list[bytes]:
    stored = zip_defects.good("m/a.txt", "m/b.gguf", method=zipfile.ZIP_STORED)
    return [build() for build, _ in zip_defects.DEFECTS.values()] + [stored]


TARGETS: dict[str, tuple[Callable[[bytes], None], list[bytes]]] = {
    "zip": (archive, [seed for seed in _zips() if len(seed) < 5000]),
    "tar": (
        archive,
        [content for content, _ in test_tar.DEFECTS.values()]
        + [test_tar.tarred({"m/a": b"x" * 700}, kind) for kind in ("", "gz")],
    ),
    "gguf": (
        gguf_header,
        [test_gguf.WHOLE, *(data for data, _ in test_gguf.DEFECTS.values())],
    ),
    "safetensors": (
        safetensors_header,
        [data for data, _ in test_safetensors.DEFECTS.values() if len(data) < 5000]
        + [struct.pack("<Q", 2) + b"{}"],
    ),
}

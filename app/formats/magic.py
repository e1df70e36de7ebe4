"""What a file is, by its first bytes: one table for whatever is read here.

Sources: each format's own specification (PKWARE's APPNOTE, RFC 1952, RFC 8878, POSIX ustar, 7-Zip,
RAR, xz, bzip2 and LZ4, ggml's docs/gguf.md, Git LFS's docs/spec.md, Python's pickle protocol).
"""

from typing import NamedTuple

BEGINNING_BYTES = 512


class Kind(NamedTuple):
    """A kind of file: what it is called in a sentence, and what to do with one that can't be used
    as it is."""

    name: str
    advice: str


_AS_ARCHIVE = "send the files in a zip or a tar (.tar, .tar.gz, .tar.zst)"
_AGAIN = "convert the model again, with a llama.cpp of today"
_PICKLE = "save the model as safetensors, or convert it to GGUF"

GGUF = Kind("a GGUF file", "send it by itself, as <model>.gguf, or in a zip")
SAFETENSORS = Kind("a safetensors file", "send it with its config in a zip")
ZIP = Kind("a zip or a PyTorch file", "convert the model to GGUF")
GZIP = Kind("a gzip file", "unpack it first")
ZSTANDARD = Kind("a Zstandard file", "unpack it first")
TAR = Kind("a tar archive", "unpack it first")
OLD_GGML = Kind("a GGML file older than GGUF", _AGAIN)
HTML = Kind("an HTML page", "the download went wrong")
XML = Kind("an XML page", "the download went wrong")

_BEGINNINGS = (
    (b"GGUF", GGUF),
    (b"PK\x03\x04", ZIP),
    (b"PK\x05\x06", ZIP),
    (b"PK\x07\x08", ZIP),
    (b"PK00PK\x03\x04", ZIP),
    (b"\x1f\x8b", GZIP),
    (b"\x28\xb5\x2f\xfd", ZSTANDARD),
    (b"7z\xbc\xaf\x27\x1c", Kind("a 7-Zip file", _AS_ARCHIVE)),
    (b"Rar!\x1a\x07", Kind("a RAR file", _AS_ARCHIVE)),
    (b"\xfd7zXZ\x00", Kind("an xz file", _AS_ARCHIVE)),
    (b"BZh", Kind("a bzip2 file", _AS_ARCHIVE)),
    (b"\x04\x22\x4d\x18", Kind("an LZ4 file", _AS_ARCHIVE)),
    (b"version https://git-lfs", Kind("a Git LFS pointer", "run `git lfs pull` and zip again")),
    *((bytes((0x80, protocol)), Kind("a Python pickle", _PICKLE)) for protocol in range(2, 6)),
    (b"\x93NUMPY", Kind("a NumPy array", _PICKLE)),
    (b"\x89HDF\r\n\x1a\n", Kind("an HDF5 file", _PICKLE)),
    *((old, OLD_GGML) for old in (b"lmgg", b"tjgg", b"fmgg", b"algg")),
)  # fmt: skip
_SAFETENSORS_HEADER = 100_000_000


def recognise(beginning: bytes) -> Kind | None:
    """What begins with these bytes, of which BEGINNING_BYTES are enough; None where that isn't
    known. A safetensors file is told by a plausible length before its JSON."""
    for start, kind in _BEGINNINGS:
        if beginning.startswith(start):
            return kind
    if beginning[257:262] == b"ustar":
        return TAR
    if beginning[8:9] == b"{" and int.from_bytes(beginning[:8], "little") <= _SAFETENSORS_HEADER:
        return SAFETENSORS
    text = beginning.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return HTML
    return XML if text.startswith(b"<") else None

"""Zip files that nobody should take, one for each defect, and what is said of them.

Each is a good zip of zipfile's with some bytes changed: the standard library writes none of these.
"""

import gzip
import io
import stat
import struct
import zlib
from collections.abc import Callable
from zipfile import ZIP_BZIP2, ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

END, CENTRAL, LOCAL = b"PK\5\6", b"PK\1\2", b"PK\3\4"
TEXT = b"hello, this is a text that is long enough " * 4


def good(*names: str, method: int = ZIP_DEFLATED, content: bytes = TEXT) -> bytes:
    """A zip with a file of each name."""
    buffer = io.BytesIO()
    with ZipFile(buffer, "w", method) as archive:
        for name in names or ("a.txt",):
            archive.writestr(ZipInfo(name), content, method)
    return buffer.getvalue()


def with_mode(mode: int, name: str = "a.txt") -> bytes:
    """A zip whose one entry has that Unix mode."""
    entry = ZipInfo(name)
    entry.create_system = 3
    entry.external_attr = mode << 16
    buffer = io.BytesIO()
    with ZipFile(buffer, "w") as archive:
        archive.writestr(entry, b"/etc/passwd")
    return buffer.getvalue()


def patched(data: bytes, mark: bytes, offset: int, form: str, *values: int) -> bytes:
    """The zip with other values at `offset` from the last `mark`."""
    changed = bytearray(data)
    struct.pack_into(f"<{form}", changed, changed.rindex(mark) + offset, *values)
    return bytes(changed)


def central(offset: int, form: str, *values: int, data: bytes | None = None) -> bytes:
    return patched(data or good(), CENTRAL, offset, form, *values)


def local(offset: int, form: str, *values: int, data: bytes | None = None) -> bytes:
    return patched(data or good(), LOCAL, offset, form, *values)


def both(form: str, *values: int, in_central: int, in_local: int, data: bytes) -> bytes:
    return local(in_local, form, *values, data=central(in_central, form, *values, data=data))


def renamed(data: bytes, old: bytes, new: bytes) -> bytes:
    """The zip with `old` names replaced by `new` ones of the same length, everywhere."""
    assert len(old) == len(new)
    return data.replace(old, new)


def inserted(data: bytes, where: str, extra: bytes = b"??") -> bytes:
    """The zip with other bytes in between, and every offset that lies behind them set right."""
    marks = {"front": LOCAL, "between": LOCAL, "behind": CENTRAL}
    at = data.index(marks[where], 4 if where == "between" else 0)
    end = data.rindex(END)
    changed = bytearray(data)
    offset = struct.unpack_from("<L", changed, end + 16)[0]
    struct.pack_into("<L", changed, end + 16, offset + len(extra))
    position = data.find(CENTRAL)
    while 0 <= position < end:
        start = struct.unpack_from("<L", changed, position + 42)[0]
        if start >= at and where != "behind":
            struct.pack_into("<L", changed, position + 42, start + len(extra))
        position = data.find(CENTRAL, position + 4)
    return bytes(changed[:at] + extra + changed[at:])


def zip64_end(data: bytes, *, at: int | None = None, entries: int = 1, drop: bool = False) -> bytes:
    """The zip with a zip64 end record and locator before its end record."""
    end = data.rindex(END)
    size, offset = struct.unpack_from("<LL", data, end + 12)
    record = struct.pack(
        "<4sQHHLLQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, entries, entries, size, offset
    )
    where = end if at is None else at
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, where, 1)
    return data[:end] + (b"" if drop else record) + locator + data[end:]


def overlapping() -> bytes:
    """Two entries in the central directory with one place in the file."""
    data = bytearray(good("a.txt", "b.txt"))
    first = data.index(CENTRAL)
    second = data.index(CENTRAL, first + 4)
    data[second + 46 : second + 51] = b"a.txt"
    struct.pack_into("<L", data, second + 42, 0)
    return bytes(data)


def made(
    *,
    raw: bytes = b"a.txt",
    local_extra: bytes = b"",
    extra: bytes = b"",
    size: int = len(TEXT),
    end64: bytes = b"",
) -> bytes:
    """A zip by hand, with one stored file; `size` as its 32-bit fields have it. `end64` stands at
    the end of a zip64 end record."""
    fields = (20, 0, 0, 0, 0x21, zlib.crc32(TEXT), len(TEXT), size, len(raw))
    head = struct.pack("<4s5HL2L2H", LOCAL, *fields, len(local_extra)) + raw + local_extra
    directory = (
        struct.pack("<4s6H3L5H2L", CENTRAL, 20, *fields, len(extra), 0, 0, 0, 0, 0) + raw + extra
    )
    start, size = len(head) + len(TEXT), len(directory)
    records = b""
    if end64:
        records = struct.pack(
            "<4sQHHLLQQQQ", b"PK\6\6", 44 + len(end64), 45, 45, 0, 0, 1, 1, size, start
        )
        records += end64 + struct.pack("<4sLQL", b"PK\6\7", 0, start + size, 1)
    end = struct.pack("<4s4H2LH", END, 0, 0, 1, 1, size, start, 0)
    return head + TEXT + directory + records + end


def field(number: int, content: bytes) -> bytes:
    """An extra field."""
    return struct.pack("<HH", number, len(content)) + content


def unicode_path(raw: bytes, name: str) -> bytes:
    """Info-ZIP's extra field that says what `raw` is called."""
    return field(0x7075, b"\1" + struct.pack("<L", zlib.crc32(raw)) + name.encode())


def on_both(extra: bytes, **others: int) -> bytes:
    return made(extra=extra, local_extra=extra, **others)  # type: ignore[arg-type]


AGAIN = "Zip the files again."
DAMAGED = "a.txt has damaged extra fields in the archive. Zip it again."
RAW_DAMAGED = "b'a.txt' has damaged extra fields in the archive. Zip it again."
DEFECTS: dict[str, tuple[Callable[[], bytes], str]] = {
    # names
    "absolute path": (
        lambda: renamed(good("xetc/a"), b"xetc/a", b"/etc/a"),
        "The name '/etc/a' in the archive is an absolute path.",
    ),
    "drive letter": (
        lambda: renamed(good("xx/a"), b"xx/a", b"C:/a"),
        "The name 'C:/a' in the archive is an absolute path.",
    ),
    "dots": (
        lambda: renamed(good("a/xx/b"), b"a/xx/b", b"a/../b"),
        "The name 'a/../b' in the archive points out of its folder.",
    ),
    "one dot": (
        lambda: renamed(good("a/x/b"), b"a/x/b", b"a/./b"),
        "The name 'a/./b' in the archive has an empty part.",
    ),
    "an empty part": (
        lambda: renamed(good("a/x/b"), b"a/x/b", b"a///b"),
        "The name 'a///b' in the archive has an empty part.",
    ),
    "backslash beside a slash": (
        lambda: renamed(good("a/b", "a/c"), b"a/c", b"a\\c"),
        "The name 'a\\\\c' in the archive mixes \\ and / with the others; zip with a tool that"
        " writes /.",
    ),
    "dots between backslashes": (
        lambda: renamed(good("a/xx/b"), b"a/xx/b", b"a\\..\\b"),
        "The name 'a/../b' in the archive points out of its folder.",
    ),
    "drive letter and backslash": (
        lambda: renamed(good("xx/a"), b"xx/a", b"C:\\a"),
        "The name 'C:/a' in the archive is an absolute path.",
    ),
    "NUL": (
        lambda: renamed(good("axb"), b"axb", b"a\0b"),
        "The name 'a\\x00b' in the archive has a control character.",
    ),
    "line end": (
        lambda: renamed(good("axb"), b"axb", b"a\nb"),
        "The name 'a\\nb' in the archive has a control character.",
    ),
    "a line separator": (
        lambda: good("a\u2028b"),
        "The name 'a\\u2028b' in the archive has a character that hides or turns what stands around"
        " it.",
    ),
    "right to left": (
        lambda: good("a\u202efugg.exe"),
        "The name 'a\\u202efugg.exe' in the archive has a character that hides or turns what stands"
        " around it.",
    ),
    **{
        f"the service's own: {name!a}": (
            lambda name=name: good(f"m/{name}"),  # type: ignore[misc]
            f"The name {f'm/{name}'!r} in the archive is one of the service's own; zip the model's"
            " files without it.",
        )
        for name in (
            *(".model-handler.json", ".model-handler.json.4711", ".Model-Handler/staging/x"),
            *(".merged/model.gguf", ".shared", ".MERGED", "a/.merged.1"),
            *("\uff0emodel-handler.json", ".model\u00ad-handler", ".mer\u200bged", "\u2024shared"),
        )
    },
    "a long name": (
        lambda: good("x" * 256),
        f"The name '{'x' * 40}...' in the archive is longer than 255 bytes.",
    ),
    "deep": (
        lambda: good("x/" * 32 + "y"),
        f"The name '{'x/' * 32}y' in the archive is more than 32 folders deep.",
    ),
    "broken UTF-8": (
        lambda: renamed(good("ü.txt"), "ü".encode(), b"\xff\xfe"),
        "b'\\xff\\xfe.txt' in the archive isn't a name in UTF-8.",
    ),
    "a name twice": (
        lambda: renamed(good("a.txt", "b.txt"), b"b.txt", b"a.txt"),
        "'a.txt' is in the archive twice. Zip it again.",
    ),
    "only case differs": (
        lambda: good("a.txt", "A.txt"),
        "'A.txt' differs from another name of the archive only in case or in how its letters are"
        " coded. Rename one of them.",
    ),
    "only the coding differs": (
        lambda: good("\u00e9.txt", "e\u0301.txt"),
        "'e\u0301.txt' differs from another name of the archive only in case or in how its letters"
        " are coded. Rename one of them.",
    ),
    "folders that differ in case": (
        lambda: good("a/x", "A/y"),
        "'A/y' differs from another name of the archive only in case or in how its letters are"
        " coded. Rename one of them.",
    ),
    "a file and a folder": (
        lambda: good("a", "a/b"),
        "'a/b' is a file and a folder at once. Rename one of them.",
    ),
    # kinds
    "symlink": (
        lambda: with_mode(stat.S_IFLNK | 0o777),
        "'a.txt' is a symbolic link. Zip only files and folders.",
    ),
    "device": (
        lambda: with_mode(stat.S_IFCHR | 0o666),
        "'a.txt' is a device or another special file. Zip only files and folders.",
    ),
    "setuid": (
        lambda: with_mode(stat.S_IFREG | 0o4755),
        "'a.txt' has a setuid or setgid bit. Zip it without.",
    ),
    "a folder named like a file": (
        lambda: with_mode(stat.S_IFDIR | 0o755),
        "'a.txt' is a file and a folder at once. Zip it again.",
    ),
    "a folder with content": (
        lambda: with_mode(stat.S_IFDIR | 0o755, "a/"),
        "'a/' is a folder with content. Zip it again.",
    ),
    # sizes
    "stored, more than it says": (
        lambda: both("L", 10, in_central=24, in_local=22, data=good(method=ZIP_STORED)),
        "'a.txt' has two sizes in the archive. Zip it again.",
    ),
    "deflated, more than it says": (
        lambda: both("L", 10, in_central=24, in_local=22, data=good()),
        "'a.txt' is larger than the archive says. Zip it again.",
    ),
    "deflated, less than it says": (
        lambda: both("L", 9999, in_central=24, in_local=22, data=good()),
        "'a.txt' is smaller than the archive says. Zip it again.",
    ),
    "ratio bomb": (
        lambda: both("L", 2**31, in_central=24, in_local=22, data=good(content=bytes(2**20))),
        "'a.txt' claims 2147483648 bytes in 1033 compressed ones, which no model file does.",
    ),
    "a bomb of many entries": (
        lambda: good(*(f"{number}.bin" for number in range(5)), content=bytes(16 * 2**20)),
        "The archive claims 83886080 bytes in 81550 compressed ones, which no model file does.",
    ),
    "wrong checksum": (
        lambda: both("L", 1, in_central=16, in_local=14, data=good()),
        "'a.txt' is damaged: its checksum doesn't agree. Zip and upload it again.",
    ),
    "damaged data": (
        lambda: good().replace(good()[35:45], bytes(10)),
        "'a.txt' is damaged. Zip and upload it again.",
    ),
    "data after the deflated end": (
        lambda: inserted(
            both(
                "L",
                len(good()[35 : good().index(CENTRAL)]) + 2,
                in_central=20,
                in_local=18,
                data=good(),
            ),
            "behind",
        ),
        "'a.txt' has other data after its end.",
    ),
    # structure
    "overlapping": (overlapping, "'a.txt' overlaps another entry of the archive."),
    "names disagree": (
        lambda: good().replace(b"a.txt", b"b.txt", 1),
        f"'a.txt' is described in two ways by the archive. {AGAIN}",
    ),
    "methods disagree": (
        lambda: local(8, "H", 0),
        f"'a.txt' is described in two ways by the archive. {AGAIN}",
    ),
    "flags disagree": (
        lambda: local(6, "H", 2048),
        f"'a.txt' is described in two ways by the archive. {AGAIN}",
    ),
    "checksums disagree": (
        lambda: local(14, "L", 7),
        f"'a.txt' is described in two ways by the archive. {AGAIN}",
    ),
    "sizes disagree": (
        lambda: local(22, "L", 7),
        f"'a.txt' is described in two ways by the archive. {AGAIN}",
    ),
    "no local header": (
        lambda: local(0, "L", 7),
        f"'a.txt' is described in two ways by the archive. {AGAIN}",
    ),
    "a descriptor that isn't there": (
        lambda: both("H", 8, in_central=8, in_local=6, data=good()),
        "'a.txt' has no data descriptor that agrees with it. Zip it again.",
    ),
    "data before": (
        lambda: inserted(good(), "front"),
        f"The archive has other data before its first entry. {AGAIN}",
    ),
    "data before, offsets unchanged": (
        lambda: b"??" + good(),
        "The archive's central directory isn't where its end record says: there is other data"
        f" before or after it. {AGAIN}",
    ),
    "data between": (
        lambda: inserted(good("a.txt", "b.txt"), "between"),
        f"The archive has other data between its entries. {AGAIN}",
    ),
    "data behind the entries": (
        lambda: inserted(good(), "behind"),
        "The archive has other data after its last entry. Zip it again.",
    ),
    "data after": (
        lambda: good() + b"??",
        f"The archive has other data after its end. {AGAIN}",
    ),
    "a second end record": (
        lambda: patched(good(), END, 20, "H", 30) + END + bytes(26),
        "The archive has a second end record in its comment.",
    ),
    "fewer entries than said": (
        lambda: patched(good(), END, 8, "HH", 2, 2),
        "The archive's central directory lacks entries. Zip it again.",
    ),
    "more entries than said": (
        lambda: patched(good("a.txt", "b.txt"), END, 8, "HH", 1, 1),
        "The archive's central directory has more than its entries.",
    ),
    "several disks": (
        lambda: patched(good(), END, 4, "HH", 1, 1),
        "The archive is one part of several. Zip the files as one archive.",
    ),
    "an entry on another disk": (
        lambda: central(34, "H", 1),
        "'a.txt' is in another part of the archive.",
    ),
    "an entry beyond the file": (
        lambda: central(42, "L", 2**31),
        "The archive is cut off, or points out of itself. Upload it again.",
    ),
    "cut off": (
        lambda: good()[:-30],
        "The archive is cut off: its end is missing. Upload it again.",
    ),
    # zip64
    "zip64 wanted, not there": (
        lambda: patched(good(), END, 16, "L", 2**32 - 1),
        "The archive's zip64 end record is missing. Zip it again.",
    ),
    "zip64 locator without record": (
        lambda: zip64_end(good(), drop=True),
        "The archive's zip64 locator points to a wrong place.",
    ),
    "zip64 locator to elsewhere": (
        lambda: zip64_end(good(), at=0),
        "The archive's zip64 locator points to a wrong place.",
    ),
    "zip64 record that disagrees": (
        lambda: zip64_end(good(), entries=2),
        "The archive's two end records disagree. Zip it again.",
    ),
    "zip64 sizes missing": (
        lambda: central(24, "L", 2**32 - 1),
        f"'a.txt' lacks its zip64 sizes. {AGAIN}",
    ),
    # what Warehouse refuses, because readers differ
    "extra3byte": (lambda: on_both(b"   "), RAW_DAMAGED),
    "non_ascii_original_name": (
        lambda: made(raw=b"\x82", extra=unicode_path(b"\x82", "\u00e9")),
        f"'\u00e9' is described in two ways by the archive. {AGAIN}",
    ),
    "a Unicode path in the local header alone": (
        lambda: made(local_extra=unicode_path(b"a.txt", "b.txt")),
        f"'a.txt' is described in two ways by the archive. {AGAIN}",
    ),
    "second_unicode_extra": (
        lambda: on_both(unicode_path(b"a.txt", "b.txt") + unicode_path(b"a.txt", "c.txt")),
        RAW_DAMAGED,
    ),
    "unicode_extra_chain": (
        lambda: on_both(unicode_path(b"a.txt", "b.txt") + unicode_path(b"b.txt", "c.txt")),
        RAW_DAMAGED,
    ),
    "zip64_eocd_confusion": (
        lambda: made(end64=b"X" * 200 + good()),
        "The archive has other data in its zip64 end record. Zip it again.",
    ),
    "zip64_eocd_extensible_data": (
        lambda: made(end64=b"\0\0\x10\0zzzz"),
        "The archive has other data in its zip64 end record. Zip it again.",
    ),
    "zip64_extra_too_long": (
        lambda: on_both(field(1, struct.pack("<QQ", len(TEXT), 0)), size=2**32 - 1),
        "'a.txt' has two sizes in the archive. Zip it again.",
    ),
    "zip64_extra_too_short": (
        lambda: on_both(field(1, b"1234"), size=2**32 - 1),
        f"'a.txt' lacks its zip64 sizes. {AGAIN}",
    ),
    "a second zip64 extra": (
        lambda: on_both(field(1, bytes(8)) + field(1, bytes(8))),
        RAW_DAMAGED,
    ),
    # content
    "encrypted": (
        lambda: both("H", 1, in_central=8, in_local=6, data=good()),
        "'a.txt' is encrypted. Zip it without a password.",
    ),
    "bzip2": (
        lambda: good(method=ZIP_BZIP2),
        "'a.txt' is compressed with bzip2, which isn't supported. Zip with deflate or without"
        " compression, for example with `zip -0`.",
    ),
    "no entries": (lambda: b"PK\5\6" + bytes(18), "The archive holds no files."),
    "only folders": (lambda: good("a/", content=b""), "The archive holds no files."),
    "only junk": (
        lambda: good("__MACOSX/a", ".DS_Store", "b/Thumbs.db"),
        "The archive holds no files.",
    ),
    # no zip at all
    "empty file": (lambda: b"", "The uploaded file is empty."),
}
OTHER_KINDS: dict[str, tuple[bytes, str]] = {
    "text": (
        b"hello",
        "The uploaded file is not a zip archive, nor a tar, a GGUF or a safetensors file.",
    ),
    "7-Zip": (
        b"7z\xbc\xaf\x27\x1c" + bytes(30),
        "The uploaded file is a 7-Zip file. Send the files in a zip or a tar (.tar, .tar.gz,"
        " .tar.zst).",
    ),
    "GGUF": (
        b"GGUF" + bytes(30),
        "The uploaded file is a GGUF file. Send it by itself, as <model>.gguf, or in a zip.",
    ),
    "safetensors": (
        b"\x10" + bytes(7) + b'{"a":' + bytes(30),
        "The uploaded file is a safetensors file. Send it with its config in a zip.",
    ),
    "HTML": (
        b"\n<!DOCTYPE html><html></html>",
        "The uploaded file is an HTML page. The download went wrong.",
    ),
    "XML": (b"<Error>NoSuchKey", "The uploaded file is an XML page. The download went wrong."),
    "Git LFS": (
        b"version https://git-lfs.github.com/spec/v1\n",
        "The uploaded file is a Git LFS pointer. Run `git lfs pull` and zip again.",
    ),
    "pickle": (
        b"\x80\x02}q\x00",
        "The uploaded file is a Python pickle. Save the model as safetensors, or convert it to"
        " GGUF.",
    ),
    "PyTorch": (
        good("archive/data.pkl", "archive/version", method=ZIP_STORED),
        "The uploaded file is a PyTorch file. Save the model as safetensors, or convert it to"
        " GGUF.",
    ),
    **{
        name: (
            start + bytes(600),
            f"The uploaded file is {what} file. Send the files in a zip or a tar (.tar, .tar.gz,"
            " .tar.zst).",
        )
        for name, start, what in (
            ("RAR", b"Rar!\x1a\x07\x01\0", "a RAR"),
            ("xz", b"\xfd7zXZ\0", "an xz"),
            ("bzip2", b"BZh91AY&SY", "a bzip2"),
            ("LZ4", b"\x04\x22\x4d\x18", "an LZ4"),
        )
    },
    "gzip of something else": (
        gzip.compress(b"GGUF" + bytes(600)),
        "What is compressed in the uploaded file is a GGUF file, not a tar. Unpack it first.",
    ),
}

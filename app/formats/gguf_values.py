"""The values of a GGUF file's header, read forward within bounds."""

import struct
from typing import BinaryIO

HEADER_BYTES = 256 * 2**20
BLOCK = 2**18
ITEMS = 2_000_000
KEPT_TEXT = 2**16
KEPT_TEXTS = 4 * 2**20
NAME_BYTES = 256

SPECIAL_TOKENS = frozenset(
    (
        "<|im_start|>",
        "<|im_end|>",
        "<|im_sep|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
        "<start_of_turn>",
        "<end_of_turn>",
        "[INST]",
        "[/INST]",
        "<|user|>",
        "<|assistant|>",
        "<|system|>",
        "<|end|>",
    )
)

_LONGEST_TOKEN = max(map(len, SPECIAL_TOKENS))


class GGUFError(ValueError):
    """The file can't be used; the message is a sentence that follows the file's name."""


class CutOff(GGUFError):
    """The file ends too early: within its header, or before the end of `tensor`, at byte `end`."""

    def __init__(self, message: str, tensor: str | None = None, end: int = 0) -> None:
        super().__init__(message)
        self.tensor = tensor
        self.end = end


class Truncated(GGUFError):
    """The stream ended within the header; with more of the file, it might be right."""


class GgufStream:
    """Reads little-endian values forward through a stream, a block at a time."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self.size = size
        self._stream = stream
        self._buffer = b""
        self._at = 0
        self._before = 0
        self._kept = 0
        self._items = 0

    @property
    def position(self) -> int:
        """Bytes from the start of the file."""
        return self._before + self._at

    def take(self, count: int) -> bytes:
        """The next `count` bytes, which must be few."""
        self._require(count)
        while len(self._buffer) - self._at < count:
            self._fill()
        self._at += count
        return self._buffer[self._at - count : self._at]

    def back(self, count: int) -> None:
        """Give back the last `count` bytes that were taken at once."""
        self._at -= count

    def skip(self, count: int) -> None:
        """Pass over `count` bytes."""
        self._require(count)
        while len(self._buffer) - self._at < count:
            count -= len(self._buffer) - self._at
            self._at = len(self._buffer)
            self._fill()
        self._at += count

    def number(self, code: str) -> int:
        """An unsigned integer of struct's type `code`."""
        value: int = struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))[0]
        return value

    def scalar(self, code: str) -> int | float | bool:
        """A number or a truth value of struct's type `code`; a float may be infinite or NaN."""
        value: int | float | bool
        value = struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))[0]
        return value

    def name(self, what: str) -> str:
        """A short text that must be UTF-8: a key or a tensor's name."""
        length = self.number("Q")
        if length > NAME_BYTES:
            raise GGUFError(f"has a {what} of {length} bytes")
        try:
            text = self.take(length).decode()
        except UnicodeDecodeError:
            raise GGUFError(f"has a {what} that isn't UTF-8") from None
        if not text.isprintable():
            raise GGUFError(f"has a {what} that can't be printed: {text!a:.80}")
        return text

    def text(self) -> str:
        """A text of any length, cut where it or all of them are too long to keep."""
        length = self.number("Q")
        kept = min(length, KEPT_TEXT, KEPT_TEXTS - self._kept)
        self._require(length)
        value = self.take(kept).decode(errors="replace")
        self.skip(length - kept)
        self._kept += kept
        return value

    def skip_strings(self, count: int, wanted: dict[str, int] | None) -> None:
        """Pass over `count` texts; those of SPECIAL_TOKENS go into `wanted`, with their number."""
        self._items += count
        if self._items > ITEMS:
            raise GGUFError(f"has more than {ITEMS} texts in its metadata")
        self._require(8 * count)
        unpack, size = struct.Struct("<Q").unpack_from, 8
        for number in range(count):
            at = self._at
            if at + size > len(self._buffer):
                self.take(size)
                at = self._at - size
            length: int = unpack(self._buffer, at)[0]
            end = at + size + length
            if end > len(self._buffer):
                self._at = at + size
                if length <= _LONGEST_TOKEN:
                    token = self.take(length)
                else:
                    self.skip(length)
                    continue
            else:
                self._at = end
                if wanted is None or length > _LONGEST_TOKEN:
                    continue
                token = self._buffer[at + size : end]
            if wanted is not None and (text := token.decode(errors="replace")) in SPECIAL_TOKENS:
                wanted.setdefault(text, number)

    def _require(self, count: int) -> None:
        if count > self.size - self.position:
            raise CutOff("is cut off within its header")
        if self.position + count > HEADER_BYTES:
            raise GGUFError(f"has a header of more than {HEADER_BYTES} bytes")

    def _fill(self) -> None:
        block = self._stream.read(BLOCK)
        if not block:
            raise Truncated("is cut off within its header")
        self._before += self._at
        self._buffer = self._buffer[self._at :] + block
        self._at = 0

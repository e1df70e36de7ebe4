"""A client of the service's resumable uploads (tus 1.0.0, https://tus.io/protocols)."""

import base64
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import requests

from app.commands.payload import Payload

FIRST_CHUNK_BYTES = 2**20
CHUNK_BYTES = 64 * 2**20
TIMEOUT_SECONDS = (10, 300)
MOST_FAILURES = 8
METADATA_CHARACTERS = 200
FIRST_WAIT_SECONDS = 0.25
TRY_AGAIN = (409, 423, 502, 503, 504)
_TUS = {"Tus-Resumable": "1.0.0"}


class Refused(Exception):
    """The service said no; `hint` is what it says may help, `line` how it said it."""

    def __init__(self, error: str, hint: str | None = None, line: str | None = None) -> None:
        super().__init__(error)
        self.hint = hint
        self.line = line


def check_answer(answer: requests.Response) -> None:
    """Raise Refused with the service's own sentence unless it said yes."""
    if answer.ok:
        return
    try:
        line = answer.text.splitlines()[-1]
        details = json.loads(line)["message"]["details"]
        raise Refused(details["error"], details.get("hint"), line)
    except (ValueError, LookupError, TypeError):
        raise Refused(f"The server answered {answer.status_code} {answer.reason}.") from None


class Sender:
    """Sends payloads to the service at the URL `server`; goes on by itself after lost connections,
    and where an earlier run stopped."""

    def __init__(self, session: requests.Session, server: str) -> None:
        self._session = session
        self._uploads = f"{server}/uploads/"

    def send(self, payload: Payload, fields: Mapping[str, Any], at: Callable[[int], None]) -> str:
        """Send all of it, and return the upload's id. `at` is told how many bytes are there.

        `fields` are those of the deploy to come: the service looks by them at the first bytes.
        Raises Refused, or requests.RequestException after MOST_FAILURES failures without a byte
        between them.
        """
        failures, furthest = 0, 0
        while True:
            try:
                upload, start = self._begin(payload, fields)
                at(start)
                for offset in chain([start], self._chunks(payload, upload, start, at)):
                    if offset > furthest:
                        failures, furthest = 0, offset
                return upload
            except (requests.ConnectionError, requests.Timeout, _Again):
                failures += 1
                if failures > MOST_FAILURES:
                    raise
                time.sleep(min(30, FIRST_WAIT_SECONDS * 2 ** (failures - 1)))

    def forget(self, payload: Payload) -> None:
        """Forget the upload of a payload that is a model now."""
        with suppress(OSError):
            self._memory(payload).unlink()

    def _begin(self, payload: Payload, fields: Mapping[str, Any]) -> tuple[str, int]:
        """Id and offset of the remembered upload, or of a new one."""
        memory = self._memory(payload)
        with suppress(OSError):
            upload = memory.read_text()
            answer = self._session.head(
                self._uploads + upload, headers=_TUS, timeout=TIMEOUT_SECONDS
            )
            if answer.ok:
                return upload, int(answer.headers["Upload-Offset"])
        headers = {
            "Upload-Length": str(payload.size),
            "Upload-Metadata": _metadata(payload.name, fields),
        }
        answer = self._session.post(self._uploads, headers=_TUS | headers, timeout=TIMEOUT_SECONDS)
        if answer.headers.get("Content-Type") == "application/x-ndjson":
            check_answer(answer)  # The service's own no, not that of a proxy before it.
        _check(answer)
        upload = answer.headers["Location"].rstrip("/").rpartition("/")[2]
        with suppress(OSError):
            memory.parent.mkdir(parents=True, exist_ok=True)
            memory.write_text(upload)
        return upload, 0

    def _chunks(
        self, payload: Payload, upload: str, offset: int, at: Callable[[int], None]
    ) -> Iterator[int]:
        """Send what is left, and give the offset after each chunk. The first chunks are small: what
        they tell, the service says before the next."""
        left, most = _Blocks(payload.blocks(offset)), FIRST_CHUNK_BYTES
        while offset < payload.size:
            chunk = _Chunk(left, min(most, payload.size - offset), offset, at)
            most = min(2 * most, CHUNK_BYTES)
            kind = {"Content-Type": "application/offset+octet-stream"}
            answer = self._session.patch(
                self._uploads + upload,
                data=chunk,
                headers=_TUS | kind | {"Upload-Offset": str(offset)},
                timeout=TIMEOUT_SECONDS,
            )
            _check(answer)
            offset = int(answer.headers["Upload-Offset"])
            yield offset

    def _memory(self, payload: Payload) -> Path:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        key = f"{self._uploads}\n{payload.name}\n{payload.size}\n{payload.identity}"
        return Path(cache) / "model-handler" / hashlib.sha256(key.encode()).hexdigest()


def _metadata(filename: str, fields: Mapping[str, Any]) -> str:
    """The file's name and the fields that are short, as a value of Upload-Metadata."""
    short = {
        key: text for key, value in fields.items() if len(text := str(value)) <= METADATA_CHARACTERS
    }
    return ",".join(
        f"{key} {base64.b64encode(value.encode()).decode()}"
        for key, value in {**short, "filename": filename}.items()
    )


class _Again(Refused):
    """Refused for now."""


def _check(answer: requests.Response) -> None:
    if answer.status_code in TRY_AGAIN:
        raise _Again(f"The server answered {answer.status_code} {answer.reason}.")
    check_answer(answer)


class _Blocks:
    """Blocks of bytes, from which an exact number is taken."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._rest = b""

    def take(self, count: int) -> Iterator[bytes]:
        while count:
            block = self._rest or next(self._blocks, b"")
            if not block:
                raise Refused("The file became shorter while it was sent.")
            self._rest = block[count:]
            yield block[:count]
            count -= min(count, len(block))


class _Chunk:
    """A request's body of a known length, which is read once."""

    def __init__(
        self, blocks: _Blocks, length: int, offset: int, at: Callable[[int], None]
    ) -> None:
        self._blocks = blocks
        self._length = length
        self._offset = offset
        self._at = at

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Any]:
        offset = self._offset
        for block in self._blocks.take(self._length):
            yield block
            offset += len(block)
            self._at(offset)

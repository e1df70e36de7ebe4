"""multipart/form-data (RFC 7578) by the package multipart, read in pieces as large as they arrive:
Werkzeug's parser copies every byte several times, which for a model costs more than writing it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from multipart import MultipartError, MultipartSegment, ParserLimitReached, PushMultipartParser
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.http import parse_options_header

from app.planning.options import BadRequest

BLOCK = 2**20
MAX_PARTS = 50
MAX_HEADERS = 16
MAX_HEADER_BYTES = 16 * 2**10


@dataclass(frozen=True)
class Part:
    """One field: `filename` is None unless it is a file. `content` is to be read before the next
    part is asked for."""

    name: str
    filename: str | None
    content: Iterator[bytes]


def form_parts(read: Callable[[int], bytes], boundary: str) -> Iterator[Part]:
    """Each part of the form that `read(size)` gives; `boundary` as in the Content-Type.

    Raises BadRequest for what is no form or not a whole one, RequestEntityTooLarge for more than
    MAX_PARTS parts, or MAX_HEADERS lines of MAX_HEADER_BYTES in a part's head; also while a part's
    content is read.
    """
    events = _events(read, boundary)
    for segment in events:
        assert isinstance(segment, MultipartSegment)
        content = iter(partial(next, events), None)
        yield Part(segment.name or "", _filename(segment), content)
        for _ in content:
            pass


def _events(read: Callable[[int], bytes], boundary: str) -> Iterator[Any]:
    """Of each part its segment, pieces of its content, and None at its end."""
    try:
        with PushMultipartParser(
            boundary,
            max_header_size=MAX_HEADER_BYTES,
            max_header_count=MAX_HEADERS,
            max_segment_count=MAX_PARTS,
        ) as parser:
            while block := read(BLOCK):
                yield from parser.parse(block)
    except ParserLimitReached as error:
        raise RequestEntityTooLarge from error
    except (MultipartError, UnicodeDecodeError) as error:
        raise BadRequest(
            "The form can't be read: it is cut off, or its parts aren't as its boundary says."
        ) from error


def _filename(segment: MultipartSegment) -> str | None:
    """The part's file name; some clients send it as `filename*` (RFC 5987)."""
    disposition = segment.header("Content-Disposition") or ""
    name: str | None = parse_options_header(disposition)[1].get("filename", segment.filename)
    return name

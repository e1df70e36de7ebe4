"""Forms: they come apart where their delimiters are, and what is too much of one is refused."""

import io
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.exceptions import RequestEntityTooLarge

from app.planning.options import BadRequest
from app.views.form import MAX_HEADER_BYTES, MAX_HEADERS, MAX_PARTS, form_parts

PARTS = [("field", None, b"\r\n-"), ("Model", "m \u6a21.zip", b"\r\n--x\r\n\r--bound" * 9)]


def form(parts: list[tuple[str, str | None, bytes]], *, blank_lines: bool = True) -> bytes:
    body = b"a preamble\r\n"
    for name, filename, content in parts:
        named = f'; filename="{filename}"' if filename is not None else ""
        head = f'--bound\r\nContent-Disposition: form-data; name="{name}"{named}\r\n'
        # RFC 2046 lets a part without content do without the line end before its delimiter.
        body += head.encode() + b"\r\n" + (content + b"\r\n" if content or blank_lines else b"")
    return body + b"--bound--"


def read_form(body: bytes, block: int) -> list[tuple[str, str | None, bytes]]:
    stream = io.BytesIO(body)
    parts = form_parts(lambda size: stream.read(min(size, block)), "bound")
    return [(part.name, part.filename, b"".join(part.content)) for part in parts]


@pytest.mark.parametrize("blank_lines", [True, False])
@given(
    block=st.integers(1, 40),
    contents=st.lists(
        st.lists(st.sampled_from([b"\r", b"\n", b"--", b"bound", b"x", b"\r\n--boun"])), max_size=3
    ),
)
def test_a_form_comes_apart_where_its_delimiters_are(
    blank_lines: bool, block: int, contents: list[list[bytes]]
) -> None:
    made = [b"".join(pieces) for pieces in contents]
    while any(b"--bound" in content for content in made):  # taking one out may make another
        made = [content.replace(b"--bound", b"") for content in made]
    parts = PARTS + [(f"f{number}", None, content) for number, content in enumerate(made)]
    assert read_form(form(parts, blank_lines=blank_lines), block) == parts


@pytest.mark.parametrize(
    "body",
    [b"", b"--bound", form(PARTS)[:-2], form(PARTS)[:200], b"--bound\r\nA: b\r\n\r\nx\r\n--bound--"]
    + [b"--boundary\r\n"],
)
def test_what_is_no_form_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        read_form(body, 4096)


DISPOSITION = b'--bound\r\nContent-Disposition: form-data; name="a"\r\n'
TOO_MUCH = {
    "parts": (DISPOSITION + b"\r\nx\r\n") * (MAX_PARTS + 1) + b"--bound--",
    "lines in a part's head": DISPOSITION + b"X: y\r\n" * MAX_HEADERS + b"\r\nx\r\n--bound--",
    "one long line": DISPOSITION + b"X: " + b"y" * MAX_HEADER_BYTES + b"\r\n\r\nx\r\n--bound--",
    "a line without end": DISPOSITION + b"X: " + b"y" * 3_000_000,
    "2 MB of lines": DISPOSITION + b"X: y\r\n" * 400_000,
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_more_than_the_limits_of_a_form(name: str) -> None:
    started = time.process_time()
    with pytest.raises(RequestEntityTooLarge):
        read_form(TOO_MUCH[name], 4096)
    assert time.process_time() - started < 1


def test_a_file_name_as_older_clients_send_it() -> None:
    head = (
        b"--bound\r\nContent-Disposition: form-data; name=Model; filename*=utf-8''m%C3%A9.zip\r\n"
    )
    assert read_form(head + b"\r\nx\r\n--bound--", 100) == [("Model", "m\u00e9.zip", b"x")]

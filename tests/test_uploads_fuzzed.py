"""Headers of the tus protocol as nobody should send them."""

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app import create_app
from tests.test_uploads import CHUNK, NAME, TUS, begin

BODY = b"PK\3\4" + bytes(60)
SUM = base64.b64encode(hashlib.sha256(BODY).digest()).decode()
LATIN = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF), max_size=40)
NUMBERS = st.one_of(
    st.integers(-2, 200).map(str),
    st.sampled_from(["", "+1", "1_0", "0x1", "1e3", "٣", "1, 2", " 7 ", "0064", "9" * 30]),
)
METADATA = st.lists(
    st.one_of(
        st.sampled_from(
            [NAME, "filename", "filename ", "filename bS5leGU=", "a YQ==", ",", " ", "a"]
        ),
        st.tuples(LATIN, st.binary(max_size=20).map(base64.b64encode)).map(
            lambda pair: f"{pair[0]} {pair[1].decode()}"
        ),
    ),
    max_size=4,
).map(",".join)
VALUES: dict[str, st.SearchStrategy[str]] = {
    "Tus-Resumable": st.sampled_from(["1.0.0", "1.0.0", "1.0.0", "0.2.2", "1.0.0, 1.0.0", ""]),
    "Upload-Length": NUMBERS,
    "Upload-Offset": NUMBERS,
    "Upload-Metadata": METADATA,
    "Upload-Checksum": st.sampled_from(
        [
            f"sha256 {SUM}",
            f"sha1 {SUM}",
            f"SHA256 {SUM}",
            f"sha256  {SUM}",
            "sha256",
            "md5 AAAA",
            "é é",
        ]
    ),
    "Upload-Defer-Length": st.just("1"),
    "Upload-Concat": st.sampled_from(["partial", "final;/uploads/a /uploads/b"]),
    "Content-Type": st.sampled_from([CHUNK["Content-Type"], "application/octet-stream", "é", ""]),
    "X-HTTP-Method-Override": st.sampled_from(["PATCH", "DELETE", "HEAD", "POST", "TRACE", "é"]),
}
HEADER = st.one_of(
    [st.tuples(st.just(name), st.one_of(values, LATIN)) for name, values in VALUES.items()]
)
HEADERS = st.lists(HEADER, max_size=3).map(dict)
RIGHT = CHUNK | {"Upload-Offset": "0", "Upload-Length": str(len(BODY)), "Upload-Metadata": NAME}
REQUESTS = st.tuples(
    st.sampled_from(["POST", "PATCH", "PATCH", "HEAD", "DELETE", "OPTIONS", "PUT"]),
    st.sampled_from(
        ["/uploads/", "the upload", "the upload", "/uploads/" + "0" * 32, "/uploads/é"]
    ),
    HEADERS,
    st.sampled_from([True, True, False]),
    st.sampled_from([b"", BODY[:1], BODY, BODY * 3, b"no zip" * 20]),
)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlaskClient]:
    """One service for all examples; its folder is `client.application.config["MODELS_DIR"]`."""
    app = create_app({"MODELS_DIR": tmp_path_factory.mktemp("fuzzed") / "models"})
    yield app.test_client()
    app.extensions["service"].storage.uploads.close()


@given(requests=st.lists(REQUESTS, max_size=6))
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_headers_are_a_fault_and_nothing_is_left(
    client: FlaskClient, requests: list[tuple[str, str, dict[str, str], bool, bytes]]
) -> None:
    made = [begin(client, len(BODY))]
    for method, path, headers, is_right, body in requests:
        right: dict[str, Any] = RIGHT if is_right else {}
        answer = client.open(
            path.replace("the upload", made[-1]), method=method, headers=right | headers, data=body
        )
        assert answer.status_code < 500, (method, path, headers, answer.text)
        if answer.status_code == 201:
            made.append(answer.headers["Location"])
    for url in made:
        state = client.head(url, headers=TUS)
        if state.status_code == 200:
            assert 0 <= int(state.headers["Upload-Offset"]) <= int(state.headers["Upload-Length"])
            assert client.delete(url, headers=TUS).status_code == 204
    own = Path(client.application.config["MODELS_DIR"]) / ".model-handler"
    left = [path for name in ("uploads", "staging", "removed") for path in own.glob(f"{name}/*")]
    assert left == []

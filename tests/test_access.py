"""Hosts, origins and keys: who is answered, and what a browser is told."""

import json
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from app import create_app
from app.config import SettingError, from_environ

ORIGIN = "https://console.example"


def client(models_dir: Path, **settings: Any) -> FlaskClient:
    app = create_app({"MODELS_DIR": models_dir, "OLLAMA_HOST": "127.0.0.1:9", **settings})
    return app.test_client()


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:8000", 200),
        ("dev.localhost", 200),
        ("127.0.0.1:8000", 200),
        ("192.168.1.7", 200),
        ("[::1]:8000", 200),
        ("models.example", 200),
        ("a.lan.example:80", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("[", 421),
        ("", 421),
    ],
)
def test_the_names_that_it_answers_by(models_dir: Path, host: str, status: int) -> None:
    asking = client(models_dir, TRUSTED_HOSTS="models.example, .lan.example")
    answer = asking.get("/models/", headers={"Host": host})
    assert answer.status_code == status
    if status == 421:
        line = json.loads(answer.data)
        assert line["message"]["action"] == "Failed get model list."
        assert "MODEL_HANDLER_TRUSTED_HOSTS" in line["message"]["details"]["error"]
        assert asking.get("/healthz", headers={"Host": host}).status_code == 200


def test_a_rebound_name_may_not_delete(models_dir: Path) -> None:
    (models_dir / "m").mkdir(parents=True)
    headers = {"Host": "evil.example", "Origin": "http://evil.example"}
    answer = client(models_dir).delete("/models/", json={"model": "m"}, headers=headers)
    assert answer.status_code == 421
    assert (models_dir / "m").exists()


def test_strangers_get_no_details_of_readiness(models_dir: Path) -> None:
    asking = client(models_dir, API_KEY="secret")
    assert asking.get("/readyz").json == {"ready": False}
    assert "checks" in asking.get("/readyz", headers={"X-API-Key": "secret"}).json  # type: ignore[operator]
    by_another_name = {"X-API-Key": "secret", "Host": "evil.example"}
    assert asking.get("/readyz", headers=by_another_name).json == {"ready": False}


@pytest.mark.parametrize("key", ["secre", "secret", "secretx", "", "Secret", "secr\u00e9t"])
@pytest.mark.parametrize("way", ["Authorization", "X-API-Key"])
def test_only_the_whole_key_is_right(models_dir: Path, key: str, way: str) -> None:
    asking = client(models_dir, API_KEY="secret")
    value = f"Bearer {key}" if way == "Authorization" else key
    expected = 200 if key == "secret" else 401
    assert asking.get("/models/", headers={way: value}).status_code == expected


@pytest.mark.parametrize("key", ["schl\u00fcssel", "secret ", " secret", "two\nlines", " "])
def test_a_key_that_no_header_carries_is_refused_at_start(models_dir: Path, key: str) -> None:
    with pytest.raises(SettingError, match="MODEL_HANDLER_API_KEY") as refused:
        from_environ({"MODEL_HANDLER_API_KEY": key})
    assert key.strip() == "" or key not in str(refused.value)
    with pytest.raises(SettingError):
        client(models_dir, API_KEY=key)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "http://["},
        {"Origin": "null"},
        {"Origin": "http://localhost:81"},
        {"Origin": ORIGIN + ".evil"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_another_site_s_page_may_not_write(models_dir: Path, headers: dict[str, str]) -> None:
    asking = client(models_dir, ALLOWED_ORIGINS=ORIGIN)
    answer = asking.delete("/models/", json={"model": "m"}, headers=headers)
    assert answer.status_code == 403
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_an_allowed_origin_s_page_may_write_and_read(models_dir: Path) -> None:
    asking = client(models_dir, ALLOWED_ORIGINS=ORIGIN, API_KEY="secret")
    asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "DELETE"}
    preflight = asking.options("/models/", headers=asked)
    assert preflight.status_code == 200
    assert preflight.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert "DELETE" in preflight.headers["Access-Control-Allow-Methods"]
    assert "X-API-Key" in preflight.headers["Access-Control-Allow-Headers"]
    for key, status in (("secret", 404), ("wrong", 401)):
        headers = {"Origin": ORIGIN, "Sec-Fetch-Site": "cross-site", "X-API-Key": key}
        answer = asking.delete("/models/", json={"model": "m"}, headers=headers)
        assert answer.status_code == status
        assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert "Origin" in answer.headers["Vary"]


def test_no_other_origin_is_let_in(models_dir: Path) -> None:
    asking = client(models_dir, ALLOWED_ORIGINS=ORIGIN)
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "DELETE"}
    assert not {"Access-Control-Allow-Origin"} & set(
        asking.options("/models/", headers=asked).headers.keys()
    )


def test_pages_load_nothing_foreign_and_no_type_is_guessed(models_dir: Path) -> None:
    asking = client(models_dir)
    for path in ("/", "/docs", "/nowhere"):
        headers = asking.get(path, headers={"Accept": "text/html"}).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
    for path in ("/", "/models/", "/static/page.js", "/healthz", "/nowhere"):
        with asking.get(path) as answer:
            assert answer.headers["X-Content-Type-Options"] == "nosniff"


FORWARDED = {
    "X-Forwarded-For": "10.9.9.9, 10.0.0.7",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "models.example",
    "X-Forwarded-Prefix": "/llm",
}


@pytest.mark.parametrize(
    ("proxies", "client_is", "place"),
    [("0", "127.0.0.1", "/uploads/"), ("1", "10.0.0.7", "/llm/uploads/")],
)
def test_a_trusted_proxy_s_word_counts_for_client_and_prefix(
    models_dir: Path,
    caplog: pytest.LogCaptureFixture,
    proxies: str,
    client_is: str,
    place: str,
) -> None:
    caplog.set_level("INFO")
    asking = client(models_dir, TRUSTED_PROXIES=proxies, TRUSTED_HOSTS="models.example")
    asking.get("/models/", headers=FORWARDED).get_data()
    [ended] = [vars(record) for record in caplog.records if hasattr(record, "task_uuid")]
    assert ended["client"] == client_is
    tus = {"Tus-Resumable": "1.0.0", "Upload-Length": "9", "Upload-Metadata": "filename bS56aXA="}
    assert (
        asking.post("/uploads/", headers={**FORWARDED, **tus}).headers["Location"].startswith(place)
    )


@pytest.mark.parametrize(
    ("proxies", "host", "forwarded_host", "status"),
    [
        ("0", "localhost", "evil.example", 200),
        ("0", "evil.example", "localhost", 421),
        ("1", "inner:8000", "models.example", 200),
        ("1", "localhost", "evil.example", 421),
        ("1", "localhost", "models.example, evil.example", 421),
        ("1", "localhost", None, 200),
        ("1", "evil.example", None, 421),
    ],
)
def test_the_host_is_the_one_that_trusted_proxies_say(
    models_dir: Path, proxies: str, host: str, forwarded_host: str | None, status: int
) -> None:
    asking = client(models_dir, TRUSTED_PROXIES=proxies, TRUSTED_HOSTS="models.example")
    headers = {"Host": host} | ({"X-Forwarded-Host": forwarded_host} if forwarded_host else {})
    assert asking.get("/models/", headers=headers).status_code == status


def test_a_page_behind_a_proxy_is_of_the_same_origin(models_dir: Path) -> None:
    asking = client(models_dir, TRUSTED_PROXIES="1", TRUSTED_HOSTS="models.example")
    for origin, status in (("https://models.example", 404), ("https://evil.example", 403)):
        headers = {**FORWARDED, "Host": "inner", "Origin": origin}
        answer = asking.delete("/models/", json={"model": "m"}, headers=headers)
        assert answer.status_code == status

from pathlib import Path

import pytest

from app.config import SETTINGS, SettingError, from_environ, table
from app.ollama.address import ollama_url

OPERATIONS = Path(__file__).parent.parent / "docs" / "operations.rst"

OLLAMA_HOSTS = {
    "": "http://127.0.0.1:11434",
    "example.com": "http://example.com:11434",
    "example.com:1234": "http://example.com:1234",
    "http://example.com": "http://example.com:80",
    "https://example.com": "https://example.com:443",
    "http://example.com:1234": "http://example.com:1234",
    "https://example.com/ollama/": "https://example.com:443/ollama",
    "example.com/a/b": "http://example.com:11434/a/b",
    ":1234": "http://127.0.0.1:1234",
    "0.0.0.0": "http://127.0.0.1:11434",
    "0.0.0.0:8080": "http://127.0.0.1:8080",
    "[::]:8080": "http://[::1]:8080",
    "::1": "http://[::1]:11434",
    "[::1]": "http://[::1]:11434",
    "example.com:port": "http://example.com:11434",
    "example.com:65536": "http://example.com:11434",
    " 10.0.0.5 ": "http://10.0.0.5:11434",
}


@pytest.mark.parametrize("text", OLLAMA_HOSTS)
def test_ollama_host_is_read_as_ollama_does(text: str) -> None:
    assert ollama_url(text) == OLLAMA_HOSTS[text]


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("MODEL_HANDLER_MAX_UPLOAD_BYTES", "1 GB"),
        ("MODEL_HANDLER_THREADS", "0"),
        ("OLLAMA_HOST", "ftp://example.com"),
    ],
)
def test_a_setting_that_can_t_be_read_is_named(variable: str, text: str) -> None:
    with pytest.raises(SettingError, match=variable):
        from_environ({variable: text})


def test_settings_come_from_the_environment() -> None:
    values = from_environ({"MODEL_HANDLER_THREADS": "4", "MODEL_HANDLER_API_KEY": ""})
    assert (values["THREADS"], values["API_KEY"]) == (4, None)
    assert set(values) == {setting.name for setting in SETTINGS}


def test_operations_list_every_setting_as_declared() -> None:
    assert table() in OPERATIONS.read_text()

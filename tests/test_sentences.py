"""The service's own sentences in the language that a client asks for, and only where it asks."""

# ruff: noqa: RUF001

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from babel.messages.pofile import read_po
from flask import Flask
from flask.testing import FlaskClient

from app.ollama.client import Ollama
from app.ollama.errors import OllamaSilent
from app.views.sentences import MAX_CHARACTERS, Sentences
from tests import sentences as catalogues
from tests.conftest import Zips
from tests.standin import Standin

CHINESE = {"Accept-Language": "zh-TW,zh;q=0.9,en;q=0.5"}
NAMES = re.compile(r"\{\w+\}")
TOLERATED = 15
KNOWN = Sentences(
    {
        "{name} is cut off. Upload it again.": "{name} 不完整。請重新上傳。",
        "There is no model {name}.": "沒有模型 {name}。",
        "On {url}: {one}": "在 {url}：{one}",
        "{count} of {total} bytes have arrived.": "{total} 位元組中已收到 {count}。",
        "Its log says more.": "詳情請見記錄。",
        "Not translated: {name}.": "",
    }
)


@pytest.mark.parametrize(
    ("said", "translated"),
    [
        ("There is no model 'x'.", "沒有模型 'x'。"),
        ("There is no model 'a b. c'.", "沒有模型 'a b. c'。"),
        ("There is no model .", "There is no model ."),
        ("'x.zip' is cut off. Upload it again.", "'x.zip' 不完整。請重新上傳。"),
        ("3 of 10 bytes have arrived.", "10 位元組中已收到 3。"),
        ("Its log says more. There is no model 'x'.", "詳情請見記錄。沒有模型 'x'。"),
        ("On http://a: There is no model 'x'.", "在 http://a：沒有模型 'x'。"),
        ("Ollama's own words. Its log says more.", "Ollama's own words. 詳情請見記錄。"),
        ("Its log says more. Ollama's own words.", "詳情請見記錄。Ollama's own words."),
        ("Not translated: x.", "Not translated: x."),
        ("There is no model {name}.", "沒有模型 {name}。"),
        ("", ""),
    ],
)
def test_sentences_are_told_apart(said: str, translated: str) -> None:
    assert KNOWN.translated(said) == translated


def test_what_a_stranger_names_takes_no_time() -> None:
    hostile = "of " * (MAX_CHARACTERS // 3 - 20) + "bytes have arrived"
    assert KNOWN.translated(hostile) == hostile
    many = "Its log says more. " * 100 + "x"
    assert KNOWN.translated(many).endswith("x")
    assert KNOWN.translated("x" * (MAX_CHARACTERS + 1)) == "x" * (MAX_CHARACTERS + 1)


@pytest.mark.parametrize("path", catalogues.sources(), ids=lambda path: path.parts[-3])
def test_the_catalogue_has_what_is_said(path: Path) -> None:
    """A sentence that isn't there yet is shown in English: a few may wait for their translation."""
    with path.open("rb") as file:
        known = {message.id: message.string for message in read_po(file) if message.id}
    missing = sorted(text for text in catalogues.said() if not known.get(text))
    assert len(missing) <= TOLERATED, f"make texts, then translate what is new: {missing}"
    for text, translated in known.items():
        assert set(NAMES.findall(translated)) <= set(NAMES.findall(text)), text


@pytest.fixture
def client(app: Flask, standin: Standin) -> FlaskClient:
    return app.test_client()


def details(answer: object) -> dict[str, str]:
    found: dict[str, str] = json.loads(answer.text.splitlines()[-1])["message"]["details"]  # type: ignore[attr-defined]
    return found


def test_a_refusal_in_the_language_that_is_asked_for(client: FlaskClient) -> None:
    asked = {"model": "no", "model_name_on_ollama": "x"}
    plain = client.post("/models/create/", json=asked)
    assert details(plain)["error"] == "There is no model 'no'. GET /models/ lists the models."
    other = client.post("/models/create/", json=asked, headers={"Accept-Language": "de, fr;q=0.9"})
    assert details(other) == details(plain)
    chinese = client.post("/models/create/", json=asked, headers=CHINESE)
    assert details(chinese)["error"] == "沒有模型 'no'。GET /models/ 會列出所有模型。"
    first, second = json.loads(plain.text), json.loads(chinese.text)
    assert first["message"]["action"] == second["message"]["action"] == "Failed create model"


def test_a_failure_is_said_in_chinese_and_kept_in_english(
    client: FlaskClient, standin: Standin, zips: Zips
) -> None:
    standin.fail_next("/api/create", body=b'{"error": "disk on fire"}')
    form = {"model_name_on_ollama": "x", "Model": (zips.both.open("rb"), "tiny_lora.zip")}
    answer = client.post("/models/deploy/", data=form, headers=CHINESE)
    assert "disk on fire" in details(answer)["error"]
    assert details(answer)["hint"].startswith("上傳已保留為模型 'tiny_lora'")
    uuid = json.loads(answer.text.splitlines()[-1])["message"]["task_uuid"]
    assert details(client.get(f"/tasks/{uuid}"))["hint"].startswith("The upload is kept")
    assert details(client.get(f"/tasks/{uuid}", headers=CHINESE))["hint"].startswith("上傳已保留")


def test_a_report_in_chinese(client: FlaskClient, zips: Zips) -> None:
    form = {"Model": (zips.lora.open("rb"), "tiny_adapter.zip")}
    assert client.post("/models/upload/", data=form).text
    report = client.get("/models/tiny_adapter/", headers=CHINESE).json
    assert report is not None
    assert report["problems"][0].startswith("只找到轉接器")
    assert report["files"][0]["name"] == "lora.gguf"


def test_a_chat_that_breaks_off_says_so_in_chinese(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chat(ollama: Ollama, body: object) -> Iterator[dict[str, object]]:
        yield {"message": {"content": "Hi"}}
        raise OllamaSilent("Ollama at http://o stopped sending in the middle of its answer.")

    monkeypatch.setattr(Ollama, "chat", chat)
    asked = {"model": "x", "messages": [{"role": "user", "content": "Hello"}]}
    answer = client.post("/ollama/chat", json=asked, headers=CHINESE)
    last = json.loads(answer.text.splitlines()[-1])
    assert last == {"error": "http://o 的 Ollama 回應到一半便沒有動靜。"}


def test_the_page_of_a_failure_in_chinese(client: FlaskClient) -> None:
    answer = client.get("/nothing", headers={**CHINESE, "Accept": "text/html"})
    assert "這個位址沒有任何內容" in answer.text

"""A chat with a model on Ollama, through the service: passed on as it comes, bounded, and ended
with its client."""

import json
import socket
import threading
from typing import Any

import pytest
from flask import Flask

from app.ollama.client import Ollama
from app.service.chat import DEFAULT_TOKENS, MAX_MESSAGES, MAX_TOKENS, first_answer, heard
from tests.callers import Answer, Caller, FlaskCaller
from tests.conftest import Zips
from tests.standin import Standin

HELLO = {"role": "user", "content": "Hello"}
# The metrics of a last line, in nanoseconds. Source: Ollama, docs/api.md.
LAST = {"done": True, "done_reason": "stop", "eval_count": 20, "eval_duration": 500_000_000}


def deploy(caller: Caller, zips: Zips) -> None:
    fields = [("model_name_on_ollama", "x"), ("Model", zips.base)]
    assert caller.send_form("/models/deploy/", fields).last["status"] == 200


def ask(caller: Caller, messages: object, **fields: Any) -> Answer:
    body = {"model": "x", "messages": messages, **fields}
    return caller.send_json("POST", "/ollama/chat", body)


def sent(standin: Standin) -> dict[str, Any]:
    """The body of the last chat that reached Ollama."""
    body: dict[str, Any] = [seen.json for seen in standin.requests if seen.path == "/api/chat"][-1]
    return body


@pytest.fixture
def flask_caller(app: Flask, zips: Zips) -> FlaskCaller:
    caller = FlaskCaller(app.test_client())
    deploy(caller, zips)
    return caller


def test_the_answer_is_passed_on_line_by_line(caller: Caller, standin: Standin, zips: Zips) -> None:
    deploy(caller, zips)
    system = {"role": "system", "content": "You are terse."}
    options = {"temperature": 0.1, "stop": ["\n"], "num_predict": 9}
    answer = ask(caller, [system, HELLO], options=options, think=False)
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in answer.body.splitlines()]
    said = "".join(line["message"]["content"] for line in lines)
    assert said == "The stand-in has read 20 characters."
    assert lines[-1]["done"] is True
    assert sent(standin) == {
        "model": "x",
        "messages": [system, HELLO],
        "options": options,
        "think": False,
    }


def test_the_figures_of_the_last_line_arrive(flask_caller: FlaskCaller, standin: Standin) -> None:
    piece = {"message": {"role": "assistant", "content": "Hi"}, "done": False}
    wanted = [piece, {"message": {"role": "assistant", "content": ""}, **LAST}]
    standin.fail_next("/api/chat", lines=[json.dumps(line).encode() + b"\n" for line in wanted])
    answer = ask(flask_caller, [HELLO])
    assert [json.loads(line) for line in answer.body.splitlines()] == wanted


def test_an_answer_always_has_a_limit(flask_caller: FlaskCaller, standin: Standin) -> None:
    ask(flask_caller, [HELLO])
    assert sent(standin)["options"] == {"num_predict": DEFAULT_TOKENS}


@pytest.mark.parametrize(
    ("messages", "fields", "said"),
    [
        ([], {}, "1 to 1000 messages"),
        (None, {}, "1 to 1000 messages"),
        ([HELLO] * (MAX_MESSAGES + 1), {}, "1 to 1000 messages"),
        (["Hello"], {}, "'role'"),
        ([{"role": "tool", "content": "x"}], {}, "'role'"),
        ([{"role": "user", "content": None}], {}, "'content'"),
        ([{"role": ["user"], "content": "x"}], {}, "'role'"),
        ([HELLO], {"options": {"temprature": 1}}, "Did you mean 'temperature'?"),
        ([HELLO], {"options": {"temperature": "hot"}}, "a finite number"),
        ([HELLO], {"options": []}, "'options'"),
        ([HELLO], {"options": {"num_predict": -1}}, f"1 to {MAX_TOKENS}"),
        ([HELLO], {"options": {"num_predict": MAX_TOKENS + 1}}, f"1 to {MAX_TOKENS}"),
        ([HELLO], {"think": "deep"}, "'think'"),
        ([HELLO], {"model": ""}, "'model'"),
        ([HELLO], {"model": "a\0b"}, "NUL"),
        ([HELLO], {"model": "a\nb"}, "can't be a model's name"),
        ([HELLO], {"model": "x" * 100_000}, "can't be a model's name"),
        ([{"role": "user", "content": "a\0b"}], {}, "NUL"),
    ],
)
def test_what_cannot_be_asked(
    app: Flask, standin: Standin, messages: object, fields: dict[str, Any], said: str
) -> None:
    answer = ask(FlaskCaller(app.test_client()), messages, **fields)
    assert (answer.status, answer.last["action"]) == (400, "Failed chat.")
    assert said in answer.last["details"]["error"]
    assert not [seen for seen in standin.requests if seen.path == "/api/chat"]


def test_refusals_of_ollama(app: Flask, standin: Standin) -> None:
    caller = FlaskCaller(app.test_client())
    unknown = ask(caller, [HELLO])
    assert (unknown.status, unknown.last["details"]["error"]) == (404, "Ollama has no model 'x'.")
    standin.fail_next("/api/chat", body=b'{"error": "needs more memory"}')
    refused = ask(caller, [HELLO])
    assert refused.status == 502
    assert "needs more memory" in refused.last["details"]["error"]
    standin.stop()
    assert ask(caller, [HELLO]).status == 502


@pytest.mark.parametrize("path", ["/ollama/chat", "/ollama/generate"])
def test_a_client_that_leaves_ends_the_answer_before_its_first_word(
    flask_caller: FlaskCaller, app: Flask, standin: Standin, path: str
) -> None:
    """While Ollama is still loading the model, nothing is written that would fail."""
    here, there = socket.socketpair()
    body = {"model": "x", "messages": [HELLO], "prompt": "Hello"}
    answers = []

    def call() -> None:
        client = app.test_client()
        answers.append(client.post(path, json=body, environ_overrides={"gunicorn.socket": here}))

    caller = threading.Thread(target=call)
    with here, standin.hold(path.replace("/ollama", "/api")) as gate:
        caller.start()
        gate.wait_reached(20)
        there.close()
        caller.join(20)
        assert not caller.is_alive()
    assert answers[0].data == b""
    assert "chat" not in [thread.name for thread in threading.enumerate()]


def test_closing_an_answer_that_is_being_read_ends_it(
    flask_caller: FlaskCaller, standin: Standin
) -> None:
    ollama = Ollama(standin.url, 10, 60)
    body = {"model": "x", "messages": [{"role": "user", "content": "Hello " * 500}]}
    lines = heard(first_answer([ollama], lambda server: server.chat(body)))
    assert next(lines) is not None
    lines.close()
    assert "chat" not in [thread.name for thread in threading.enumerate()]


def test_a_reader_that_is_slow_holds_the_answer_back() -> None:
    made = []

    def endless() -> Any:
        while True:
            made.append(len(made))
            yield {"n": made[-1]}

    lines = heard(endless())
    first = [next(lines) for _ in range(3)]
    lines.close()
    assert first == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert len(made) < 1000


def test_a_key_is_wanted_here_too(app: Flask) -> None:
    app.config["API_KEY"] = "secret"
    assert ask(FlaskCaller(app.test_client()), [HELLO]).status == 401

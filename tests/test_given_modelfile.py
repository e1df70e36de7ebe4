"""The field `modelfile`: a Modelfile that somebody has read and changed before creating."""

from pathlib import Path

import pytest
from flask import Flask

from tests.callers import Answer, FlaskCaller
from tests.conftest import Zips, each_ollama, litter, show

PAIR = "FROM ./base.gguf\nADAPTER ./lora.gguf\n"


@pytest.fixture
def caller(app: Flask, zips: Zips) -> FlaskCaller:
    caller = FlaskCaller(app.test_client())
    caller.send_form("/models/upload/", [("Model", zips.both)])
    return caller


def create(caller: FlaskCaller, new_name: str, **fields: object) -> Answer:
    body = {"model": "tiny_lora", "model_name_on_ollama": new_name, **fields}
    return caller.send_json("POST", "/models/create/", body)


@pytest.mark.ollama
@each_ollama
def test_what_it_says_arrives(caller: FlaskCaller, ollama: str, new_name: str) -> None:
    text = caller.get("/models/tiny_lora/modelfile").body.decode()
    changed = f'{text}SYSTEM """Two\nlines"""\nPARAMETER temperature 0.5\nMESSAGE user Hi\n'
    assert create(caller, new_name, modelfile=changed).last["status"] == 200
    shown = show(ollama, new_name)
    assert shown["system"] == "Two\nlines"
    assert shown["parameters"].split() == ["temperature", "0.5"]
    assert shown["messages"] == [{"role": "user", "content": "Hi"}]


def test_deploy_takes_it_too(app: Flask, zips: Zips, standin: object, ollama: str) -> None:
    fields = [
        ("model_name_on_ollama", "x"),
        ("modelfile", f"{PAIR}SYSTEM Hi"),
        ("Model", zips.both),
    ]
    caller = FlaskCaller(app.test_client())
    assert caller.send_form("/models/deploy/", fields).last["status"] == 200
    assert show(ollama, "x")["system"] == "Hi"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("FROM ./base.gguf", "FROM ./base.gguf, ADAPTER ./lora.gguf."),
        (f"{PAIR}FROM llama3", "have to stay as they are"),
        ("FROM ../other/base.gguf\nADAPTER ./lora.gguf", "have to stay as they are"),
        (f"{PAIR}PARAMETER temprature 1", "Did you mean 'temperature'?"),
        (f"{PAIR}NONSENSE 1", "Line 3: 'NONSENSE' is no instruction."),
        (f"{PAIR}DRAFT ./draft.gguf", "DRAFT"),
        ("SYSTEM Hi", "no FROM"),
    ],
)
def test_what_it_may_not_say(caller: FlaskCaller, models_dir: Path, text: str, said: str) -> None:
    answer = create(caller, "x", modelfile=text)
    assert answer.status == 400
    assert said in answer.last["details"]["error"]
    assert not litter(models_dir)


@pytest.mark.parametrize(
    ("field", "value"),
    [("system", "Hi"), ("template", "{{ .Prompt }}"), ("parameters", {"seed": 1})],
)
def test_it_stands_alone(caller: FlaskCaller, field: str, value: object) -> None:
    answer = create(caller, "x", modelfile=PAIR, **{field: value})
    assert answer.status == 400
    assert f"all that '{field}' says" in answer.last["details"]["error"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f"{PAIR}FROM llama3", 3),
        (f"\n{PAIR}SYSTEM Hi\nADAPTER ./other.gguf", 5),
        ("# about\r\nFROM ../other/base.gguf\r\nADAPTER ./lora.gguf", 2),
        ("FROM ./base.gguf", None),
        (f'{PAIR}SYSTEM """one\ntwo"""\nPARAMETER seed 1\nPARAMETER temprature 1', 6),
        (f"{PAIR}PARAMETER seed 1.5", 3),
        (f"{PAIR}\nNONSENSE 1", 4),
        (f"{PAIR}MESSAGE nobody Hi", 3),
        (f'{PAIR}SYSTEM """Hi', 3),
        (f"{PAIR}draft ./draft.gguf", 3),
        ("SYSTEM Hi", None),
    ],
)
def test_the_line_of_the_error(caller: FlaskCaller, text: str, line: int | None) -> None:
    body = {"model": "tiny_lora", "model_name_on_ollama": "x", "modelfile": text}
    answer = caller.send_json("POST", "/models/create/?verbose=1", body)
    details = answer.last["details"]
    assert (answer.status, details.get("line")) == (400, line)
    assert details["error"].startswith(f"Line {line}: ") == (line is not None)
    assert set(create(caller, "x", modelfile=text).last["details"]) == {"error"}

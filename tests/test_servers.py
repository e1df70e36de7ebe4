"""Several Ollama servers: the model goes to all, or to one; one failing doesn't stop the rest."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from flask import Flask

from app import create_app
from app.config import SettingError, from_environ
from app.planning.options import Options
from app.service.lines import Task
from tests.callers import Answer, FlaskCaller
from tests.conftest import Zips, litter
from tests.standin import Standin
from tests.test_faults import wait_until

OLD, NEW = "0.32.15", "0.34.1"
LINES = ["Started to create model.", "Start structure template", "Success create model"]


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Standin, Standin]]:
    """A server that takes adapters, and one that doesn't."""
    with Standin(tmp_path / "a", version=OLD) as a, Standin(tmp_path / "b", version=NEW) as b:
        yield a, b


def make_app(models_dir: Path, *urls: str) -> Flask:
    return create_app({"MODELS_DIR": models_dir, "OLLAMA_HOST": ",".join(urls)})


@pytest.fixture
def service(models_dir: Path, two: tuple[Standin, Standin], zips: Zips) -> FlaskCaller:
    caller = FlaskCaller(make_app(models_dir, *(one.url for one in two)).test_client())
    caller.send_form("/models/upload/", [("Model", zips.both)])
    return caller


@pytest.fixture
def plain(models_dir: Path, two: tuple[Standin, Standin], zips: Zips) -> FlaskCaller:
    """The same with a base alone, which costs less to make."""
    caller = FlaskCaller(make_app(models_dir, *(one.url for one in two)).test_client())
    caller.send_form("/models/upload/", [("Model", zips.base)])
    return caller


def create(caller: FlaskCaller, name: str, query: str = "", model: str = "tiny_lora") -> Answer:
    body = {"model": model, "model_name_on_ollama": name}
    return caller.send_json("POST", f"/models/create/{query}", body)


def has(server: Standin, name: str) -> bool:
    tags = requests.get(f"{server.url}/api/tags", timeout=30).json()["models"]
    return f"{name}:latest" in {model["name"] for model in tags}


def is_pushed_to(server: Standin) -> bool:
    return any(sent.method == "POST" and "blobs" in sent.path for sent in server.requests)


def actions(answer: Answer) -> list[str]:
    return [line["message"]["action"] for line in answer.lines]


def details(answer: Answer) -> list[dict[str, Any]]:
    return [line["message"]["details"] for line in answer.lines]


def test_create_goes_to_all(service: FlaskCaller, two: tuple[Standin, Standin]) -> None:
    answer = create(service, "x")
    assert actions(answer) == LINES
    assert all("server" not in one and "servers" not in one for one in details(answer))
    assert all(has(server, "x") for server in two)


def test_verbose_lines_say_which_server(service: FlaskCaller, two: tuple[Standin, Standin]) -> None:
    answer = create(service, "x", "?verbose=1")
    said = details(answer)
    ways = {way["server"]: way["adapter"] for way in said[0]["servers"]}
    assert ways == {two[0].url: "sent", two[1].url: "merged"}
    ratios = [line["message"]["progress_ratio"] for line in answer.lines]
    assert ratios == sorted(ratios)
    for server in two:
        own = [one["server_ratio"] for one in said if one.get("server") == server.url]
        assert own == sorted(own)
        assert own[-1] == 1
    ended = [line["message"] for line in answer.lines if "one server" in line["message"]["action"]]
    assert {(one["action"], one["details"]["server"]) for one in ended} == {
        ("Made on one server.", server.url) for server in two
    }


def test_create_goes_to_the_one_that_is_asked_for(
    service: FlaskCaller, two: tuple[Standin, Standin]
) -> None:
    assert create(service, "x", f"?server={two[1].url}").last["status"] == 200
    assert [has(server, "x") for server in two] == [False, True]
    both = "&".join(f"server={one.url}" for one in two)
    assert create(service, "y", f"?{both}").last["status"] == 200
    assert [has(server, "y") for server in two] == [True, True]
    named = {"model": "tiny_lora", "model_name_on_ollama": "z", "server": [one.url for one in two]}
    assert service.send_json("POST", "/models/create/", named).last["status"] == 200
    assert [has(server, "z") for server in two] == [True, True]
    answer = create(service, "x", f"?server={two[0].url}&server=elsewhere")
    assert answer.status == 400
    assert two[0].url in answer.last["details"]["error"]


def test_none_waits_for_another(plain: FlaskCaller, two: tuple[Standin, Standin]) -> None:
    slow, fast = two
    with ThreadPoolExecutor() as pool, slow.hold("/api/blobs/", method="POST") as gate:
        answer = pool.submit(create, plain, "x", "", "tiny_base")
        wait_until(lambda: has(fast, "x"))
        assert not has(slow, "x")
        gate.open()
        assert actions(answer.result()) == LINES
    assert has(slow, "x")


def test_one_that_does_not_even_say_its_version_is_left_out(
    plain: FlaskCaller, two: tuple[Standin, Standin], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.service.servers.LATER_SECONDS", 0.2)
    silent, other = two
    with silent.hold("/api/version"):
        answer = create(plain, "x", model="tiny_base")
    assert actions(answer) == [*LINES[:2], "Failed create model"]
    assert answer.last["status"] == 504
    assert f"On {silent.url}: " in answer.last["details"]["error"]
    assert has(other, "x")


def test_one_that_is_mute_keeps_no_probe_waiting(
    two: tuple[Standin, Standin], models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.views.health.LATER_SECONDS", 0.1)
    mute, other = two
    with mute.hold("/api/version"):
        answer = make_app(models_dir, mute.url, other.url).test_client().get("/readyz")
    assert answer.status_code == 200
    checks = answer.json["checks"]  # type: ignore[index]
    assert checks[f"ollama {other.url}"] == {"ok": True, "version": NEW}
    assert "in time" in checks[f"ollama {mute.url}"]["error"]


def test_nobody_waits_for_mute_servers_once_the_client_has_left(
    two: tuple[Standin, Standin], plain: FlaskCaller, models_dir: Path
) -> None:
    app = make_app(models_dir, *(one.url for one in two))
    steps = app.extensions["service"].create(
        Task("1", "Failed create model"), "tiny_base", "x", Options(), ()
    )
    with ExitStack() as held:
        for server in two:
            held.enter_context(server.hold("/api/version"))
        assert next(steps) is None
        steps.close()  # Returns, although no server has answered.
    assert not litter(models_dir)


def test_so_many_at_once_and_no_more(
    plain: FlaskCaller, two: tuple[Standin, Standin], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.service.servers.AT_ONCE", 1)
    first, second = two
    with ThreadPoolExecutor() as pool, first.hold("/api/blobs/", method="POST") as gate:
        answer = pool.submit(create, plain, "x", "", "tiny_base")
        gate.wait_reached(10)
        assert not any("/api/blobs/" in sent.path for sent in second.requests)
        gate.open()
        assert actions(answer.result()) == LINES


def test_what_nobody_waits_for_ends_on_all(
    plain: FlaskCaller, two: tuple[Standin, Standin], models_dir: Path
) -> None:
    app = make_app(models_dir, *(one.url for one in two))
    steps = app.extensions["service"].create(
        Task("1", "Failed create model"), "tiny_base", "x", Options(), ()
    )
    with ExitStack() as held:
        for server in two:
            held.enter_context(server.hold("/api/blobs/", method="POST"))
        while not all(map(is_pushed_to, two)):
            next(steps)
        steps.close()  # Returns, although no server has answered.
        assert not litter(models_dir)


def test_one_that_fails_does_not_stop_the_other(
    service: FlaskCaller, two: tuple[Standin, Standin]
) -> None:
    two[0].fail_next("/api/create", body=b'{"error": "disk on fire"}')
    answer = create(service, "x")
    said = answer.last["details"]
    assert actions(answer) == [*LINES[:2], "Failed create model"]
    assert answer.last["status"] == 502
    assert said["error"].startswith(f"On {two[0].url}: ")
    assert "disk on fire" in said["error"]
    assert f"On {two[1].url} the model was made." in said["hint"]
    assert f"?server={two[0].url}" in said["hint"]
    assert [has(server, "x") for server in two] == [False, True]


def test_verbose_lines_say_at_once_where_it_failed(
    plain: FlaskCaller, two: tuple[Standin, Standin], models_dir: Path
) -> None:
    two[0].fail_next("/api/create", body=b'{"error": "disk on fire"}')
    app = make_app(models_dir, *(one.url for one in two), "http://127.0.0.1:9")
    answer = create(FlaskCaller(app.test_client()), "x", "?verbose=1", "tiny_base")
    said = {
        line["message"]["details"]["server"]: line["message"]["details"]["error"]
        for line in answer.lines[:-1]
        if line["message"]["action"] == "Failed on one server."
    }
    assert said.keys() == {two[0].url, "http://127.0.0.1:9"}
    assert "disk on fire" in said[two[0].url]
    assert "can't be reached" in said["http://127.0.0.1:9"]


def test_deploy_with_one_server_down(
    models_dir: Path, two: tuple[Standin, Standin], zips: Zips
) -> None:
    app = make_app(models_dir, "http://127.0.0.1:9", two[0].url)
    fields = [("model_name_on_ollama", "x"), ("Model", zips.both)]
    answer = FlaskCaller(app.test_client()).send_form("/models/deploy/", fields)
    assert answer.status == 200
    assert answer.last["status"] == 502
    assert has(two[0], "x")
    assert (models_dir / "tiny_lora").is_dir()
    assert not litter(models_dir)
    ready = app.test_client().get("/readyz")
    assert ready.status_code == 200
    checks = ready.json["checks"]  # type: ignore[index]
    assert checks[f"ollama {two[0].url}"]["ok"]
    assert not checks["ollama http://127.0.0.1:9"]["ok"]


def test_servers_that_were_down_are_caught_up_as_the_hint_says(
    models_dir: Path, tmp_path: Path, zips: Zips
) -> None:
    one, two, three = (Standin(tmp_path / name, version=OLD) for name in "abc")
    ports = [urlsplit(down.url).port or 0 for down in (two, three)]
    two.stop()
    three.stop()
    with one:
        caller = FlaskCaller(make_app(models_dir, one.url, two.url, three.url).test_client())
        fields = [("model_name_on_ollama", "x"), ("Model", zips.base)]
        last = caller.send_form("/models/deploy/", fields).last
        assert last["status"] == 502
        hint = last["details"]["hint"]
        assert f"On {one.url} the model was made. For the others, POST " in hint
        before = len(one.requests)
        with (
            Standin(tmp_path / "b", version=OLD, port=ports[0]) as two,
            Standin(tmp_path / "c", version=OLD, port=ports[1]) as three,
        ):
            path = hint.rpartition(" POST ")[2]
            body = {"model": "tiny_base", "model_name_on_ollama": "x"}
            assert actions(caller.send_json("POST", path, body)) == LINES
            assert has(two, "x")
            assert has(three, "x")
        assert len(one.requests) == before


def test_all_failing_is_known_at_once(models_dir: Path, zips: Zips) -> None:
    app = make_app(models_dir, "http://127.0.0.1:9", "http://127.0.0.1:10")
    fields = [("model_name_on_ollama", "x"), ("Model", zips.both)]
    answer = FlaskCaller(app.test_client()).send_form("/models/deploy/", fields)
    assert answer.status == 502
    assert not (models_dir / "tiny_lora").exists()


def test_the_setting_takes_a_list() -> None:
    urls = from_environ({"OLLAMA_HOST": "one, two:80,http://one:11434"})["OLLAMA_HOST"]
    assert urls == ("http://one:11434", "http://two:80")
    with pytest.raises(SettingError):
        from_environ({"OLLAMA_HOST": "one,ftp://two"})

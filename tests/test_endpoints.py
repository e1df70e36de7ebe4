"""The contract's five endpoints, line by line, in-process and over HTTP."""

import json
from pathlib import Path

import pytest

from tests.callers import Caller
from tests.conftest import Zips, check_adapter_arrived, each_ollama, litter

HEADERS = {
    "content-type": "application/x-ndjson",
    "cache-control": "no-store",
    "x-accel-buffering": "no",
}


def line(action: str, ratio: str, details: dict[str, str], key: str = "progress_ratio") -> str:
    """A line as the contract's table has it."""
    message = f'"action": "{action}", "task_uuid": "UUID", "{key}": {ratio}, "details": '
    return f'{{"status": 200, "message": {{{message}{json.dumps(details)}}}}}\n'


def upload(caller: Caller, zip_path: Path) -> None:
    assert caller.send_form("/models/upload/", [("Model", zip_path)]).last["status"] == 200


def test_list_of_nothing_is_200_and_no_lines(caller: Caller) -> None:
    answer = caller.get("/models/")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers.items() >= HEADERS.items()


def test_list_is_in_name_order_without_the_service_s_own_folders(
    caller: Caller, models_dir: Path
) -> None:
    for name in ("two", "One", ".hidden", "three"):
        (models_dir / name).mkdir(parents=True)
    (models_dir / "a file").touch()
    assert caller.get("/models/").text == (
        line("Get model.", "0.3333333333333333", {"model": "One"})
        + line("Get model.", "0.6666666666666666", {"model": "three"})
        + line("Get model.", "1.0", {"model": "two"})
    )


@pytest.mark.parametrize("way", ["Model", "model", "raw"])
def test_upload(caller: Caller, zips: Zips, models_dir: Path, way: str) -> None:
    if way == "raw":
        answer = caller.send_file("/models/upload/", zips.both)
    else:
        answer = caller.send_form("/models/upload/", [(way, zips.both)])
    assert answer.status == 200
    assert answer.headers.items() >= HEADERS.items()
    assert answer.text == (
        line("Started save model.", "0", {"model": "tiny_lora.zip"})
        + line("Start extracted model.", "0.66", {"model": "tiny_lora.zip"})
        + line("Success upload model file.", "1.0", {"model": "tiny_lora.zip"})
    )
    files = sorted(path.name for path in (models_dir / "tiny_lora").glob("[!.]*"))
    assert files == ["base.gguf", "lora.gguf"]
    assert not litter(models_dir)


@each_ollama
def test_create(caller: Caller, zips_of_each: Zips, ollama: str, new_name: str) -> None:
    upload(caller, zips_of_each.both)
    fields = {"model": "tiny_lora", "model_name_on_ollama": new_name}
    answer = caller.send_json("POST", "/models/create/", fields)
    assert answer.status == 200
    assert answer.headers.items() >= HEADERS.items()
    assert answer.text == (
        line("Started to create model.", "0.33", {"model": "tiny_lora"})
        + line("Start structure template", "0.66", {"model": "tiny_lora"})
        + line("Success create model", "1.0", fields)
    )
    check_adapter_arrived(ollama, new_name)


@each_ollama
@pytest.mark.parametrize("way", ["name first", "file first", "raw"])
def test_deploy(
    caller: Caller, zips_of_each: Zips, ollama: str, new_name: str, models_dir: Path, way: str
) -> None:
    fields: list[tuple[str, str | Path]] = [
        ("model_name_on_ollama", new_name),
        ("Model", zips_of_each.both),
    ]
    if way == "raw":
        query = f"?model_name_on_ollama={new_name}"
        answer = caller.send_file("/models/deploy/", zips_of_each.both, query)
    else:
        answer = caller.send_form("/models/deploy/", fields[:: 1 if way == "name first" else -1])
    assert answer.status == 200
    assert answer.headers.items() >= HEADERS.items()
    uploaded, created = {"model": "tiny_lora.zip"}, {"model": "tiny_lora"}
    assert answer.text == (
        line("Start save model.", "0.0", uploaded, "progress")
        + line("Start extract model.", "0.33", uploaded, "progress")
        + line("Success upload model file.", "0.5", uploaded, "progress")
        + line("Start create model.", "0.67", created, "progress")
        + line("Start structure template", "0.83", created, "progress")
        + line(
            "Success create model", "1.0", {**created, "model_name_on_ollama": new_name}, "progress"
        )
    )
    check_adapter_arrived(ollama, new_name)
    assert not litter(models_dir)


def test_delete(caller: Caller, zips: Zips, models_dir: Path) -> None:
    upload(caller, zips.base)
    answer = caller.send_json("DELETE", "/models/", {"model": "tiny_base"})
    assert answer.status == 200
    assert answer.headers.items() >= HEADERS.items()
    assert answer.text == (
        line("Start delete model.", "0.5", {"model_name": "tiny_base"})
        + line("Success delete model.", "1.0", {"model_name": "tiny_base"})
    )
    assert not (models_dir / "tiny_base").exists()
    assert not litter(models_dir)

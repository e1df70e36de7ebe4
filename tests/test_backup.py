"""Back-up and restore, with the commands of docs/operations.rst."""

import shutil
from pathlib import Path

import pytest

from app import create_app
from tests.callers import FlaskCaller
from tests.conftest import Zips, check_adapter_arrived, litter
from tests.documents import example, run


def upload(caller: FlaskCaller, path: Path, name: str) -> None:
    copy = path.with_name(f"{name}.zip")
    shutil.copy(path, copy)
    assert caller.send_form("/models/upload/", [("Model", copy)]).last["status"] == 200
    copy.unlink()


def tar(how: str, models_dir: Path, folder: Path) -> None:
    code = example("docs/operations.rst", f"tar --{how}").code
    run(code, folder, "", MODEL_HANDLER_MODELS_DIR=str(models_dir))


@pytest.mark.parametrize("ollama_version", ["0.34.1"])
def test_models_come_back_with_digests_history_and_shared_files(
    models_dir: Path, ollama: str, new_name: str, zips: Zips, tmp_path: Path
) -> None:
    app = create_app({"MODELS_DIR": models_dir, "OLLAMA_HOST": ollama})
    caller = FlaskCaller(app.test_client())
    for name in ("one", "two"):
        upload(caller, zips.both, name)
    shared = models_dir / "one" / "tokens.bin"
    shared.write_bytes(bytes(2**20))
    (models_dir / "two" / "tokens.bin").hardlink_to(shared)
    fields = {"model": "one", "model_name_on_ollama": new_name}
    assert caller.send_json("POST", "/models/create/", fields).last["status"] == 200
    assert list((models_dir / "one").rglob("kept/*"))
    before = {name: app.test_client().get(f"/models/{name}/").json for name in ("one", "two")}

    tar("create", models_dir, tmp_path)
    restored = tmp_path / "restored"
    restored.mkdir()
    tar("extract", restored, tmp_path)

    assert sorted(path.name for path in restored.iterdir()) == ["one", "two"]
    assert not list(restored.rglob("kept"))
    again = create_app({"MODELS_DIR": restored, "OLLAMA_HOST": ollama})
    for name, report in before.items():
        assert again.test_client().get(f"/models/{name}/").json == report
    assert (restored / "one/tokens.bin").samefile(restored / "two/tokens.bin")
    caller = FlaskCaller(again.test_client())
    assert caller.send_json("POST", "/models/create/", fields).last["status"] == 200
    check_adapter_arrived(ollama, new_name)
    assert not litter(restored)

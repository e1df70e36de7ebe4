"""The owner's converter, for safetensors models that aren't known here: what it sees, how it may
fail, and what becomes of its GGUF."""

import json
import shlex
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from app import create_app
from app.config import SettingError, from_environ
from app.progress import Cancelled
from app.service import converter
from app.service.converter import converted, filled
from tests.callers import Answer, FlaskCaller
from tests.conftest import litter
from tests.gguf_files import write_base, write_zip
from tests.standin import Standin
from tests.test_zips import HF_MODEL, PEFT

MEMBERS = {
    **HF_MODEL,
    "config.json": json.dumps(
        {
            "architectures": ["CohereForCausalLM"],
            "auto_map": {"AutoConfig": "evil.Config"},
            "text_config": {"auto_map": {"AutoModel": "evil.Model"}, "size": 1},
        }
    ).encode(),
    "tokenizer_config.json": b'{"auto_map": {"AutoTokenizer": ["evil.T", null]}, "eos_token": "e"}',
    "merges.txt": b"a b",
    "vocab.txt": b"a",
    "evil.py": b"raise SystemExit('this ran')",
    "training_args.bin": b"\x80\x04.",
}
COPY = """
import json, os, pathlib, shutil, sys
folder, output = map(pathlib.Path, sys.argv[-2:])
seen = {path.name: path.read_text(errors="replace") for path in folder.iterdir()}
with open(BESIDE / "seen", "a") as file:
    print(json.dumps([seen, dict(os.environ)]), file=file)
shutil.copyfile(BESIDE / "made.gguf", output)
"""
FAILS = {
    "with a message": (
        "print('first'); sys.exit(f'{sys.argv[1]}/config.json: no /opt/llama.cpp/key \\x1b[31m')",
        "This service's converter couldn't convert the model: source/config.json: no key \\x1b[31m",
    ),
    "without a word": (
        "sys.exit(3)",
        "This service's converter couldn't convert the model: it ended with code 3 and said"
        " nothing",
    ),
    "with a line without end": (
        "sys.exit('x' * 2**20)",
        f"This service's converter couldn't convert the model: {'x' * 300}…",
    ),
    "without a GGUF": (
        "pass",
        "This service's converter ended well, but wrote no GGUF.",
    ),
    "with what is no GGUF": (
        "open(sys.argv[2], 'wb').write(b'GGUF' + bytes(9))",
        "This service's converter ended well, but wrote no GGUF that can be used: ",
    ),
    "hanging": (
        "time.sleep(60)",
        "This service's converter took more than 1 seconds and was stopped.",
    ),
}


def script(folder: Path, text: str) -> str:
    path = folder / "convert it.py"
    beside = f"import pathlib, os, sys, time\nBESIDE = pathlib.Path({str(folder)!r})\n"
    path.write_text(beside + text)
    return f"{sys.executable} {shlex.quote(str(path))}"


def deploy(
    tmp_path: Path,
    models_dir: Path,
    command: str,
    members: Mapping[str, bytes | Path] = MEMBERS,
    times: int = 1,
    **fields: str,
) -> tuple[list[Answer], dict[str, Any]]:
    """The answers of a server that converts nothing, and its model."""
    with Standin(tmp_path / "ollama", version="0.34.1") as standin:
        settings = {"MODELS_DIR": models_dir, "OLLAMA_HOST": standin.url, "CONVERTER": command}
        caller = FlaskCaller(create_app(settings).test_client())
        zipped = write_zip(tmp_path / "m.zip", members)
        form = [("Model", zipped), ("model_name_on_ollama", "new"), *fields.items()]
        again = {"model": "m", "model_name_on_ollama": "new", **fields}
        answers = []
        for _ in range(times):
            if (models_dir / "m").exists():
                answers.append(caller.send_json("POST", "/models/create/", again))
            else:
                answers.append(caller.send_form("/models/deploy/?verbose=1", form))
        shown = {}
        if answers[-1].last["status"] == 200:
            shown = json.loads(caller.get("/models/m/").body)
    return answers, shown


def test_sees_data_alone_and_runs_once(
    tmp_path: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_HANDLER_SERVER", "secret")
    monkeypatch.setenv("HF_TOKEN", "secret")
    write_base(tmp_path / "made.gguf")
    command = script(tmp_path, COPY)
    answers, report = deploy(tmp_path, models_dir, command, times=2, quantize="Q8_0")
    assert [answer.last["status"] for answer in answers] == [200, 200], answers[-1].last
    runs = [json.loads(line) for line in (tmp_path / "seen").read_text().splitlines()]
    assert len(runs) == 1
    seen, environment = runs[0]
    brought = {"config.json", "model.safetensors", "tokenizer_config.json"}
    brought |= {"merges.txt", "vocab.txt"}
    assert seen.keys() == brought | {
        name for name in HF_MODEL if name.endswith((".json", ".model"))
    }
    assert not [name for name, text in seen.items() if "auto_map" in text or "evil" in text]
    assert json.loads(seen["config.json"])["text_config"] == {"size": 1}
    assert "secret" not in environment.values()
    assert not [name for name in environment if name.startswith("MODEL_HANDLER")]
    assert environment["HF_HUB_OFFLINE"] == environment["TRANSFORMERS_OFFLINE"] == "1"
    assert report["last_create"]["converted"]["quantize"] == "Q8_0"
    assert not litter(models_dir)


def test_another_command_makes_another_file(tmp_path: Path, models_dir: Path) -> None:
    write_base(tmp_path / "made.gguf")
    for command in (script(tmp_path, COPY), f"{script(tmp_path, COPY)} --outtype f32"):
        (answer,), _ = deploy(tmp_path, models_dir, command)
        assert answer.last["status"] == 200, answer.last
        (tmp_path / "ollama").rename(tmp_path / f"ollama {len(command)}")
    assert len((tmp_path / "seen").read_text().splitlines()) == 2


def test_merges_the_adapter_into_what_was_made(tmp_path: Path, models_dir: Path) -> None:
    write_base(tmp_path / "made.gguf")
    adapter = {f"adapter/{name}": content for name, content in PEFT.items()}
    model = {f"base/{name}": content for name, content in MEMBERS.items()}
    command = script(tmp_path, COPY)
    (answer,), report = deploy(tmp_path, models_dir, command, {**model, **adapter})
    assert answer.last["status"] == 200, answer.last
    assert report["last_create"]["merged"]["tensors"] == 1


@pytest.mark.parametrize("how", FAILS)
def test_fails(tmp_path: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    text, error = FAILS[how]
    monkeypatch.setattr(converter, "LIMIT_SECONDS", 1.0 if how == "hanging" else 60.0)
    (answer,), _ = deploy(tmp_path, models_dir, script(tmp_path, text))
    assert answer.last["status"] == 422, answer.last
    said = answer.last["details"]["error"]
    assert said == error or (error.endswith(": ") and said.startswith(error))
    assert "MODEL_HANDLER_CONVERTER" in answer.last["details"]["hint"]
    assert str(tmp_path).encode() not in answer.body
    assert not litter(models_dir)


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(converter.Unusable, match="It can't be started: No such file"):
        converted(["no-such-program"], [], tmp_path, lambda count: None)


def test_ends_with_its_client(tmp_path: Path) -> None:
    command = shlex.split(
        script(tmp_path, "(BESIDE / 'pid').write_text(str(os.getpid())); time.sleep(60)")
    )
    (tmp_path / "work").mkdir()

    def report(count: int) -> None:
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
            raise Cancelled

    with pytest.raises(Cancelled):
        converted(command, [], tmp_path / "work", report)
    check_gone(int((tmp_path / "pid").read_text()))


ESCAPES = {
    "to another group": """
if os.fork() == 0:
    os.setpgid(0, 0)
    (BESIDE / "pid").write_text(str(os.getpid()))
time.sleep(20)
""",
    "out of the session": """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        (BESIDE / "pid").write_text(str(os.getpid()))
    else:
        os._exit(0)
time.sleep(20)
""",
}


@pytest.mark.parametrize("where", ESCAPES)
def test_what_moved_away_ends_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(converter, "LIMIT_SECONDS", 1.0)
    command = shlex.split(script(tmp_path, ESCAPES[where]))
    (tmp_path / "work").mkdir()
    with pytest.raises(converter.Unusable, match="took more than 1 seconds"):
        converted(command, [], tmp_path / "work", lambda count: None)
    check_gone(int((tmp_path / "pid").read_text()))


def test_what_lost_its_bounds_ends_too(tmp_path: Path) -> None:
    text = """
import signal
(BESIDE / "pid").write_text(str(os.getpid()))
os.kill(os.getppid(), signal.SIGKILL)
time.sleep(20)
"""
    (tmp_path / "work").mkdir()
    with pytest.raises(converter.Unusable, match="ended with code -9"):
        converted(shlex.split(script(tmp_path, text)), [], tmp_path / "work", lambda count: None)
    check_gone(int((tmp_path / "pid").read_text()))


def check_gone(pid: int) -> None:
    end = time.monotonic() + 5
    while time.monotonic() < end:
        with suppress(FileNotFoundError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                threading.Event().wait(0.02)
                continue
        return
    raise AssertionError(f"{pid} still runs")


FILLED = {
    "both": (["c", "{folder}", "--outfile={output}"], ["c", "/f", "--outfile=/o"]),
    "neither": (["c", "-v"], ["c", "-v", "/f", "/o"]),
    "folder only": (["c", "{folder}"], ["c", "/f", "/o"]),
    "output only": (["c", "-o", "{output}"], ["c", "-o", "/o", "/f"]),
}


@pytest.mark.parametrize("name", FILLED)
def test_filled(name: str) -> None:
    command, expected = FILLED[name]
    assert filled(command, "/f", "/o") == expected


def test_setting() -> None:
    assert from_environ({})["CONVERTER"] == ()
    setting = {"MODEL_HANDLER_CONVERTER": "python 'a b.py' {folder}"}
    assert from_environ(setting)["CONVERTER"] == ("python", "a b.py", "{folder}")
    with pytest.raises(SettingError, match="No closing quotation"):
        from_environ({"MODEL_HANDLER_CONVERTER": "python 'a"})

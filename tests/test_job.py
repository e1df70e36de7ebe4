"""The process that works on weights: what it says, its limits, and its end, whoever brings it."""

import hashlib
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import psutil
import pytest

from app.weights.errors import WeightsError, WeightsKilled
from app.weights.job import Job, Progress, Result, check, run
from app.weights.tokenizers.splitting import BYTES, LLAMA3
from tests.gguf_files import write_base, write_lora
from tests.llama_cpp import generate
from tests.small_tokenizers import byte_level, save

Type = gguf.GGMLQuantizationType


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base") / "base.gguf", width=256)


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that takes some seconds to be quantised to IQ4_NL."""
    return write_base(tmp_path_factory.mktemp("slow") / "slow.gguf", width=2048, blocks=2)


def test_a_merge_says_how_far_it_is(tmp_path: Path, base: Path) -> None:
    lora = write_lora(tmp_path / "lora.gguf", width=256)
    job = Job((str(base),), (str(lora),))
    heard: list[Progress | None] = []
    plans: list[Result] = []
    made = run(job, tmp_path / "out.gguf", heard.append, plans.append)
    content = (tmp_path / "out.gguf").read_bytes()
    assert (made.sha256, made.size) == (hashlib.sha256(content).hexdigest(), len(content))
    assert (made.architecture, made.quantization, made.changed) == ("llama", "F32", 7)
    assert heard[-1] == Progress(len(content), len(content), sum(made.types.values()))
    assert plans == [check(job)]
    assert plans[0].sha256 is None
    reader = gguf.GGUFReader(tmp_path / "out.gguf")
    assert reader.fields["general.name"].contents() == "tiny (merged with lora.gguf)"


def test_a_check_writes_nothing_and_knows_the_size(tmp_path: Path, base: Path) -> None:
    job = Job((str(base),), quantize="Q4_K_M")
    plan = check(job)
    made = run(job, tmp_path / "out.gguf", lambda progress: None)
    assert plan.quantization == "Q4_K_M"
    assert plan.size == made.size == (tmp_path / "out.gguf").stat().st_size
    assert plan.types == {"F32": 3, "Q4_K": 6, "Q6_K": 3}


@pytest.mark.parametrize("work", [check, lambda job: run(job, Path("/nowhere"), lambda _: None)])
def test_what_can_t_work_is_said_with_the_way_out(
    tmp_path: Path, work: Callable[[Job], Result]
) -> None:
    quantised = write_base(tmp_path / "q8.gguf", dtype=Type.Q8_0)
    with pytest.raises(WeightsError, match="quantised already") as error:
        work(Job((str(quantised),), quantize="Q4_0"))
    assert error.value.hint is not None


def test_a_file_that_is_there_is_left_alone(tmp_path: Path, base: Path) -> None:
    (tmp_path / "out.gguf").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        run(Job((str(base),)), tmp_path / "out.gguf", lambda progress: None)
    assert (tmp_path / "out.gguf").read_bytes() == b"mine"


def test_a_disk_that_can_t_be_written_is_no_fault_of_the_weights(base: Path) -> None:
    with pytest.raises(FileNotFoundError):
        run(Job((str(base),)), Path("/nowhere/out.gguf"), lambda progress: None)


def workers() -> list[psutil.Process]:
    """The processes that work on weights; the session may have others, a gunicorn for one."""
    return [each for each in psutil.Process().children() if "app.weights" in each.cmdline()]


def worker() -> psutil.Process:
    (process,) = workers()
    return process


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_killed_process_ends_the_work_at_once(tmp_path: Path, slow: Path, end: int) -> None:
    def kill(progress: Progress | None) -> None:
        if progress is not None:
            worker().send_signal(end)

    began = time.monotonic()
    with pytest.raises(WeightsKilled, match=signal.Signals(end).name):
        run(Job((str(slow),), quantize="IQ4_NL"), tmp_path / "out.gguf", kill)
    assert time.monotonic() - began < 10
    assert not list(tmp_path.iterdir())
    assert not workers()


def test_a_process_killed_before_it_says_anything(tmp_path: Path, slow: Path) -> None:
    def kill(progress: Progress | None) -> None:
        worker().kill()

    job = Job((str(slow),), quantize="IQ4_NL")
    with pytest.raises(WeightsKilled):
        run(job, tmp_path / "out.gguf", kill, lambda plan: worker().kill())
    assert not list(tmp_path.iterdir())


def test_whoever_cancels_leaves_nothing_behind(tmp_path: Path, slow: Path) -> None:
    def stop(progress: Progress | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(Job((str(slow),), quantize="IQ4_NL"), tmp_path / "out.gguf", stop)
    assert not list(tmp_path.iterdir())
    assert not workers()


def test_the_process_ends_with_whoever_waits_for_it(tmp_path: Path, slow: Path) -> None:
    """A killed web worker cleans nothing up: its orphan has to, and has to end."""
    code = (
        "import sys; from pathlib import Path; from app.weights.job import Job, run\n"
        "run(Job((sys.argv[1],), quantize='IQ4_NL'), Path(sys.argv[2]),"
        " lambda progress: print(progress, flush=True))"
    )
    command = [sys.executable, "-c", code, slow, tmp_path / "out.gguf"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as waiting:
        assert waiting.stdout is not None
        while b"Progress" not in waiting.stdout.readline():
            pass
        (orphan,) = psutil.Process(waiting.pid).children()
        assert (tmp_path / "out.gguf").exists()
        waiting.kill()
    orphan.wait(5)
    assert not list(tmp_path.iterdir())


def test_the_process_s_memory_is_bounded(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.weights.job.MEMORY_BYTES", 2**20)
    with pytest.raises((WeightsError, WeightsKilled)):
        check(Job((str(base),)))


def test_a_process_that_stands_still_is_ended(
    tmp_path: Path, slow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.weights.job.SILENCE_SECONDS", 0.5)

    def stop(progress: Progress | None) -> None:
        if progress is not None:
            worker().suspend()

    with pytest.raises(WeightsKilled, match="made no progress"):
        run(Job((str(slow),), quantize="IQ4_NL"), tmp_path / "out.gguf", stop)
    assert not workers()


def test_no_secret_reaches_the_process(
    tmp_path: Path, slow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_HANDLER_API_KEY", "secret")
    seen: list[dict[str, str]] = []
    job = Job((str(slow),))
    run(
        job,
        tmp_path / "out.gguf",
        lambda progress: None,
        lambda plan: seen.append(worker().environ()),
    )
    assert "MODEL_HANDLER_API_KEY" not in seen[0]
    assert os.environ["PATH"] == seen[0]["PATH"]


@pytest.mark.parametrize(
    ("modules", "unwanted"),
    [
        ("app.weights.job, app.service.conversion", ["numpy"]),
        ("app.weights.__main__", ["app.weights.convert", "app.weights.tokenizers", "gguf"]),
        ("app.weights.__main__, app.weights.convert", ["flask", "requests", "app.service"]),
    ],
)
def test_each_process_loads_only_what_it_needs(modules: str, unwanted: list[str]) -> None:
    code = f"import sys, {modules}; sys.exit(any(name in sys.modules for name in {unwanted}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_other_threads_are_not_held_up(tmp_path: Path, slow: Path) -> None:
    done = threading.Event()
    target = tmp_path / "out.gguf"
    job = Job((str(slow),), quantize="Q8_0")
    thread = threading.Thread(target=lambda: (run(job, target, lambda _: None), done.set()))
    thread.start()
    longest = 0.0
    while not done.is_set():
        began = time.monotonic()
        time.sleep(0.001)
        longest = max(longest, time.monotonic() - began)
    thread.join()
    assert longest < 0.5


@pytest.mark.parametrize(
    ("quantize", "kind"), [(None, "BF16"), ("Q8_0", "Q8_0"), ("Q4_K_M", "Q4_K_M")]
)
def test_a_trainer_s_folder_becomes_one_gguf(
    tmp_path: Path, quantize: str | None, kind: str
) -> None:
    folder = trainer_s_folder(tmp_path / "tiny", width=256)
    job = Job(tuple(map(str, sorted(folder.iterdir()))), quantize=quantize, name="tiny")
    plan = check(job)
    made = run(job, tmp_path / "out.gguf", lambda progress: None)
    assert plan.size == (tmp_path / "out.gguf").stat().st_size
    assert (made.architecture, made.quantization) == ("llama", kind)
    assert generate(tmp_path / "out.gguf")


def trainer_s_folder(folder: Path, width: int) -> Path:
    """What save_pretrained writes of a small Llama in BF16."""
    config = {
        **{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": width},
        **{"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2},
        **{"intermediate_size": 2 * width, "vocab_size": 1024, "rms_norm_eps": 1e-5},
        **{"max_position_embeddings": 512, "tie_word_embeddings": True, "torch_dtype": "bfloat16"},
    }
    tokenizer = byte_level((LLAMA3, BYTES))
    save(folder, {"config.json": config, "tokenizer.json": tokenizer})
    shapes = {"model.embed_tokens.weight": (1024, width), "model.norm.weight": (width,)}
    for block in range(2):
        start = f"model.layers.{block}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{start}{norm}.weight"] = (width,)
        for part, rows in (("q", width), ("k", width // 2), ("v", width // 2), ("o", width)):
            shapes[f"{start}self_attn.{part}_proj.weight"] = (rows, width)
        for part in ("gate", "up"):
            shapes[f"{start}mlp.{part}_proj.weight"] = (2 * width, width)
        shapes[f"{start}mlp.down_proj.weight"] = (width, 2 * width)
    random, table, data = np.random.default_rng(0), {}, b""
    for name, shape in shapes.items():
        values = random.normal(0, 0.05, shape).astype(np.float32)
        packed = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
        place = [len(data), len(data) + len(packed)]
        table[name] = {"dtype": "BF16", "shape": shape, "data_offsets": place}
        data += packed
    header = json.dumps(table).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + data)
    return folder

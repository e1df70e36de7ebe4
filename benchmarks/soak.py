"""Mixed load with kills, slow clients and hostile files for half an hour, and what came of it.

`python -m benchmarks.soak [--seconds 1800] [--seed 0]`; on loopback alone, with the tests' stand-in
for Ollama. It ends with 1 if anything is torn or left over, or if an answer tells of a fault.
"""

import argparse
import hashlib
import io
import json
import random
import struct
import tempfile
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import requests
from tusclient.client import TusClient
from tusclient.exceptions import TusCommunicationError

from tests.conftest import litter
from tests.gguf_files import write_base, write_lora, write_zip
from tests.serving import Served, serve
from tests.slow_clients import KINDS, slow_clients
from tests.standin import Standin
from tests.zip_defects import DEFECTS, OTHER_KINDS

NAMES = ("m0", "m1", "m2", "large")
HOSTILE = "hostile"
KILLED = "was killed (SIGKILL)"
CALLERS = 4
KILL_SECONDS = (4.0, 10.0)
RESTART_SECONDS = 8.0
SLOW = 20
TIMEOUT = 60
ENDING_SECONDS = 5

Digests = frozenset[tuple[str, str]]


@dataclass
class Found:
    """What has been seen so far; kept by all threads under one lock."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    asked: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    torn: list[str] = field(default_factory=list)
    health: float = 0.0
    health_after_kill: float = 0.0
    memory: dict[str, int] = field(default_factory=dict)
    processes: set[psutil.Process] = field(default_factory=set)

    def answer(self, what: str, response: requests.Response) -> None:
        """Count an answer by its last line's status, which is the true one."""
        status, error = response.status_code, ""
        with suppress(ValueError, KeyError, IndexError, TypeError):
            line = json.loads(response.content.splitlines()[-1])
            status, error = line["status"], line["message"]["details"].get("error", "")
        with self.lock:
            self.statuses[status] += 1
            if status >= 500 and KILLED in error:
                self.broken[f"{what}: {status} {error}"] += 1
            elif status >= 500:
                self.faults[f"{status} {what}: {error[:120]}"] += 1


class Soak:
    """One service, its load, and those that harm it."""

    def __init__(self, folder: Path, ollama: str, seed: int) -> None:
        self.models_dir, self.temporary = folder / "models", folder / "temporary"
        self.temporary.mkdir()
        self.ollama, self.random, self.found = ollama, random.Random(seed), Found()
        self.port, self.killed_at = 0, 0.0
        self.stopped = threading.Event()
        self.sources: list[Path] = []
        self.whole: set[Digests] = set()
        for number in range(2):
            base = write_base(folder / f"base{number}.gguf", width=512, blocks=4, seed=number)
            lora = write_lora(folder / f"lora{number}.gguf", width=512, blocks=4, seed=number)
            members = {f"base{number}.gguf": base, "lora.gguf": lora}
            self.sources.append(write_zip(folder / f"v{number}.zip", members))
            self.whole.add(_digests({name: path.read_bytes() for name, path in members.items()}))
        self.contents = [path.read_bytes() for path in self.sources]
        self.hostile = [*_hostile((folder / "lora0.gguf").read_bytes())]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def serve(self) -> Any:
        settings = {"TMPDIR": str(self.temporary), "MODEL_HANDLER_REQUEST_TIMEOUT": "10"}
        return serve(self.models_dir, self.ollama, settings, port=self.port)

    def run(self, seconds: float) -> None:
        """Load the service for that long; killed masters are followed by others at the port."""
        deadline = time.monotonic() + seconds
        work = [*[self._call] * CALLERS, self._slow, self._probe, self._kill_helpers]
        with self.serve() as served:
            self.port = int(served.url.rpartition(":")[2])
            threads = [threading.Thread(target=self._repeat, args=(each,)) for each in work]
            for thread in threads:
                thread.start()
            self._watch(served, deadline)
        while time.monotonic() < deadline:
            with self._count_kill("restart"), self.serve() as served:
                self._watch(served, deadline)
        # The last one starts behind everything that was killed, ends what still runs, and sweeps.
        with self.serve() as served:
            self.stopped.set()
            for thread in threads:
                thread.join()
            self._see(served)

    def _repeat(self, work: Callable[[], None]) -> None:
        while not self.stopped.is_set():
            work()

    @contextmanager
    def _count_kill(self, what: str) -> Iterator[None]:
        self.killed_at = time.monotonic()
        self.found.kills[what] += 1
        yield

    def _watch(self, served: Served, deadline: float) -> None:
        """Kill the worker now and then, at last the master; see how much memory each takes."""
        ends = min(deadline, time.monotonic() + 4 * KILL_SECONDS[1])
        kills = time.monotonic() + self.random.uniform(*KILL_SECONDS)
        while time.monotonic() < ends:
            time.sleep(0.1)
            self._see(served)
            if time.monotonic() > kills:
                with self._count_kill("worker"), suppress(psutil.Error, IndexError):
                    psutil.Process(served.process.pid).children()[0].kill()
                kills = time.monotonic() + self.random.uniform(*KILL_SECONDS)
        with self._count_kill("master"):
            served.process.kill()

    def _see(self, served: Served) -> None:
        with suppress(psutil.Error):
            master = psutil.Process(served.process.pid)
            for process in [master, *master.children(recursive=True)]:
                with suppress(psutil.Error):
                    kind = "weights" if _is_helper(process) else "service"
                    size = process.memory_info().rss
                    self.found.processes.add(process)
                    self.found.memory[kind] = max(size, self.found.memory.get(kind, 0))

    def _kill_helpers(self) -> None:
        self.stopped.wait(self.random.uniform(0.1, 3))
        for process in list(self.found.processes):
            with suppress(psutil.Error):
                if _is_helper(process):
                    process.kill()
                    self.found.kills["weights"] += 1
                    return

    def _probe(self) -> None:
        started = time.monotonic()
        self.stopped.wait(0.05)
        asked = time.monotonic()
        with suppress(requests.RequestException):
            requests.get(f"{self.url}/healthz", timeout=TIMEOUT).raise_for_status()
            took = time.monotonic() - asked
            if self.killed_at + RESTART_SECONDS > started:
                self.found.health_after_kill = max(took, self.found.health_after_kill)
            else:
                self.found.health = max(took, self.found.health)

    def _slow(self) -> None:
        with suppress(OSError), slow_clients(self.url, self.random.choice([*KINDS]), SLOW):
            self.stopped.wait(3)

    def _call(self) -> None:
        """One request of a kind by chance."""
        kinds: dict[str, Callable[[str], requests.Response | None]] = {
            "deploy": self._deploy,
            "upload by form": self._form,
            "upload raw": self._raw,
            "upload by tus": self._tus,
            "list": lambda name: self._get("/models/?verbose=1"),
            "delete": self._delete,
            "download": self._download,
            "check": self._check,
            "create": self._create,
            "hostile": self._hostile,
        }
        what = self.random.choice([*kinds])
        with self.found.lock:
            self.found.asked[what] += 1
        try:
            response = kinds[what](self.random.choice(NAMES))
        except (requests.RequestException, TusCommunicationError, OSError) as error:
            self.stopped.wait(0.1)
            with self.found.lock:
                self.found.broken[f"{what}: {type(error).__name__}"] += 1
        else:
            if response is not None:
                self.found.answer(what, response)

    def _get(self, path: str) -> requests.Response:
        return requests.get(self.url + path, timeout=TIMEOUT)

    def _post(self, path: str, name: str, content: bytes, **fields: str) -> requests.Response:
        files = {"Model": (f"{name}.zip", content)}
        return requests.post(self.url + path, data=fields, files=files, timeout=TIMEOUT)

    def _content(self) -> bytes:
        return self.random.choice(self.contents)

    def _deploy(self, name: str) -> requests.Response:
        content, made = self._content(), f"made-{name}"
        return self._post("/models/deploy/", name, content, model_name_on_ollama=made)

    def _form(self, name: str) -> requests.Response:
        return self._post("/models/upload/", name, self._content())

    def _raw(self, name: str) -> requests.Response:
        url = f"{self.url}/models/upload/{name}.zip"
        return requests.put(url, data=self._content(), timeout=TIMEOUT)

    def _tus(self, name: str) -> requests.Response:
        client = TusClient(f"{self.url}/uploads/")
        uploader = client.uploader(
            file_stream=io.BytesIO(self._content()),
            chunk_size=2**21,
            metadata={"filename": f"{name}.zip"},
        )
        uploader.upload()
        given = {"upload": uploader.url.rpartition("/")[2]}
        return requests.post(f"{self.url}/models/upload/", json=given, timeout=TIMEOUT)

    def _delete(self, name: str) -> requests.Response:
        return requests.delete(f"{self.url}/models/", json={"model": name}, timeout=TIMEOUT)

    def _create(self, name: str) -> requests.Response:
        given = {"model": name, "model_name_on_ollama": f"made-{name}"}
        return requests.post(f"{self.url}/models/create/", json=given, timeout=TIMEOUT)

    def _check(self, name: str) -> requests.Response:
        return self._post("/models/check/", name, self._content())

    def _hostile(self, name: str) -> requests.Response:
        path = self.random.choice(("/models/upload/", "/models/check/"))
        response = self._post(path, HOSTILE, self.random.choice(self.hostile))
        return response

    def _download(self, name: str) -> requests.Response:
        response = self._get(f"/models/{name}/download")
        if response.status_code == 200:
            with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
                members = {Path(each).name: archive.read(each) for each in archive.namelist()}
            self._hold(f"download of {name}", members)
        return response

    def _hold(self, what: str, members: dict[str, bytes]) -> None:
        weights = {name: data for name, data in members.items() if name.endswith(".gguf")}
        if _digests(weights) not in self.whole:
            self.found.torn.append(f"{what}: {sorted(weights)}")

    def hold_stored(self) -> int:
        """Hold each stored model against its sources; return how many there are."""
        stored = [self.models_dir / name for name in NAMES if (self.models_dir / name).is_dir()]
        for folder in stored:
            self._hold(
                folder.name, {each.name: each.read_bytes() for each in folder.glob("*.gguf")}
            )
        return len(stored)

    def left_over(self) -> list[str]:
        """Staged files, locks, folders for temporary files and processes that nobody needs."""
        _, alive = psutil.wait_procs(self.found.processes, ENDING_SECONDS)
        running = [f"process {each.pid}" for each in alive]
        return [
            *litter(self.models_dir),
            *(f"temporary/{each.name}" for each in self.temporary.iterdir()),
            *(f"removed/{each.name}" for each in self.models_dir.glob(".model-handler/removed/*")),
            *running,
        ]


def _digests(members: dict[str, bytes]) -> Digests:
    return frozenset((name, hashlib.sha256(data).hexdigest()) for name, data in members.items())


def _is_helper(process: psutil.Process) -> bool:
    return "app.weights" in process.cmdline()


def _hostile(lora: bytes) -> Iterator[bytes]:
    """Zips that nobody should take, and good zips of model files that nobody should."""
    yield from (make() for make, _ in DEFECTS.values())
    yield from (content for content, _ in OTHER_KINDS.values())
    shape = json.dumps({"a": {"dtype": "F32", "shape": ["a", 1_500_000_000]}})
    nines = '{"a": {"dtype": "F32", "shape": [' + "9" * 4_000_000 + '], "data_offsets": [0, 4]}}'
    files = {
        "a.gguf": lora[: len(lora) // 2],
        "b.gguf": lora[:8] + struct.pack("<QQ", 2**60, 2**60) + lora[24:],
        "c.gguf": lora[:200] + bytes(400) + lora[600:],
        "d.safetensors": struct.pack("<Q", len(shape)) + shape.encode(),
        "e.safetensors": struct.pack("<Q", len(nines)) + nines.encode(),
        "f.safetensors": struct.pack("<Q", 2**62) + b"{}",
    }
    for name, content in files.items():
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr(name, content)
        yield buffer.getvalue()


def main() -> None:
    """Run, then print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory()))
        standin = Standin(folder / "ollama", version="0.34.1")
        standin.start()
        running.callback(standin.stop)
        soak = Soak(folder, standin.url, given.seed)
        soak.run(given.seconds)
        stored, left = soak.hold_stored(), soak.left_over()
    found = soak.found
    print(f"requests            {found.asked.total()}: {dict(found.asked)}")
    print(f"statuses            {dict(sorted(found.statuses.items()))}")
    print(f"kills               {dict(found.kills)}")
    print(f"ended by kills      {dict(found.broken)}")
    print(f"worst /healthz      {found.health:.3f} s; after a kill {found.health_after_kill:.3f} s")
    print(
        "peak memory        ", {kind: f"{size / 1e6:.0f} MB" for kind, size in found.memory.items()}
    )
    print(f"models torn         {found.torn or 'none'} ({stored} stored at the end)")
    print(f"left over           {left or 'none'}")
    print("5xx                ", "none" if not found.faults else "")
    for kind, count in found.faults.most_common():
        print(f"  {count:6} {kind}")
    raise SystemExit(bool(found.torn or left or found.faults))


if __name__ == "__main__":
    main()

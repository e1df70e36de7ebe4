"""Several instances behind nginx on one models directory, under mixed load, one of them killed.

What is counted: requests that came to no end, by the instance that had them (nginx's log says
which), and models that are neither of the versions that were uploaded. Used by the suite, and for
longer by `python -m benchmarks.instances`.
"""

import base64
import hashlib
import io
import json
import random
import re
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import requests

from tests.gguf_files import write_base, write_zip
from tests.serving import Served, serve
from tests.test_nginx import SITE, nginx

NAMES = ("m0", "m1", "m2")
CALLERS = 6
TIMEOUT = 60
ANSWERS = (200, 201, 204, 404, 409, 423)
"""Of a request that came to its end: done, or refused because of what others do at that time."""
TUS = {"Tus-Resumable": "1.0.0"}
_LOGGED = re.compile(r'"load-(?P<number>\d+)" "(?P<upstream>[^"]*)" (?P<task>\S+)$')

Digests = frozenset[tuple[str, str]]


class Instance:
    """One service, which can be killed and started again at its port."""

    def __init__(self, models_dir: Path, ollama: str) -> None:
        self._models_dir, self._ollama, self._running = models_dir, ollama, ExitStack()
        self.port = 0
        self.served = self.start()
        self.port = urlsplit(self.served.url).port or 0

    def start(self) -> Served:
        context = serve(self._models_dir, self._ollama, port=self.port)
        self.served = self._running.enter_context(context)
        return self.served

    def kill(self) -> None:
        """End all of its processes at once, without a word."""
        master = psutil.Process(self.served.process.pid)
        for process in [master, *master.children(recursive=True)]:
            process.kill()
        self.stop()

    def stop(self) -> None:
        self._running.close()

    @property
    def answered(self) -> int:
        """How many requests stand in its log."""
        return sum("HTTP/1.1" in line for line in self.served.log)


@dataclass
class Found:
    """What came of the load: how each request has ended, by its number; faults; torn models."""

    kills: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    lost: dict[int, str] = field(default_factory=dict)
    lost_by: Counter[str] = field(default_factory=Counter)
    tasks: dict[int, str] = field(default_factory=dict)
    torn: list[str] = field(default_factory=list)
    stored: int = 0


class Load:
    """Callers of the service at `url`, each doing one thing after the other."""

    def __init__(self, folder: Path, url: str, seed: int = 0) -> None:
        self.url, self.found, self._random = url, Found(), random.Random(seed)
        self._lock, self._stopped, self._number = threading.Lock(), threading.Event(), 0
        self._contents: list[bytes] = []
        self._whole: set[Digests] = set()
        for number in range(2):
            base = write_base(folder / f"base{number}.gguf", width=128, seed=number)
            beside = folder / f"card{number}.txt"
            beside.write_bytes(f"version {number}\n".encode() * 10_000)
            members = {base.name: base, beside.name: beside}
            self._contents.append(write_zip(folder / f"v{number}.zip", members).read_bytes())
            self._whole.add(_digests({name: path.read_bytes() for name, path in members.items()}))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Call as long as the block runs; what is under way at its end comes to its own."""
        threads = [threading.Thread(target=self._call_on) for _ in range(CALLERS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            for thread in threads:
                thread.join()

    def _call_on(self) -> None:
        calls: tuple[Callable[[str], requests.Response], ...] = (
            *(self._form, self._raw, self._tus, self._deploy),
            *(self._create, self._list, self._download, self._delete),
        )
        while not self._stopped.is_set():
            self._random.choice(calls)(self._random.choice(NAMES))

    def _ask(self, method: str, path: str, **options: object) -> requests.Response:
        """A request, counted by how it ended; one that found no end is answered by an empty 599."""
        with self._lock:
            number = self._number = self._number + 1
        given = options.pop("headers", {})
        assert isinstance(given, dict)
        headers = {**given, "User-Agent": f"load-{number}"}
        answer, lost = requests.Response(), ""
        answer.status_code = 599
        try:
            answer = requests.request(
                *(method, self.url + path),
                **{"headers": headers, "timeout": TIMEOUT, **options},  # type: ignore[arg-type]
            )
            lost = _missing(answer)
        except requests.RequestException as error:
            lost = type(error).__name__
        with self._lock:
            self.found.ended[f"{method} {path.split('/')[1]} {lost or answer.status_code}"] += 1
            if lost:
                self.found.lost[number] = f"{method} {path}: {lost}"
            elif task := answer.headers.get("X-Task-UUID"):
                self.found.tasks[number] = task
        return answer

    def _content(self) -> bytes:
        return self._random.choice(self._contents)

    def _form(self, name: str) -> requests.Response:
        files = {"Model": (f"{name}.zip", self._content())}
        return self._ask("POST", "/models/upload/", files=files)

    def _raw(self, name: str) -> requests.Response:
        return self._ask("PUT", f"/models/upload/{name}.zip", data=self._content())

    def _deploy(self, name: str) -> requests.Response:
        query = f"?model_name_on_ollama=made-{name}"
        return self._ask("PUT", f"/models/deploy/{name}.zip{query}", data=self._content())

    def _tus(self, name: str) -> requests.Response:
        content, cut = self._content(), self._random.randrange(1, 100_000)
        filename = base64.b64encode(f"{name}.zip".encode()).decode()
        length = {"Upload-Length": str(len(content)), "Upload-Metadata": f"filename {filename}"}
        answer = self._ask("POST", "/uploads/", headers=TUS | length)
        place = urlsplit(answer.headers.get("Location", "")).path
        for start, piece in ((0, content[:cut]), (cut, content[cut:])):
            if answer.ok:
                at = {
                    "Upload-Offset": str(start),
                    "Content-Type": "application/offset+octet-stream",
                }
                answer = self._ask("PATCH", place, headers=TUS | at, data=piece)
        if answer.ok:
            named = {"upload": place.rstrip("/").rpartition("/")[2]}
            answer = self._ask("POST", "/models/upload/", json=named)
        return answer

    def _create(self, name: str) -> requests.Response:
        fields = {"model": name, "model_name_on_ollama": f"made-{name}"}
        return self._ask("POST", "/models/create/", json=fields)

    def _list(self, name: str) -> requests.Response:
        return self._ask("GET", "/models/?verbose=1")

    def _delete(self, name: str) -> requests.Response:
        return self._ask("DELETE", "/models/", json={"model": name})

    def _download(self, name: str) -> requests.Response:
        answer = self._ask("GET", f"/models/{name}/download")
        if answer.status_code == 200:
            with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
                members = {Path(each).name: archive.read(each) for each in archive.namelist()}
            self._hold(f"download of {name}", members)
        return answer

    def _hold(self, what: str, members: dict[str, bytes]) -> None:
        if _digests(members) not in self._whole:
            self.found.torn.append(f"{what}: {sorted(members)}")

    def hold_stored(self, models_dir: Path) -> None:
        """Hold each stored model against what was uploaded."""
        for folder in models_dir.iterdir():
            if not folder.name.startswith("."):
                files = [file for file in folder.iterdir() if not file.name.startswith(".")]
                self._hold(folder.name, {file.name: file.read_bytes() for file in files})
                self.found.stored += 1


def _missing(answer: requests.Response) -> str:
    """What keeps an answer from being a whole one."""
    status, error = answer.status_code, ""
    if answer.headers.get("Content-Type") == "application/x-ndjson" and answer.content:
        last = json.loads(answer.content.splitlines()[-1])
        status = last["status"]
        message = last["message"]
        ratio = message.get("progress_ratio", message.get("progress"))
        error = message["details"].get("error", "")
        if status == 200 and ratio != 1:
            return "cut off"
    return "" if status in ANSWERS else f"{status} {error}".strip()


def _digests(members: dict[str, bytes]) -> Digests:
    return frozenset((name, hashlib.sha256(data).hexdigest()) for name, data in members.items())


def run(folder: Path, ollama: str, *, kills: int, seconds: float = 0) -> Found:
    """Three instances, of which one is killed at least `kills` times within at least `seconds`,
    each time after it has answered something; and what came of it."""
    models_dir = folder / "models"
    with ExitStack() as running:
        with ThreadPoolExecutor() as starting:
            begun = [starting.submit(Instance, models_dir, ollama) for _ in range(3)]
        instances = [each.result() for each in begun]
        for instance in instances:
            running.callback(instance.stop)
        victim = instances[0]
        each = "\n".join(f"server 127.0.0.1:{one.port} max_fails=0;" for one in instances)
        site = SITE.read_text().replace("server 127.0.0.1:8000;", each)
        url = running.enter_context(nginx(folder / "nginx", site=site))
        load = Load(folder, url)
        found, deadline = load.found, time.monotonic() + seconds
        with load.running():
            while found.kills < kills or time.monotonic() < deadline:
                _wait_until(lambda: victim.answered > 1)
                victim.kill()
                found.kills += 1
                victim.start()
        load.hold_stored(models_dir)
    log = (folder / "nginx" / "model-handler.log").read_text()
    logged = {
        int(match["number"]): match for match in map(_LOGGED.search, log.splitlines()) if match
    }
    for number, how in found.lost.items():
        upstream = logged[number]["upstream"].rpartition(", ")[2] if number in logged else "nobody"
        is_victim = upstream == urlsplit(victim.served.url).netloc
        found.lost_by["the killed one" if is_victim else f"{upstream}: {how}"] += 1
    for number, task in found.tasks.items():
        assert logged[number]["task"] == task
    return found


def _wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.02)

"""The part of Ollama's HTTP API that making a model on a server needs.

Source for paths and bodies: Ollama, docs/api.md and server/routes.go.
"""

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import requests

from app.ollama.connection import Answers
from app.ollama.errors import BlobMissing, ModelMissing, NameTaken, NotFound, OllamaError
from app.ollama.exchange import BLOCK, Server, readable, refusal, words_of
from app.ollama.names import InvalidName, check_name
from app.ollama.proxy import Body

PROBE_SECONDS = 60.0
VERSION_SECONDS = 10.0
_PROBE_ANSWERS = {"invalid model name": True, "no longer supported": False}


class _FileBody:
    """A file as a request body: its length is known, and it is read a block at a time."""

    def __init__(self, path: Path, report: Callable[[int], None]) -> None:
        self._path = path
        self._size = path.stat().st_size
        self._report = report

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        sent = 0
        with self._path.open("rb", buffering=0) as file:
            while block := file.read(BLOCK):
                yield block
                sent += len(block)
                self._report(sent)


class Ollama(Server):
    """One Ollama server's API; made once and used by all requests."""

    def __init__(self, url: str, connect_timeout: float, silence_timeout: float) -> None:
        super().__init__(url, connect_timeout, silence_timeout)
        self._said_version: tuple[str, float] | None = None
        self._said_adapters: tuple[bool, str, float] | None = None

    def version(self) -> str:
        """The server's version, or "unknown"; quickly tells whether there is a server."""
        answer = self.json("GET", "/api/version", silence=self.connect_timeout)
        version = readable(str(answer.get("version", "unknown")))[:100]
        self._said_version = version, time.monotonic()
        return version

    def recent_version(self) -> str:
        """The version as it was said within the last VERSION_SECONDS, else asked for now."""
        if self._said_version is not None:
            version, at = self._said_version
            if time.monotonic() - at < VERSION_SECONDS:
                return version
        return self.version()

    def takes_adapters(self) -> bool:
        """Whether the server still takes LoRA adapters: asked without a side effect, and not again
        for PROBE_SECONDS while its version stays the same. Only the two answers that are known
        count; any other is raised as OllamaError."""
        version = self.recent_version()
        if self._said_adapters is not None:
            answer, of_version, at = self._said_adapters
            if of_version == version and time.monotonic() - at < PROBE_SECONDS:
                return answer
        body = {"model": "!", "adapters": {"x.gguf": "sha256:" + "0" * 64}}
        silence = self.connect_timeout
        with self.exchange("POST", "/api/create", json=body, silence=silence) as response:
            words = words_of(response)
            known = [answer for said, answer in _PROBE_ANSWERS.items() if said in words]
            if response.status_code != 400 or not known:
                raise refusal(response, words)
        self._said_adapters = known[0], version, time.monotonic()
        return known[0]

    def tags(self) -> list[dict[str, Any]]:
        """The models that the server has, as `/api/tags` describes them."""
        models = self.json("GET", "/api/tags").get("models")
        return [
            model
            for model in (models if isinstance(models, list) else [])
            if isinstance(model, dict) and isinstance(model.get("name"), str)
        ]

    def show(self, name: str) -> dict[str, Any]:
        """What the server knows of a model. Raises ModelMissing."""
        try:
            return self.json("POST", "/api/show", json={"model": name})
        except NotFound as error:
            raise ModelMissing(f"Ollama has no model {name!r}.") from error

    def has_model(self, name: str) -> bool:
        """Whether the server has a model of that name; False for one that it wouldn't take."""
        try:
            self.show(check_name(name))
        except (ModelMissing, InvalidName):
            return False
        return True

    def check_free(self, name: str, *, replace: bool) -> None:
        """Raise NameTaken if the server has a model `name` that must not be replaced."""
        if not replace and self.has_model(name):
            raise NameTaken(
                f"Ollama has a model {name!r} already. Choose another name, or send replace=true."
            )

    def has_blob(self, sha256: str) -> bool:
        """Whether the server has the blob of that digest (hex)."""
        path = f"/api/blobs/sha256:{sha256}"
        with self.exchange("HEAD", path, silence=self.look_up_timeout) as response:
            if response.status_code not in (200, 404):
                raise refusal(response, words_of(response))
            return response.status_code == 200

    def push_blob(self, path: Path, sha256: str, report: Callable[[int], None]) -> None:
        """Send a file from disk; `report` gets the bytes sent so far, and may raise to stop it."""
        # While a body is sent, urllib3 applies the connection timeout to each write.
        with self.exchange(
            "POST",
            f"/api/blobs/sha256:{sha256}",
            data=_FileBody(path, report),
            connect=self.silence_timeout,
        ) as response:
            if response.status_code not in (200, 201):
                raise refusal(response, words_of(response))

    def create(self, body: dict[str, Any], report: Callable[[dict[str, Any]], None]) -> None:
        """Create a model; `report` gets each of Ollama's status lines, and may raise to stop.

        The answer is read to its end whatever happens, on a thread that outlives this call where it
        is stopped: a server up to 0.33 hangs on a create whose client has left. Raises OllamaError
        for an error line or a missing `success`, BlobMissing where a blob is gone.
        """
        last: dict[str, Any] = {}
        for line in Answers(lambda: self.stream("/api/create", body)):
            last = last if "error" in last else line
            report(line)
        if "error" in last:
            words = readable(str(last["error"]))
            kind = BlobMissing if "no such file or directory" in words else OllamaError
            error = kind(f"Ollama refused the model: {words}")
            error.words = words
            raise error
        if last.get("status") != "success":
            after = f" after {readable(str(last['status']))!r}" if "status" in last else ""
            raise OllamaError(f"Ollama ended its answer without success{after}.")

    def verify(self, name: str) -> bool:
        """Have the server load a model and answer one token; False where it loads and says nothing.

        Raises OllamaError, with the server's reason, where it can't.
        """
        body = {"model": name, "prompt": "Hello", "raw": True, "options": {"num_predict": 1}}
        done = False
        try:
            for line in self.stream("/api/generate", body):
                if "error" in line:
                    raise OllamaError(readable(str(line["error"])))
                done = done or line.get("done") is True
        except OllamaError as error:
            error.args = (f"Ollama made the model {name!r}, but can't run it: {error}",)
            raise
        return done

    def generate(self, name: str, prompt: str) -> Generator[dict[str, Any], None, None]:
        """The server's lines of an answer to `prompt`, each as it comes; closing this ends it.

        Raises ModelMissing, and OllamaError for what the server refuses; a failure after its first
        line is one of its lines, with the key `error`.
        """
        try:
            yield from self.stream("/api/generate", {"model": name, "prompt": prompt})
        except NotFound as error:
            raise ModelMissing(f"Ollama has no model {name!r}.") from error

    def chat(self, body: dict[str, Any]) -> Generator[dict[str, Any], None, None]:
        """The server's lines of the next answer in a chat, as `generate` gives them; `body` is that
        of `/api/chat`."""
        try:
            yield from self.stream("/api/chat", body)
        except NotFound as error:
            raise ModelMissing(f"Ollama has no model {body['model']!r}.") from error

    def proxied(
        self, method: str, target: str, headers: Mapping[str, str | None], body: Body | None
    ) -> AbstractContextManager[requests.Response]:
        """Any request to path and query `target`, as it is; its answer's body is to be read from
        `raw`. A header that is None isn't sent."""
        return self.exchange(method, target, headers=headers, data=body)

"""Ollama's HTTP API, as far as a model's way onto a server needs it.

Source for paths and bodies: Ollama, docs/api.md and server/routes.go.
"""

import json
import re
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import ReadTimeoutError
from urllib3.util import Retry

BLOCK = 2**20
PROBE_SECONDS = 300.0
NAME_RULE = (
    "Ollama's names are [host/][namespace/]name[:tag]; each part begins with a letter, digit or"
    " underscore, goes on with those, dots and hyphens (no dot in a namespace), and has at most"
    " 80 characters."
)
_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"
_NAME = re.compile(
    rf"(?:(?:(?P<host>{_PART}(?::\d{{1,5}})?)/)?(?P<namespace>[A-Za-z0-9_][A-Za-z0-9_-]{{0,79}})/)?"
    rf"(?P<name>{_PART})(?::(?P<tag>{_PART}))?"
)


class InvalidName(ValueError):
    """A name that Ollama wouldn't take."""


class OllamaError(Exception):
    """Ollama can't be reached, or refused or broke off the work; carries its own words."""

    hint: str | None = None


class OllamaSilent(OllamaError):
    """Ollama didn't answer in time."""


class OllamaLost(OllamaError):
    """The connection couldn't be made or was broken off."""


class ModelMissing(OllamaError):
    """Ollama has no model of that name."""


class NameTaken(OllamaError):
    """Ollama has a model of that name already."""


class BlobMissing(OllamaError):
    """Ollama no longer has a blob that it had a moment ago."""


def check_name(name: str) -> str:
    """Return `name` if Ollama takes it for a model of its own. Raises InvalidName.

    Source of the rule: Ollama, types/model/name.go. Tags that mean another place than this server
    (`cloud`, `local`, `*-cloud`) are refused: other endpoints strip them.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise InvalidName(f"{name!r} can't be a model's name on Ollama. {NAME_RULE}")
    tag = (match["tag"] or "latest").lower()
    if tag in ("cloud", "local") or tag.endswith("-cloud"):
        raise InvalidName(f"{name!r} can't be used: Ollama keeps the tag {tag!r} for itself.")
    return name


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


class Ollama:
    """One Ollama server.

    `url` is its base URL; `connect_timeout` and `silence_timeout` are seconds. No request has a
    limit on its total time. What only reads (GET, HEAD) is tried again where the connection breaks.
    Every method may raise OllamaError or OllamaSilent. `probes` keeps when servers, by URL, were
    asked about adapters, and what they said.
    """

    def __init__(
        self,
        url: str,
        connect_timeout: float,
        silence_timeout: float,
        probes: dict[str, tuple[float, bool]] | None = None,
    ) -> None:
        self.url = url
        self._probes = {} if probes is None else probes
        self._connect_timeout = connect_timeout
        self._silence_timeout = silence_timeout
        self._session = requests.Session()
        self._session.trust_env = False  # a proxy for the internet isn't one for Ollama
        retries = Retry(
            total=2, backoff_factor=0.2, allowed_methods=("GET", "HEAD"), status_forcelist=(503,)
        )
        retries.raise_on_status = False
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=retries))

    def version(self) -> str:
        """The server's version, or "unknown"; quickly tells whether there is a server."""
        answer = self._json(self._send("GET", "/api/version", silence=self._connect_timeout))
        return str(answer.get("version", "unknown"))

    def takes_adapters(self) -> bool:
        """Whether the server still takes LoRA adapters; asked without a side effect, and not again
        for PROBE_SECONDS."""
        asked_at, answer = self._probes.get(self.url, (-PROBE_SECONDS, False))
        if time.monotonic() - asked_at < PROBE_SECONDS:
            return answer
        body = {"model": "!", "adapters": {"x.gguf": "sha256:" + "0" * 64}}
        response = self._send("POST", "/api/create", json=body, silence=self._connect_timeout)
        answer = "no longer supported" not in response.text
        self._probes[self.url] = (time.monotonic(), answer)
        return answer

    def tags(self) -> list[dict[str, Any]]:
        """The models that the server has, as `/api/tags` describes them."""
        models = self._json(self._send("GET", "/api/tags")).get("models") or []
        return [model for model in models if isinstance(model, dict) and "name" in model]

    def show(self, name: str) -> dict[str, Any]:
        """What the server knows of a model. Raises ModelMissing."""
        response = self._send("POST", "/api/show", json={"model": name})
        if response.status_code == 404:
            raise ModelMissing(f"Ollama has no model {name!r}.")
        return self._json(response)

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
        response = self._send("HEAD", f"/api/blobs/sha256:{sha256}")
        if response.status_code not in (200, 404):
            raise _failed(response)
        return response.status_code == 200

    def push_blob(self, path: Path, sha256: str, report: Callable[[int], None]) -> None:
        """Send a file from disk; `report` gets the bytes sent so far, and may raise to stop it."""
        # While a body is sent, urllib3 applies the connection timeout to each write.
        response = self._send(
            "POST",
            f"/api/blobs/sha256:{sha256}",
            data=_FileBody(path, report),
            connect=self._silence_timeout,
        )
        if response.status_code not in (200, 201):
            raise _failed(response)

    def create(self, body: dict[str, Any], report: Callable[[dict[str, Any]], None]) -> None:
        """Create a model; `report` gets each of Ollama's status lines.

        The answer is read to its end whatever happens: a server up to 0.33 hangs on a create whose
        client has left. Raises OllamaError for an error line or a missing `success`, BlobMissing
        where a blob is gone.
        """
        response = self._send("POST", "/api/create", json=body, stream=True)
        last: dict[str, Any] = {}
        stopped: Exception | None = None
        with response:
            if response.status_code != 200:
                raise _failed(response)
            for line in self._lines(response):
                last = last if "error" in last else line
                try:
                    report(line)
                except Exception as error:
                    stopped = stopped or error
        if "error" in last:
            words = str(last["error"])
            kind = BlobMissing if "no such file or directory" in words else OllamaError
            raise kind(f"Ollama refused the model: {_without_paths(words)}")
        if last.get("status") != "success":
            after = f" after {last['status']!r}" if "status" in last else ""
            raise OllamaError(f"Ollama ended its answer without success{after}.")
        if stopped is not None:
            raise stopped

    def generate(self, name: str, prompt: str) -> Generator[dict[str, Any], None, None]:
        """The server's lines of an answer to `prompt`, each as it comes; closing this ends it.

        Raises ModelMissing, and OllamaError for what the server refuses; a failure after its first
        line is one of its lines, with the key `error`.
        """
        body = {"model": name, "prompt": prompt}
        with self._send("POST", "/api/generate", json=body, stream=True) as response:
            if response.status_code == 404:
                raise ModelMissing(f"Ollama has no model {name!r}.")
            if response.status_code != 200:
                raise _failed(response)
            yield from self._lines(response)

    def _send(
        self,
        method: str,
        path: str,
        *,
        connect: float | None = None,
        silence: float | None = None,
        **options: Any,
    ) -> requests.Response:
        timeout = (connect or self._connect_timeout, silence or self._silence_timeout)
        try:
            return self._session.request(
                method, self.url + path, timeout=timeout, allow_redirects=False, **options
            )
        except requests.ConnectTimeout as error:
            raise OllamaSilent(f"Ollama at {self.url} doesn't take connections.") from error
        except requests.Timeout as error:
            raise OllamaSilent(f"Ollama at {self.url} stopped answering.") from error
        except requests.RequestException as error:
            raise OllamaLost(
                f"Ollama at {self.url} can't be reached, or broke off the connection."
                " Check that it runs, and that OLLAMA_HOST names it."
            ) from error

    def _json(self, response: requests.Response) -> dict[str, Any]:
        if response.status_code != 200:
            raise _failed(response)
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise OllamaError(f"What answers at {self.url} isn't an Ollama server.")
        return answer

    def _lines(self, response: requests.Response) -> Iterator[dict[str, Any]]:
        try:
            for line in response.iter_lines(chunk_size=None):
                if not line.strip():
                    continue
                try:
                    value = json.loads(line)
                except ValueError:
                    value = {"error": line.decode(errors="replace")[:500]}
                yield value if isinstance(value, dict) else {"error": str(value)[:500]}
        except requests.RequestException as error:
            # A read that times out within a stream arrives wrapped in a ConnectionError.
            if error.args and isinstance(error.args[0], ReadTimeoutError):
                raise OllamaSilent(
                    f"Ollama at {self.url} fell silent within its answer."
                ) from error
            raise OllamaLost(f"Ollama at {self.url} broke off its answer.") from error


def _failed(response: requests.Response) -> OllamaError:
    try:
        words = str(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        words = response.text.strip()[:500]
    answered = f"Ollama answered HTTP {response.status_code}"
    return OllamaError(f"{answered}: {_without_paths(words)}" if words else f"{answered}.")


def _without_paths(words: str) -> str:
    """Ollama's words without the folders of its own machine."""
    return re.sub(r"(?<![\w:/.])(?:/[^\s/:\"']+)+/(?=[^\s/]+)", "", words)

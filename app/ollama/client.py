"""Ollama's HTTP API, as far as a model's way onto a server needs it.

Source for paths and bodies: Ollama, docs/api.md and server/routes.go.
"""

import re
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import requests
from urllib3.exceptions import HTTPError, ReadTimeoutError

from app.ollama import bounded
from app.ollama.connection import Answers, interruptible, new_session
from app.ollama.passage import Body

BLOCK = 2**20
PROBE_SECONDS = 60.0
VERSION_SECONDS = 10.0
LOOK_UP_SECONDS = 60.0
WORDS = 2000
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
NAME_PATTERN = re.sub(r"\?P<\w+>", "?:", _NAME.pattern).replace("-]", r"\-]")
"""The same rule as an HTML `pattern`."""


_PROBE_ANSWERS = {"invalid model name": True, "no longer supported": False}
# A folder, on any system, before the name of what is in it.
_PATHS = re.compile(
    r"""(?<![\w:/.])(?:/[^\s/:"']+)+/(?=[^\s/]+)|(?<!\w)[A-Za-z]:\\(?:[^\s\\:"']+\\)*"""
)


class InvalidName(ValueError):
    """A name that Ollama wouldn't take; `is_reserved` where it is only kept for something else."""

    is_reserved = False


class OllamaError(Exception):
    """Ollama can't be reached, or refused or broke off the work; carries its own words.

    `words` are those alone, and `answered` is the HTTP status that came with them, where it has
    refused something; `line` is that of the Modelfile which they are about, where that is known.
    """

    hint: str | None = None
    line: int | None = None
    words: str | None = None
    answered: int | None = None


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


class _NotFound(OllamaError):
    """The server has nothing there."""


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
        error = InvalidName(f"{name!r} can't be used: Ollama keeps the tag {tag!r} for itself.")
        error.is_reserved = True
        raise error
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
    """One Ollama server; made once and used by all requests.

    `url` is its base URL; `connect_timeout` and `silence_timeout` are seconds. No request has a
    limit on its total time. What only reads (GET, HEAD) is tried again where the connection breaks.
    Whatever the server answers takes bounded memory. Every method may raise OllamaError or
    OllamaSilent, and Cancelled where `progress.CANCEL` says that nobody waits any more.
    """

    def __init__(self, url: str, connect_timeout: float, silence_timeout: float) -> None:
        self.url = url
        self._connect_timeout = connect_timeout
        self._silence_timeout = silence_timeout
        self._look_up_timeout = min(silence_timeout, LOOK_UP_SECONDS)
        self._session = new_session()
        self._said_version: tuple[str, float] | None = None
        self._said_adapters: tuple[bool, str, float] | None = None

    def version(self) -> str:
        """The server's version, or "unknown"; quickly tells whether there is a server."""
        answer = self._json("GET", "/api/version", silence=self._connect_timeout)
        version = _readable(str(answer.get("version", "unknown")))[:100]
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
        silence = self._connect_timeout
        with self._exchange("POST", "/api/create", json=body, silence=silence) as response:
            words = _words(response)
            known = [answer for said, answer in _PROBE_ANSWERS.items() if said in words]
            if response.status_code != 400 or not known:
                raise _failure(response.status_code, words)
        self._said_adapters = known[0], version, time.monotonic()
        return known[0]

    def tags(self) -> list[dict[str, Any]]:
        """The models that the server has, as `/api/tags` describes them."""
        models = self._json("GET", "/api/tags").get("models")
        return [
            model
            for model in (models if isinstance(models, list) else [])
            if isinstance(model, dict) and isinstance(model.get("name"), str)
        ]

    def show(self, name: str) -> dict[str, Any]:
        """What the server knows of a model. Raises ModelMissing."""
        try:
            return self._json("POST", "/api/show", json={"model": name})
        except _NotFound as error:
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
        with self._exchange("HEAD", path, silence=self._look_up_timeout) as response:
            if response.status_code not in (200, 404):
                raise _failure(response.status_code, _words(response))
            return response.status_code == 200

    def push_blob(self, path: Path, sha256: str, report: Callable[[int], None]) -> None:
        """Send a file from disk; `report` gets the bytes sent so far, and may raise to stop it."""
        # While a body is sent, urllib3 applies the connection timeout to each write.
        with self._exchange(
            "POST",
            f"/api/blobs/sha256:{sha256}",
            data=_FileBody(path, report),
            connect=self._silence_timeout,
        ) as response:
            if response.status_code not in (200, 201):
                raise _failure(response.status_code, _words(response))

    def create(self, body: dict[str, Any], report: Callable[[dict[str, Any]], None]) -> None:
        """Create a model; `report` gets each of Ollama's status lines, and may raise to stop.

        The answer is read to its end whatever happens, on a thread that outlives this call where it
        is stopped: a server up to 0.33 hangs on a create whose client has left. Raises OllamaError
        for an error line or a missing `success`, BlobMissing where a blob is gone.
        """
        last: dict[str, Any] = {}
        for line in Answers(lambda: self._stream("/api/create", body)):
            last = last if "error" in last else line
            report(line)
        if "error" in last:
            words = _readable(str(last["error"]))
            kind = BlobMissing if "no such file or directory" in words else OllamaError
            refusal = kind(f"Ollama refused the model: {words}")
            refusal.words = words
            raise refusal
        if last.get("status") != "success":
            after = f" after {_readable(str(last['status']))!r}" if "status" in last else ""
            raise OllamaError(f"Ollama ended its answer without success{after}.")

    def verify(self, name: str) -> bool:
        """Have the server load a model and answer one token; False where it loads and says nothing.

        Raises OllamaError, with the server's reason, where it can't.
        """
        body = {"model": name, "prompt": "Hello", "raw": True, "options": {"num_predict": 1}}
        done = False
        try:
            for line in self._stream("/api/generate", body):
                if "error" in line:
                    raise OllamaError(_readable(str(line["error"])))
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
            yield from self._stream("/api/generate", {"model": name, "prompt": prompt})
        except _NotFound as error:
            raise ModelMissing(f"Ollama has no model {name!r}.") from error

    def chat(self, body: dict[str, Any]) -> Generator[dict[str, Any], None, None]:
        """The server's lines of the next answer in a chat, as `generate` gives them; `body` is that
        of `/api/chat`."""
        try:
            yield from self._stream("/api/chat", body)
        except _NotFound as error:
            raise ModelMissing(f"Ollama has no model {body['model']!r}.") from error

    def passed(
        self, method: str, target: str, headers: Mapping[str, str | None], body: Body | None
    ) -> AbstractContextManager[requests.Response]:
        """Any request to path and query `target`, as it is; its answer's body is to be read from
        `raw`. A header that is None isn't sent."""
        return self._exchange(method, target, headers=headers, data=body)

    @contextmanager
    def _exchange(
        self,
        method: str,
        path: str,
        *,
        connect: float | None = None,
        silence: float | None = None,
        **options: Any,
    ) -> Iterator[requests.Response]:
        """A request, and its response as long as the block runs; its body is still to be read."""
        timeout = (connect or self._connect_timeout, silence or self._silence_timeout)
        try:
            with (
                interruptible(),
                self._session.request(
                    method,
                    self.url + path,
                    timeout=timeout,
                    allow_redirects=False,
                    stream=True,
                    **options,
                ) as response,
            ):
                yield response
        except bounded.TooMuch as error:
            raise OllamaError(f"Ollama at {self.url} sent {error}.") from error
        except (requests.RequestException, HTTPError) as error:
            raise self._broken(error) from error

    def _broken(self, error: Exception) -> OllamaError:
        if isinstance(error, requests.ConnectTimeout):
            return OllamaSilent(f"Ollama at {self.url} doesn't take connections.")
        if isinstance(error, requests.Timeout):
            return OllamaSilent(f"Ollama at {self.url} stopped answering.")
        # A read that times out arrives wrapped, by requests and by what tries it again.
        wrapped = error.args[0] if error.args else None
        if isinstance(getattr(wrapped, "reason", None), ReadTimeoutError):
            return OllamaSilent(f"Ollama at {self.url} stopped answering.")
        if isinstance(error, ReadTimeoutError) or isinstance(wrapped, ReadTimeoutError):
            return OllamaSilent(f"Ollama at {self.url} fell silent within its answer.")
        return OllamaLost(
            f"Ollama at {self.url} can't be reached, or broke off the connection."
            " Check that it runs, and that OLLAMA_HOST names it."
        )

    def _json(
        self, method: str, path: str, *, silence: float | None = None, **options: Any
    ) -> dict[str, Any]:
        silence = silence or self._look_up_timeout
        with self._exchange(method, path, silence=silence, **options) as response:
            if response.status_code != 200:
                raise _failure(response.status_code, _words(response))
            content = bounded.whole(response.iter_content(BLOCK))
        try:
            answer = bounded.parse_json(content)
        except bounded.TooMuch as error:
            raise OllamaError(f"Ollama at {self.url} sent {error}.") from error
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise OllamaError(f"What answers at {self.url} isn't an Ollama server.")
        return answer

    def _stream(self, path: str, body: dict[str, Any]) -> Generator[dict[str, Any], None, None]:
        """The lines of an answer, each as it comes; what isn't a JSON object is an `error`."""
        with self._exchange("POST", path, json=body) as response:
            if response.status_code != 200:
                raise _failure(response.status_code, _words(response))
            for line in bounded.lines(_as_it_comes(response)):
                try:
                    value = bounded.parse_json(line)
                except bounded.TooMuch:
                    raise
                except ValueError:
                    value = {"error": line.decode(errors="replace")[:WORDS]}
                yield value if isinstance(value, dict) else {"error": str(value)[:WORDS]}


def _as_it_comes(response: requests.Response) -> Iterator[bytes]:
    """The body in blocks of at most BLOCK bytes, each as soon as there is any of it."""
    while block := response.raw.read1(BLOCK, decode_content=True):
        yield block


def _words(response: requests.Response) -> str:
    """What a refusal says: the `error` of its JSON, else its text."""
    content = bounded.whole(response.iter_content(BLOCK))
    try:
        said = bounded.parse_json(content)["error"]
    except (ValueError, KeyError, TypeError):
        said = content[:WORDS].decode(errors="replace").strip()
    return str(said)[:WORDS]


def _failure(status: int, words: str) -> OllamaError:
    answered = f"Ollama answered HTTP {status}"
    kind = _NotFound if status == 404 else OllamaError
    error = kind(f"{answered}: {_readable(words)}" if words else f"{answered}.")
    error.words, error.answered = _readable(words) or None, status
    return error


def _readable(words: str) -> str:
    """A server's words without the folders of its machine, on one line, and not endless."""
    words = _PATHS.sub("", words[:WORDS])
    return "".join(char if char.isprintable() else " " for char in words).strip()

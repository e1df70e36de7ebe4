"""Requests to one Ollama server and its answers: bounded, interruptible, failing in sentences."""

import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import requests
from urllib3.exceptions import HTTPError, ReadTimeoutError

from app.ollama import bounded
from app.ollama.connection import interruptible, new_session
from app.ollama.errors import NotFound, OllamaError, OllamaLost, OllamaSilent

BLOCK = 2**20
LOOK_UP_SECONDS = 60.0
WORDS = 2000
# A folder, on any system, before the name of what is in it.
_PATHS = re.compile(
    r"""(?<![\w:/.])(?:/[^\s/:"']+)+/(?=[^\s/]+)|(?<!\w)[A-Za-z]:\\(?:[^\s\\:"']+\\)*"""
)


class Server:
    """One server, at the base URL `url`.

    `connect_timeout` and `silence_timeout` are seconds. No request has a limit on its total time.
    What only reads (GET, HEAD) is tried again where the connection breaks. Whatever the server
    answers takes bounded memory. Every method may raise OllamaError or OllamaSilent, and Cancelled
    where `progress.CANCEL` says that nobody waits any more.
    """

    def __init__(self, url: str, connect_timeout: float, silence_timeout: float) -> None:
        self.url = url
        self.connect_timeout = connect_timeout
        self.silence_timeout = silence_timeout
        self.look_up_timeout = min(silence_timeout, LOOK_UP_SECONDS)
        self._session = new_session()

    @contextmanager
    def exchange(
        self,
        method: str,
        path: str,
        *,
        connect: float | None = None,
        silence: float | None = None,
        **options: Any,
    ) -> Iterator[requests.Response]:
        """A request, and its response as long as the block runs; its body is still to be read."""
        timeout = (connect or self.connect_timeout, silence or self.silence_timeout)
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
            return OllamaSilent(
                f"Ollama at {self.url} stopped sending in the middle of its answer."
            )
        return OllamaLost(
            f"Ollama at {self.url} can't be reached, or broke off the connection."
            " Check that it runs, and that OLLAMA_HOST names it."
        )

    def json(
        self, method: str, path: str, *, silence: float | None = None, **options: Any
    ) -> dict[str, Any]:
        """The JSON object that a request is answered with."""
        silence = silence or self.look_up_timeout
        with self.exchange(method, path, silence=silence, **options) as response:
            if response.status_code != 200:
                raise refusal(response, words_of(response))
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

    def stream(self, path: str, body: dict[str, Any]) -> Generator[dict[str, Any], None, None]:
        """The lines of an answer, each as it comes; what isn't a JSON object is an `error`."""
        with self.exchange("POST", path, json=body) as response:
            if response.status_code != 200:
                raise refusal(response, words_of(response))
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


def words_of(response: requests.Response) -> str:
    """What a refusal says: the `error` of its JSON, else its text."""
    content = bounded.whole(response.iter_content(BLOCK))
    try:
        said = bounded.parse_json(content)["error"]
    except (ValueError, KeyError, TypeError):
        said = content[:WORDS].decode(errors="replace").strip()
    return str(said)[:WORDS]


def refusal(response: requests.Response, words: str) -> OllamaError:
    """What is raised for an answer that says no in these words."""
    status = response.status_code
    answered = f"Ollama answered HTTP {status}"
    kind = NotFound if status == 404 else OllamaError
    error = kind(f"{answered}: {readable(words)}" if words else f"{answered}.")
    error.words, error.answered = readable(words) or None, status
    return error


def readable(words: str) -> str:
    """A server's words without the folders of its machine, on one line, and not endless."""
    words = _PATHS.sub("", words[:WORDS])
    return "".join(char if char.isprintable() else " " for char in words).strip()

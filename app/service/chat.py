"""A chat with a model on Ollama: what may be asked, and the answer while its client listens."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

from app.modelfile.grammar import ROLES
from app.modelfile.parameters import check_parameters
from app.ollama.client import Ollama
from app.ollama.errors import OllamaError
from app.ollama.names import check_asked_name
from app.planning.options import BadRequest, text
from app.progress import Cancel, followed

MAX_MESSAGES = 1000
DEFAULT_TOKENS = 2048
MAX_TOKENS = 32768
UNHEARD_LINES = 64

Answer = dict[str, Any]


def chat_request(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The body of Ollama's POST /api/chat that asks for the next answer in a chat, as a stream.

    Takes Ollama's own fields `model`, `messages` (objects of `role` and `content`), `options` and
    `think`. An answer has at most MAX_TOKENS tokens, and DEFAULT_TOKENS where `num_predict` says
    nothing: a model that was trained badly may never end by itself. Raises BadRequest,
    InvalidName, and ModelfileError for options that Ollama doesn't have.
    """
    messages = fields.get("messages")
    if not isinstance(messages, list) or not 0 < len(messages) <= MAX_MESSAGES:
        raise BadRequest(f"The field 'messages' takes a list of 1 to {MAX_MESSAGES} messages.")
    body = {
        "model": check_asked_name(text(fields, "model")),
        "messages": [_message(message) for message in messages],
        "options": _options(fields.get("options")),
    }
    think = fields.get("think")
    if think is not None and not isinstance(think, bool):
        raise BadRequest("The field 'think' takes true or false.")
    return body if think is None else {**body, "think": think}


def _message(message: Any) -> dict[str, str]:
    role = message.get("role") if isinstance(message, dict) else None
    content = message.get("content") if isinstance(message, dict) else None
    if role not in ROLES or not isinstance(content, str):
        raise BadRequest(
            "Each of 'messages' must be an object with 'role' (system, user or assistant) and"
            " 'content' (text)."
        )
    return {"role": role, "content": content}


def _options(given: Any) -> dict[str, object]:
    if given is not None and not isinstance(given, dict):
        raise BadRequest("The field 'options' must be a JSON object such as {\"temperature\": 0}.")
    options = check_parameters(given or {})
    tokens = options.setdefault("num_predict", DEFAULT_TOKENS)
    if not isinstance(tokens, int) or not 0 < tokens <= MAX_TOKENS:
        raise BadRequest(f"The option 'num_predict' takes 1 to {MAX_TOKENS} tokens.")
    return options


def first_answer(
    servers: Sequence[Ollama], ask: Callable[[Ollama], Iterator[Answer]]
) -> Iterator[Answer]:
    """What the first server that answers says to `ask`. Raises the first one's OllamaError where
    none does."""
    failures = []
    for server in servers:
        lines = ask(server)
        try:
            first = next(lines, None)
        except OllamaError as error:
            failures.append(error)
            continue
        if first is not None:
            yield first
            yield from lines
        return
    raise failures[0]


def heard(lines: Iterator[Answer]) -> Generator[Answer | None, None, None]:
    """The lines, each as it comes; None whenever there has been none for a while, so that whoever
    listens can look whether its client is still there.

    Raises what reading them raises. Closing it interrupts what is read, and waits for that end.
    """
    cancel = Cancel()

    def read(put: Callable[[Answer], None]) -> None:
        for line in lines:
            cancel.check()
            put(line)

    yield from followed(read, cancel, UNHEARD_LINES)

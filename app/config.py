"""Settings: each declared once, read from the environment by the application factory."""

import re
import shlex
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gunicorn.util import parse_address

from app.ollama.address import ollama_url
from app.planning.options import MERGE_CHOICES, QUANTIZE_TYPES
from app.planning.spelling import nearest

PREFIX = "MODEL_HANDLER_"
OLLAMAS_OWN = ("OLLAMA_HOST", "OLLAMA_MODELS")


COMMANDS_OWN = ("MODEL_HANDLER_SERVER",)
"""What only the command line's client reads."""

_OF_ORCHESTRATORS = re.compile(
    r"MODEL_HANDLER_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)"
)
"""What Kubernetes tells every container of a Service `model-handler` or `model-handler-…`."""


class SettingError(ValueError):
    """A setting's text can't be used, or there is no such setting; the message names the variable
    and says what to do."""


@dataclass(frozen=True)
class Setting:
    """One setting: its name in the application's config and how its text is read.

    The environment variable is `MODEL_HANDLER_<name>`, but for OLLAMAS_OWN.
    """

    name: str
    read: Callable[[str], Any]
    default: str
    help: str

    @property
    def variable(self) -> str:
        return self.name if self.name in OLLAMAS_OWN else PREFIX + self.name


def _http_urls(text: str) -> tuple[str, ...]:
    """The base URLs of all the servers that `text` lists, each once, between commas."""
    urls = [ollama_url(part) for part in text.split(",")]
    for parts in map(urlsplit, urls):
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("takes host, host:port or http(s)://host:port/path, between commas")
    return tuple(dict.fromkeys(urls))


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise ValueError("takes a whole number above 0")
    return int(text)


def _address(text: str) -> str:
    takes = "takes HOST:PORT or unix:PATH"
    try:
        address = parse_address(text)
    except RuntimeError as error:
        raise ValueError(f"{takes}; {str(error).rstrip('.')}") from error
    if isinstance(address, tuple) and not 0 <= address[1] <= 65535:
        raise ValueError(f"{takes}; {address[1]} is not a valid port number")
    return text


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 4):
        raise ValueError("takes a whole number below 1000")
    return int(text)


def _folder(text: str) -> Path:
    return Path(text).expanduser().absolute()


def _optional_folder(text: str) -> Path | None:
    return _folder(text) if text else None


def _key(text: str) -> str | None:
    if not (text.isascii() and text.isprintable()) or text != text.strip():
        raise ValueError(
            "takes printable ASCII without spaces at its ends, which is what a header can carry"
        )
    return text or None


def _texts(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _command(text: str) -> tuple[str, ...]:
    return tuple(shlex.split(text))


def _quantize_choice(text: str) -> str | None:
    if text and text.upper() not in QUANTIZE_TYPES:
        raise ValueError(f"takes one of {', '.join(QUANTIZE_TYPES)}")
    return text.upper() or None


def _flag(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError("takes 0 or 1")
    return text == "1"


def _log_format(text: str) -> str:
    if text not in ("text", "json"):
        raise ValueError("takes text or json")
    return text


def _merge_choice(text: str) -> str:
    if text not in MERGE_CHOICES:
        raise ValueError(f"takes one of {', '.join(MERGE_CHOICES)}")
    return text


SETTINGS = (
    Setting(
        "OLLAMA_HOST",
        _http_urls,
        "127.0.0.1:11434",
        "The Ollama server, as Ollama reads it; several separated by commas.",
    ),
    Setting(
        "OLLAMA_MODELS",
        _optional_folder,
        "",
        "The models folder of an Ollama on this machine, for bases that only it has.",
    ),
    Setting("MODELS_DIR", _folder, "./models", "The folder that holds one folder a model."),
    Setting(
        "MODELFILES_DIR",
        _optional_folder,
        "",
        "A folder of your own Modelfile templates, looked in before the ones that come along.",
    ),
    Setting(
        "MAX_UPLOAD_BYTES", _count, str(100 * 2**30), "The largest request body taken, in bytes."
    ),
    Setting(
        "MIN_FREE_BYTES", _count, str(2**30), "Free space below which /readyz says no, in bytes."
    ),
    Setting("MAX_ENTRIES", _count, "10000", "The most files and folders that an archive may hold."),
    Setting(
        "UPLOAD_TIMEOUT", _count, "120", "Seconds that a client may stay silent while it sends."
    ),
    Setting(
        "UPLOAD_LIFETIME",
        _count,
        str(7 * 24 * 3600),
        "Seconds after its last bytes that an unfinished resumable upload, or a file that one of"
        " Ollama's clients has sent, is kept.",
    ),
    Setting(
        "MIN_UPLOAD_RATE",
        _count,
        "1000",
        "Bytes a second that an upload must average over each UPLOAD_TIMEOUT seconds.",
    ),
    Setting(
        "REQUEST_TIMEOUT",
        _count,
        "20",
        "Seconds that a request's headers, and a body that is no upload, may take to arrive.",
    ),
    Setting("UNREAD_TIMEOUT", _count, "60", "Seconds that a client may leave an answer unread."),
    Setting(
        "TRUSTED_HOSTS",
        _texts,
        "",
        "Names that the service answers by, besides loopback's and addresses, separated by commas;"
        " .example.org means all names below it too.",
    ),
    Setting(
        "TRUSTED_PROXIES",
        _number,
        "0",
        "How many proxies stand before the service: their X-Forwarded-For, -Proto, -Host and"
        " -Prefix are believed. Each must set all four, and nobody may reach the service past"
        " them.",
    ),
    Setting(
        "ALLOWED_ORIGINS",
        _texts,
        "",
        "Origins of other pages that may change things here, separated by commas.",
    ),
    Setting(
        "MERGE",
        _merge_choice,
        "auto",
        "Whether adapters are merged into their base: auto (where Ollama can't run them), always,"
        " never.",
    ),
    Setting(
        "DEFAULT_QUANTIZE",
        _quantize_choice,
        "",
        "The type that F32, F16 and BF16 models are quantized to where a request doesn't say.",
    ),
    Setting(
        "CONVERTER",
        _command,
        "",
        "The command that makes a GGUF of a safetensors folder whose architecture isn't known here,"
        " such as: python /opt/llama.cpp/convert_hf_to_gguf.py {folder} --outfile {output}",
    ),
    Setting(
        "VERIFY",
        _flag,
        "0",
        "1: after each create, have Ollama load the model and answer one token.",
    ),
    Setting(
        "OLLAMA_PROXY",
        _flag,
        "0",
        "1: what else Ollama's clients ask under /api/ and /v1/ goes through to the first server.",
    ),
    Setting(
        "KEEP_CREATED",
        _flag,
        "1",
        "0: what Ollama's own clients create isn't kept here, only made on the Ollama servers.",
    ),
    Setting(
        "API_KEY",
        _key,
        "",
        "If set, all but the page itself, /healthz and /readyz must carry it.",
    ),
    Setting(
        "CONNECT_TIMEOUT", _count, "10", "Seconds that Ollama may take to accept a connection."
    ),
    Setting(
        "SILENCE_TIMEOUT", _count, "900", "Seconds that Ollama may stay silent within an answer."
    ),
    Setting("BIND", _address, "127.0.0.1:8000", "The address and port that gunicorn listens on."),
    Setting("LOG_FORMAT", _log_format, "text", "How the log's lines are written: text or json."),
    Setting("WORKERS", _count, "1", "gunicorn's worker processes."),
    Setting("THREADS", _count, "32", "Requests that one worker process serves at once."),
    Setting(
        "GRACEFUL_TIMEOUT",
        _count,
        "600",
        "Seconds that requests still running may take to end once gunicorn is told to stop.",
    ),
)


def from_environ(environ: Mapping[str, str]) -> dict[str, Any]:
    """Every setting's value: from its variable in `environ`, else its default.

    An empty variable counts as not set. Raises SettingError for a text that can't be read, and for
    a variable that begins like ours and isn't one: what it was meant to say would be ignored.
    """
    known = [*(setting.variable for setting in SETTINGS), *COMMANDS_OWN]
    for variable, value in environ.items():
        ours = variable.startswith(PREFIX) and variable not in known
        if ours and not _is_of_orchestrator(variable, value):
            raise _no_setting(variable, known)
    return {
        setting.name: _read(setting, environ.get(setting.variable) or setting.default)
        for setting in SETTINGS
    }


def _is_of_orchestrator(variable: str, value: str) -> bool:
    # A MODEL_HANDLER_PORT of a person's is a number, Kubernetes's is an address.
    is_said = variable != f"{PREFIX}PORT" or "://" in value
    return is_said and _OF_ORCHESTRATORS.fullmatch(variable) is not None


def _no_setting(variable: str, known: Collection[str]) -> SettingError:
    names = {name.removeprefix(PREFIX).lower(): name for name in known}
    meant = nearest(variable.removeprefix(PREFIX), names)
    hint = (
        f"Did you mean {names[meant]}?"
        if meant
        else "Remove it; `model-handler settings` lists those that there are."
    )
    return SettingError(f"{variable} is no setting of the service. {hint}")


def from_mapping(config: Mapping[str, Any]) -> dict[str, Any]:
    """`config` with the settings that it gives as text read as those of the environment are.

    Raises SettingError.
    """
    named = {setting.name: setting for setting in SETTINGS}
    return {
        name: _read(named[name], value) if name in named and isinstance(value, str) else value
        for name, value in config.items()
    }


def _read(setting: Setting, text: str) -> Any:
    try:
        return setting.read(text)
    except ValueError as error:
        shown = "" if setting.name == "API_KEY" else f"={text!r}"
        raise SettingError(f"{setting.variable}{shown}: {error}.") from error


def table() -> str:
    """The settings as the list-table rows that docs/operations.rst shows."""
    rows = []
    for setting in SETTINGS:
        default = f"``{setting.default}``" if setting.default else "not set"
        rows.append(f"   * - ``{setting.variable}``\n     - {default}\n     - {setting.help}\n")
    return "".join(rows)

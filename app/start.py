"""What gunicorn's master does around the start: refuse what can't work, say what is served."""

import importlib.metadata
import ipaddress
import logging
import os
import shutil
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

from app.config import SettingError
from app.ollama.client import Ollama
from app.ollama.errors import OllamaError

log = logging.getLogger(__name__)

UNIX_PATH_BYTES = 107
"""What fits into sockaddr_un with the byte that ends it; source: unix(7)."""


def check_folders(settings: Mapping[str, Any]) -> None:
    """Make the models directory where it isn't there. Raises SettingError where it is of no use."""
    folder: Path = settings["MODELS_DIR"]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(0, "Permission denied")
    except OSError as error:
        raise SettingError(
            f"MODEL_HANDLER_MODELS_DIR={folder} can't be used: {error.strerror}."
        ) from error


def check_address(bind: str, address: tuple[str, int] | str | int, source: str) -> None:
    """Raise SettingError unless gunicorn could listen now at the address that `bind` means;
    `source` is what has set it."""
    try:
        if isinstance(address, tuple):
            _try_port(*address)
        elif isinstance(address, str):
            _try_path(Path(address))
    except (OSError, OverflowError, UnicodeError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).rstrip(".")
        raise SettingError(
            f"{source}={bind!r}: {reason}. Stop what listens there, or choose another address with"
            " MODEL_HANDLER_BIND or --bind HOST:PORT."
        ) from error


def _try_port(host: str, port: int) -> None:
    family, kind, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(where)
        probe.listen()


def _try_path(path: Path) -> None:
    if len(os.fsencode(path)) > UNIX_PATH_BYTES:
        raise OverflowError(f"the path has more than {UNIX_PATH_BYTES} bytes")
    if not os.access(path.absolute().parent, os.W_OK | os.X_OK):
        raise PermissionError(0, "no socket can be made in that folder")
    with socket.socket(socket.AF_UNIX) as probe:
        if probe.connect_ex(str(path)) == 0:
            raise OSError(0, "Address already in use")


def say_what_is_served(
    settings: Mapping[str, Any], listeners: Iterable[str], not_applied: Iterable[str]
) -> None:
    """Log version, addresses, folder, and who is let in; `not_applied` are settings that systemd
    decides instead."""
    version = importlib.metadata.version("model-handler")
    for listener in listeners:
        log.info("model handler %s: %s", version, _page(listener))
    folder: Path = settings["MODELS_DIR"]
    free = shutil.disk_usage(folder).free / 1e9
    log.info("Models are kept in %s, which has %.1f GB free.", folder, free)
    for name in ("MODELFILES_DIR", "OLLAMA_MODELS"):
        given: Path | None = settings[name]
        if given is not None and not given.is_dir():
            log.warning("%s: there is no folder %s.", name, given)
    key = "is set" if settings["API_KEY"] else "isn't set: whoever can connect may do everything"
    log.info("MODEL_HANDLER_API_KEY %s.", key)
    hosts = ["localhost", "IP addresses", *settings["TRUSTED_HOSTS"]]
    log.info("Answers to these hosts: %s (MODEL_HANDLER_TRUSTED_HOSTS).", ", ".join(hosts))
    proxies = settings["TRUSTED_PROXIES"]
    log.info("Trusted proxies in front: %s (MODEL_HANDLER_TRUSTED_PROXIES).", proxies)
    for variable in not_applied:
        log.warning(
            "%s isn't heeded: systemd has opened the socket, as ListenStream= in its unit says.",
            variable,
        )


def _page(listener: str) -> str:
    """Where the page is found at what a gunicorn socket calls itself."""
    parts = urlsplit(listener)
    if parts.scheme not in ("http", "https"):
        return f"listening at {listener}, for a proxy."
    try:
        is_any = ipaddress.ip_address(parts.hostname or "").is_unspecified
    except ValueError:
        is_any = False
    if not is_any:
        return f"the page is {listener}/"
    return f"the page is {parts.scheme}://localhost:{parts.port}/, and at every address of this one"


def say_which_ollamas(servers: Iterable[Ollama]) -> None:
    """Log each Ollama server with its version, or what keeps it from saying that, once it is known.
    Returns at once."""
    for server in servers:
        Thread(target=_say_which, args=(server,), name="ollama", daemon=True).start()


def _say_which(server: Ollama) -> None:
    url = urlsplit(server.url)
    shown = url._replace(netloc=url.netloc.rpartition("@")[2]).geturl()
    try:
        log.info("Ollama at %s: version %s.", shown, server.recent_version())
    except OllamaError as error:
        log.warning("%s", str(error).replace(server.url, shown))

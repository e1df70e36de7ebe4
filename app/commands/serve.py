"""`model-handler serve`: the service under gunicorn."""

import os
import socket
import sys

import click
from gunicorn.util import parse_address

from app.config import SettingError, from_environ


@click.command()
@click.option("--bind", metavar="HOST:PORT", help="Instead of MODEL_HANDLER_BIND.")
def serve(bind: str | None) -> None:
    """Serve until interrupted. A setting or an address that can't be used ends with status 2."""
    if bind is not None:
        os.environ["MODEL_HANDLER_BIND"] = bind
    try:
        settings = from_environ(os.environ)
        if "LISTEN_FDS" not in os.environ:
            _check_address(settings["BIND"])
        settings["MODELS_DIR"].mkdir(parents=True, exist_ok=True)
    except SettingError as error:
        raise click.UsageError(str(error)) from error
    except OSError as error:
        raise click.UsageError(
            f"MODEL_HANDLER_MODELS_DIR={settings['MODELS_DIR']} can't be made: {error.strerror}."
        ) from error
    gunicorn = [sys.executable, "-m", "gunicorn", "-c", "python:app.gunicorn_conf"]
    os.execv(sys.executable, gunicorn)


def _check_address(bind: str) -> None:
    """Raise SettingError unless gunicorn could listen at that address now."""
    try:
        address = parse_address(bind)
        if not isinstance(address, tuple):
            return
        host, port = address
        family, kind, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SettingError(
            f"MODEL_HANDLER_BIND={bind!r}: {reason}. Stop what listens there, or choose another"
            " address with --bind HOST:PORT."
        ) from error

"""What the commands that ask a running service share: its address, its key, how it fails."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
import requests

from app.commands.sending import Refused

TIMEOUT_SECONDS = (10, 900)
KEY_VARIABLE = "MODEL_HANDLER_API_KEY"


def _url(context: click.Context, option: click.Parameter, value: str) -> str:
    """The service's URL, without the last slash; plain HTTP where only the host is said."""
    scheme, found, rest = value.partition("://")
    if not found:
        scheme, rest = "http", value
    if scheme.lower() not in ("http", "https") or not rest.strip("/"):
        raise click.BadParameter(f"{value!r} isn't like http://127.0.0.1:8000.")
    return f"{scheme.lower()}://{rest.rstrip('/')}"


def service_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options `server`, the service's URL, and `key_env`."""
    server = click.option(
        "--server",
        metavar="URL",
        callback=_url,
        default="http://127.0.0.1:8000",
        show_default=True,
        help="The service. MODEL_HANDLER_SERVER says it too.",
        envvar="MODEL_HANDLER_SERVER",
    )
    key_env = click.option(
        "--key-env",
        metavar="VARIABLE",
        default=KEY_VARIABLE,
        show_default=True,
        help="The environment variable that holds the service's API key.",
    )
    return server(key_env(command))


@contextmanager
def asking(server: str, key_env: str, advice: str) -> Iterator[requests.Session]:
    """A session that carries the key. A failure ends the command with its sentence and hint, and
    status 1; `advice` is what helps where the service stopped answering."""
    try:
        with requests.Session() as session:
            if key := os.environ.get(key_env):
                session.headers["X-API-Key"] = key
            yield session
    except Refused as error:
        said = filter(None, (str(error), error.hint))
        raise click.ClickException("\n".join(said)) from error
    except requests.RequestException as error:
        raise click.ClickException(
            f"{server} can't be reached, or stopped answering. {advice}"
        ) from error
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error

"""`model-handler serve`: the service under gunicorn."""

import os
import sys

import click
from gunicorn import systemd
from gunicorn.util import parse_address

from app.commands.settings import Unusable, read_settings
from app.config import SettingError
from app.start import check_address, check_folders


@click.command()
@click.option("--bind", metavar="HOST:PORT", help="Instead of MODEL_HANDLER_BIND.")
def serve(bind: str | None) -> None:
    """Serve until interrupted. A setting or an address that can't be used ends with status 2."""
    if bind is not None:
        os.environ["MODEL_HANDLER_BIND"] = bind
    settings = read_settings()
    try:
        check_folders(settings)
        if not systemd.listen_fds(unset_environment=False):
            text = settings["BIND"]
            check_address(text, parse_address(text), "MODEL_HANDLER_BIND")
    except SettingError as error:
        raise Unusable(str(error)) from error
    gunicorn = [sys.executable, "-m", "gunicorn", "-c", "python:app.gunicorn_conf"]
    os.execv(sys.executable, gunicorn)

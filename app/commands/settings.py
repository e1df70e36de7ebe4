"""`model-handler settings`: every setting, its value and where that comes from."""

import os
import re
from typing import Any

import click

from app.config import SETTINGS, Setting, SettingError, from_environ
from app.logs import escaped

SECRET = ("API_KEY",)
_USER_OF_URL = re.compile(r"(?<=://)[^/@\s]*@")


class Unusable(click.ClickException):
    """A setting can't be used, or what it names."""

    exit_code = 2


def read_settings() -> dict[str, Any]:
    """Every setting's value, by the environment. Raises Unusable."""
    try:
        return from_environ(os.environ)
    except SettingError as error:
        raise Unusable(str(error)) from error


@click.command()
def settings() -> None:
    """Each setting with its value and origin; a secret's value isn't shown."""
    values = read_settings()
    width = max(len(setting.variable) for setting in SETTINGS)
    for setting in SETTINGS:
        origin = "environment" if os.environ.get(setting.variable) else "default"
        value = _shown(setting, values[setting.name])
        click.echo(f"{setting.variable:{width}}  {value}  [{origin}]")


def _shown(setting: Setting, value: Any) -> str:
    if value is None or value == ():
        return "(not set)"
    if setting.name in SECRET:
        return "(set, not shown)"
    if isinstance(value, bool):
        return str(int(value))
    parts = value if isinstance(value, tuple) else (value,)
    between = " " if setting.name == "CONVERTER" else ","
    text = between.join(str(part) for part in parts)
    return escaped(_USER_OF_URL.sub("***@", text))

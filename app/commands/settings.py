"""`model-handler settings`: every setting, its value and where that comes from."""

import os

import click

from app.config import SETTINGS, SettingError, from_environ

SECRET = ("API_KEY",)


@click.command()
def settings() -> None:
    """Each setting with its value and origin; a secret's value isn't shown."""
    try:
        from_environ(os.environ)
    except SettingError as error:
        raise click.UsageError(str(error)) from error
    width = max(len(setting.variable) for setting in SETTINGS)
    for setting in SETTINGS:
        given = os.environ.get(setting.variable)
        origin = "environment" if given else "default"
        value = given or setting.default or "(not set)"
        if given and setting.name in SECRET:
            value = "(set, not shown)"
        click.echo(f"{setting.variable:{width}}  {value}  [{origin}]")

"""`model-handler`: the service and what belongs to it, from a shell."""

from importlib import import_module

import click

COMMANDS = {
    "serve": "app.commands.serve:serve",
    "deploy": "app.commands.deploy:deploy",
    "check": "app.commands.local:check",
    "convert": "app.commands.local:convert",
    "tasks": "app.commands.tasks:tasks",
    "gc": "app.commands.gc:gc",
    "settings": "app.commands.settings:settings",
}
"""Where each command is; none is imported before it is asked for."""


class LazyGroup(click.Group):
    """A group that imports a command only when it runs or tells its help."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[name].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command


@click.group(cls=LazyGroup)
@click.version_option(package_name="model-handler", prog_name="model-handler")
def main() -> None:
    """From what a trainer wrote to a model on Ollama."""

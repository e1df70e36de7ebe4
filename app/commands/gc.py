"""`model-handler gc`: free the disk space of what is no longer needed."""

import click

from app.commands.settings import Unusable, read_settings
from app.logs import escaped
from app.service.conversion import METHOD
from app.storage.directory import Storage
from app.storage.garbage import collect


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
def gc(dry_run: bool) -> None:
    """Remove what isn't needed from the models directory, also beside a running service.

    These are partial uploads that have expired, what killed tasks have left behind, and merged or
    converted files that were made of files that have changed or gone. Models stay.
    """
    settings = read_settings()
    folder = settings["MODELS_DIR"]
    if not folder.is_dir():
        raise Unusable(f"MODEL_HANDLER_MODELS_DIR={folder} isn't there.")
    storage = Storage(folder, upload_lifetime=settings["UPLOAD_LIFETIME"])
    total = 0
    try:
        for garbage in collect(storage, METHOD, dry_run=dry_run):
            goes = dry_run or garbage.is_gone
            total += garbage.size if goes else 0
            size = shown(garbage.size) if goes else "stays"
            click.echo(f"{size:>9}  {escaped(garbage.what)}")
        for sentence in storage.say_unlisted():
            click.echo(sentence)
    except OSError as error:
        raise click.ClickException(f"{folder}: {error.strerror or error}.") from error
    click.echo(f"{'Would free' if dry_run else 'Freed'} {shown(total)}.")


def shown(size: float) -> str:
    """A size in bytes, as a person reads it."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError

"""`model-handler convert` and `check`: the service's own work on files of this machine."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import click

from app.archive.limits import ArchiveError
from app.formats.files import ModelFile
from app.formats.tensor_types import QUANTIZATIONS
from app.modelfile.grammar import ModelfileError
from app.planning.contents import examine
from app.planning.conversion import Conversion
from app.planning.selection import Selection, select
from app.planning.unusable import Unusable
from app.service.conversion import job_of
from app.storage.directory import Storage
from app.storage.failures import StorageError
from app.storage.model import BLOCK
from app.weights.errors import WeightsError, WeightsKilled
from app.weights.job import Job, Progress, Result, run
from app.weights.job import check as check_job

EXISTING = click.Path(exists=True, path_type=Path)
FAILURES = (ArchiveError, ModelfileError, StorageError, Unusable, WeightsError, WeightsKilled)


@click.command()
@click.argument("model", type=EXISTING)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path))
@click.option("--adapter", type=EXISTING, help="A LoRA adapter's folder, file or archive.")
@click.option("--scale", type=float, default=1.0, help="Multiplies the adapter's alpha.")
@click.option("--quantize", type=click.Choice(QUANTIZATIONS, case_sensitive=False))
def convert(
    model: Path, output: Path, adapter: Path | None, scale: float, quantize: str | None
) -> None:
    """Make one GGUF of MODEL: a folder that save_pretrained wrote, a GGUF, or an archive of these.

    An adapter in MODEL, or the one named, is merged into it. The output must not exist yet.
    """
    with _told(), _job(model, adapter, scale, quantize, output.absolute().parent) as job:
        planned = check_job(job)
        _say(planned)
        with click.progressbar(length=planned.size, label="Writing", show_pos=False) as bar:

            def report(progress: Progress | None) -> None:
                if progress is not None:
                    bar.update(progress.done - bar.pos)

            made = run(job, output.absolute(), report)
        click.echo(f"{output}: {made.size} bytes, sha256:{made.sha256}")


@click.command()
@click.argument("model", type=EXISTING)
@click.option("--adapter", type=EXISTING, help="A LoRA adapter's folder, file or archive.")
@click.option("--quantize", type=click.Choice(QUANTIZATIONS, case_sensitive=False))
def check(model: Path, adapter: Path | None, quantize: str | None) -> None:
    """Say what `convert` would make of MODEL; nothing is written."""
    with _told(), _job(model, adapter, 1.0, quantize, None) as job:
        _say(check_job(job))


def _say(planned: Result) -> None:
    types = ", ".join(f"{count} {name}" for name, count in planned.types.items())
    click.echo(
        f"{planned.architecture}, {planned.parameters} parameters, {planned.quantization}:"
        f" {planned.size} bytes ({types})"
    )
    if planned.changed:
        click.echo(f"The adapter changes {planned.changed} tensors.")
    for note in planned.notes:
        click.echo(note)


@contextmanager
def _told() -> Iterator[None]:
    """Let what can't be used end the command with its sentence and hint, and status 1."""
    try:
        yield
    except FAILURES as error:
        said = [str(error), getattr(error, "hint", None)]
        raise click.ClickException("\n".join(filter(None, said))) from error
    except FileExistsError as error:
        raise click.ClickException("The output file exists. Remove it, or name another.") from error
    except OSError as error:
        raise click.ClickException(f"{error.strerror or error}.") from error


@contextmanager
def _job(
    model: Path, adapter: Path | None, scale: float, quantize: str | None, beside: Path | None
) -> Iterator[Job]:
    """The job on the files; archives are unpacked in a folder beside the output meanwhile."""
    with tempfile.TemporaryDirectory(prefix=".model-handler-", dir=beside) as name:
        selection = _selected(model, Path(name) / "model")
        of_adapter = _selected(adapter, Path(name) / "adapter").adapter if adapter else None
        chosen = of_adapter or selection.adapter
        base = selection.base
        if base is None:
            raise Unusable(f"{model.name} holds no base model, only an adapter.", "Name its base.")
        if adapter is not None and chosen is None:
            raise Unusable(f"{adapter.name} holds no adapter.")
        if chosen is not None:
            chosen.check_fits(base)
        matrix = selection.importance_matrix
        conversion = Conversion(
            base=base,
            adapter=chosen,
            scale=scale,
            reason="The command asks for it.",
            quantize=quantize,
            importance_matrix=matrix if quantize else None,
        )
        yield job_of(conversion, model.stem if model.is_file() else model.absolute().name)


def _selected(path: Path, scratch: Path) -> Selection:
    return select(examine(_files(path, scratch)))


def _files(path: Path, scratch: Path) -> Sequence[ModelFile]:
    if path.is_dir():
        return [
            _file(found, found.relative_to(path).as_posix())
            for found in sorted(path.rglob("*"))
            if found.is_file() and not any(part.startswith(".") for part in found.parts)
        ]
    with path.open("rb") as file:
        if file.read(4) == b"GGUF":
            return [_file(path, path.name)]
    storage = Storage(scratch)
    storage.prepare()
    with storage.staging("unpacked") as staging:
        with staging.receive(path.name) as arrival, path.open("rb") as file:
            for block in iter(partial(file.read, BLOCK), b""):
                arrival.write(block)
        with staging.archive() as archive:
            staging.extract(archive, {}, lambda action, details, done=None: None)
        staging.publish("unpacked")
    return storage.model("unpacked").files()


def _file(path: Path, name: str) -> ModelFile:
    return ModelFile(name, path.stat().st_size, lambda: path.open("rb"), path.absolute())

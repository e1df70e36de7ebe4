"""`model-handler deploy`: a file or a folder of this machine to a model on Ollama, by a service."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import Any

import click
import requests

from app.commands.asking import TIMEOUT_SECONDS, asking, service_options
from app.commands.payload import FilePayload, Folder, Payload
from app.commands.sending import Refused, Sender, check_answer
from app.formats.tensor_types import QUANTIZATIONS
from app.logs import escaped

GO_ON = "Run the same command again to go on with what has arrived."


def _finite(context: click.Context, option: click.Parameter, value: float | None) -> float | None:
    if value is not None and not isfinite(value):
        raise click.BadParameter("It takes a finite number.")
    return value


@click.command()
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.argument("name")
@service_options
@click.option("--from", "from_", metavar="BASE", help="The base of an adapter that comes alone.")
@click.option("--quantize", type=click.Choice(QUANTIZATIONS, case_sensitive=False))
@click.option(
    "--adapter-scale", type=float, callback=_finite, help="A factor for the adapter's weight."
)
@click.option("--replace/--no-replace", default=None, help="Whether NAME may be taken.")
@click.option("--verify", is_flag=True, default=None, help="Have Ollama load it and answer.")
@click.option("--ollama-server", metavar="HOST:PORT", help="One of the service's Ollama servers.")
@click.option(
    "--set",
    "more",
    metavar="FIELD=VALUE",
    multiple=True,
    help="Another field of a deploy, such as system='You are terse.'; may be repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the service's lines as they are.")
def deploy(
    path: Path,
    name: str,
    server: str,
    key_env: str,
    from_: str | None,
    ollama_server: str | None,
    more: tuple[str, ...],
    as_json: bool,
    **asked: Any,
) -> None:
    """Send PATH to a service, which makes it the model NAME on Ollama.

    PATH is an archive, a GGUF, an adapter's safetensors beside its config, or a folder, of which
    only what the service doesn't have is sent. After a lost connection the upload resumes, by
    itself or when the same command is run again.

    Ends with status 0 where the model was made, 1 where it wasn't, and 2 where the command itself
    can't be understood. NAME and the options are checked before anything is sent.
    """
    own = {"model_name_on_ollama": name, "from": from_, "server": ollama_server, **asked}
    fields = _fields(more) | {key: value for key, value in own.items() if value is not None}
    with asking(server, key_env, GO_ON) as session:
        checked = session.post(f"{server}/models/check/", json=fields, timeout=TIMEOUT_SECONDS)
        with _refusal_shown(as_json):
            check_answer(checked)
        payload, known = _compared(session, server, Path(os.path.abspath(path)))
        sender = Sender(session, server)
        if payload is not None:
            with _refusal_shown(as_json), _bar("Sending", payload.size) as at:
                known["upload"] = sender.send(payload, fields, at)
        answer = session.post(
            *(f"{server}/models/deploy/", None, fields | known),
            params={"verbose": "1"},
            stream=True,
            timeout=TIMEOUT_SECONDS,
        )
        with answer:
            _follow(answer, as_json)
        if payload is not None:
            sender.forget(payload)


def _fields(said: tuple[str, ...]) -> dict[str, Any]:
    """The fields that FIELD=VALUE say. Raises click.BadParameter."""
    fields = {}
    for each in said:
        field, equals, value = each.partition("=")
        if not (field and equals):
            raise click.BadParameter(f"{each!r} isn't FIELD=VALUE.", param_hint="--set")
        fields[field] = value
    return fields


def _compared(
    session: requests.Session, server: str, path: Path
) -> tuple[Payload | None, dict[str, Any]]:
    """What has to be sent, if anything, and the fields that say what the service has already."""
    if path.is_dir():
        folder = Folder.read(path)
    elif path.suffix.lower() == ".safetensors":
        folder = Folder.of_adapter(path)
    else:
        return FilePayload(path), {}
    large = folder.large()
    if not large:
        return folder.without(()), {}
    with _bar("Comparing", sum(file.stat().st_size for file in large)) as at:
        done = 0

        def hashed(count: int) -> None:
            nonlocal done
            done += count
            at(done)

        files = [folder.described(file, hashed) for file in large]
    answer = session.post(
        f"{server}/models/missing/", json={"files": files}, timeout=TIMEOUT_SECONDS
    )
    check_answer(answer)
    missing = set(answer.json()["missing"])
    known = [file for file in files if file["name"] not in missing]
    payload = folder.without(file["name"] for file in known)
    named = {} if payload else {"name": folder.path.name}
    return payload, ({"known": known} if known else {}) | named


def _follow(answer: requests.Response, as_json: bool) -> None:
    """Print the lines. Raises Refused unless the last one's status is 200."""
    last: dict[str, Any] = {}
    for text in filter(None, answer.iter_lines(decode_unicode=False)):
        try:
            last = json.loads(text)
            message = last["message"]
            said = f"{message.get('progress', 0):4.0%} {message['action']}"
        except (ValueError, LookupError, TypeError):
            raise Refused(f"The server answered {answer.status_code}, and no line.") from None
        click.echo(text.decode() if as_json else escaped(said))
    if last.get("status") != 200:
        details = last["message"].get("details", {}) if last else {}
        raise Refused(details.get("error", "The model wasn't made."), details.get("hint"))
    if last["message"].get("progress") != 1:
        raise Refused("The service's answer was cut off.", "Its task is listed at /tasks/.")


@contextmanager
def _refusal_shown(as_json: bool) -> Iterator[None]:
    """Print the line of a refusal within the block, where lines are wanted."""
    try:
        yield
    except Refused as error:
        if as_json and error.line:
            click.echo(error.line)
        raise


@contextmanager
def _bar(label: str, size: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr; what it gives is to be told how many bytes are done."""
    started, first = time.monotonic(), -1
    with click.progressbar(
        length=size, label=label, file=sys.stderr, item_show_func=lambda item: item
    ) as bar:

        def at(done: int) -> None:
            nonlocal first
            first = done if first < 0 else first
            speed = max(0, done - first) / max(0.001, time.monotonic() - started)
            said = f"{done / 1e6:.0f} of {size / 1e6:.0f} MB, {speed / 1e6:.1f} MB/s"
            bar.update(done - bar.pos, said)

        yield at

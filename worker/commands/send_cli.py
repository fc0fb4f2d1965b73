"""The options of `brook-worker send`."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from schemas import codec
from worker.commands.failures import CommandError, PartlyDoneError, reported
from worker.commands.interruption import run_interruptible
from worker.commands.send import send_all
from worker.commands.shared import ConfigOption, settings_of
from worker.terminal import visible


def send(
    source: Annotated[str, typer.Argument(metavar="FILE|-", help="Append commands, one JSON object a line.")],
    *,
    config: ConfigOption = None,
    await_replies: Annotated[
        bool, typer.Option("--await/--no-await", help="Wait for the replies and print each as a line of JSON.")
    ] = False,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="Give up when no reply has come for so long.")] = 30.0,
    msgpack: Annotated[bool, typer.Option("--msgpack", help="Send MessagePack instead of JSON.")] = False,
) -> None:
    """Send append commands. A bad line is told by its number; all good ones are sent."""
    with reported():
        settings = settings_of(config)
        if await_replies and settings.reply_queue is None:
            raise CommandError("--await: replies go to a topic (reply_topic), which is not read here; use --no-await")
        act = partial(
            send_all,
            content_type=codec.MSGPACK if msgpack else codec.JSON,
            await_replies=await_replies,
            quiet_s=timeout_s,
            on_problem=_problem,
        )
        with _opened(source) as descriptor:
            summary = run_interruptible(act, settings, descriptor)
    typer.echo(f"sent {summary.sent:,} commands", err=True)
    if summary.bad_lines:
        typer.echo(f"error: {summary.bad_lines:,} not sent, see above", err=True)
        raise typer.Exit(PartlyDoneError.exit_code if summary.sent else 1)


@contextmanager
def _opened(source: str) -> Iterator[int]:
    """The descriptor of a file, or of stdin for `-`. Raises CommandError where it cannot be read."""
    if source == "-":
        if sys.stdin is None:
            raise CommandError("-: stdin is closed; give it a pipe or a file, or name a file")
        yield sys.stdin.fileno()
        return
    try:
        with Path(source).open("rb") as file:
            yield file.fileno()
    except OSError as error:
        raise CommandError(f"cannot read {source!r}: {error.strerror}") from error


def _problem(text: str) -> None:
    typer.echo(f"error: {visible(text)}", err=True)

"""The options of the commands about one brook: `read`, `inspect` and `recover`."""

from functools import partial
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from brook_client.reading import read as read_events
from schemas.keys import BrookKey
from worker.commands.console import SafeConsole
from worker.commands.failures import UsageError, reported
from worker.commands.follow import Polling, Start, follow
from worker.commands.interruption import InterruptedBySignalError, run_interruptible
from worker.commands.read import at_most, brook_store, write_lines, write_ndjson, write_table
from worker.commands.shared import BrookArgument, ConfigOption, JsonOption, settings_of
from worker.settings import Settings
from worker.terminal import visible

Output = Literal["auto", "ndjson", "table"]


def _start(text: str) -> Start:
    """A position, or the end."""
    if text == "end":
        return "end"
    if text.isascii() and text.isdigit():
        return int(text)
    raise typer.BadParameter(f"{text!r} is no position: give 0 or more, or `end` with --follow")


def read(
    brook: BrookArgument,
    *,
    config: ConfigOption = None,
    start: Annotated[
        Any,
        typer.Option(
            "--from",
            parser=_start,
            metavar="N|end",
            help="First position to read; default 0, or the head if backward. end: only what is new.",
        ),
    ] = None,
    backward: Annotated[bool, typer.Option("--backward", help="Read towards position 0.")] = False,
    following: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with new events as they are committed, until SIGINT.")
    ] = False,
    interval_s: Annotated[
        float,
        typer.Option("--interval", min=0.1, max=60, metavar="SECONDS", help="Longest pause between two looks."),
    ] = 2.0,
    limit: Annotated[int | None, typer.Option(min=0, help="Read no more than so many events.")] = None,
    output: Annotated[Output, typer.Option("--format", help="auto: a table on a terminal.")] = "auto",
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line: the same as --format ndjson.")
    ] = False,
) -> None:
    """Print the events of a brook, as newline-delimited JSON or as a table.

    With --follow each event is printed once its whole command is committed; each look at the head costs a few request
    units.
    """
    console = SafeConsole()
    as_table = not as_json and (output == "table" or (output == "auto" and console.is_terminal))

    if following:
        act = partial(_follow, start=start or 0, interval_s=interval_s)
    else:
        act = partial(_read, start=start, backward=backward)
    with reported():
        if following and backward:
            raise UsageError("--follow goes forward: leave --backward out")
        if start == "end" and not following:
            raise UsageError("--from end: there is nothing after the end; give --follow too, or a position")
        key = BrookKey.parse(brook)
        try:
            run_interruptible(partial(act, limit=limit, as_table=as_table, console=console), settings_of(config), key)
        except InterruptedBySignalError:
            if not following:
                raise


async def _read(
    settings: Settings,
    key: BrookKey,
    *,
    start: int | None,
    backward: bool,
    limit: int | None,
    as_table: bool,
    console: Console,
) -> None:
    async with brook_store(settings) as reader:
        events = at_most(read_events(reader, key, from_position=start, backward=backward), limit)
        if as_table:
            await write_table(events, str(key), console)
        else:
            await write_ndjson(events, console)


async def _follow(
    settings: Settings,
    key: BrookKey,
    *,
    start: Start,
    interval_s: float,
    limit: int | None,
    as_table: bool,
    console: Console,
) -> None:
    polling = Polling(first_s=min(interval_s, Polling().first_s), max_s=interval_s)
    async with brook_store(settings) as reader:
        events = at_most(follow(reader, key, start, polling=polling, on_trouble=_note), limit)
        await (write_lines if as_table else write_ndjson)(events, console)


def inspect(brook: BrookArgument, *, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show how a brook stands and what recovery would do about it. Changes nothing."""
    from worker.commands.inspect import inspect_and_tell  # noqa: PLC0415 - the other commands need no protocol

    with reported():
        key = BrookKey.parse(brook)
        run_interruptible(partial(inspect_and_tell, as_json=as_json, console=SafeConsole()), settings_of(config), key)


def recover(
    brook: BrookArgument,
    *,
    config: ConfigOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; tell what would be done.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Complete or roll back the large append that somebody left in a brook, as a worker would that finds it."""
    from worker.commands.recover import recover_and_tell  # noqa: PLC0415 - the other commands need no protocol

    with reported():
        key = BrookKey.parse(brook)
        tell = partial(recover_and_tell, dry_run=dry_run, as_json=as_json, console=SafeConsole())
        run_interruptible(tell, settings_of(config), key)


def _note(text: str) -> None:
    typer.echo(f"note: {visible(text)}", err=True)

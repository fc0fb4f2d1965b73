"""The options of `brook-worker dead-letter`."""

import signal
import sys
from functools import partial
from typing import Annotated

import typer
from rich.console import Console

from schemas.keys import BrookKey, session_id_for
from worker.commands.console import SafeConsole
from worker.commands.failures import CommandError, UsageError, reported
from worker.commands.interruption import run_interruptible
from worker.commands.shared import ConfigOption, JsonOption, example, settings_of
from worker.deadletters.base import Selection

_LIMIT_MAX = 100_000

app = typer.Typer(
    name="dead-letter",
    help="The command queue's dead letters: look at them, send them again in order, or purge them.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

SessionOption = Annotated[str | None, typer.Option("--session", metavar="ID", help="Those of one session.")]
BrookOption = Annotated[
    str | None, typer.Option("--brook", metavar="BROOK", help="Commands for one brook: name|entityId.")
]
ReasonOption = Annotated[
    str | None, typer.Option("--reason", metavar="TEXT", help="Those dead-lettered for this reason.")
]
NumbersOption = Annotated[
    list[int] | None,
    typer.Option("--sequence-number", min=1, metavar="N", help="This one; give it again for several."),
]
AllOption = Annotated[bool, typer.Option("--all", help="All of them: needed where nothing else says which.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Change nothing; tell what would be done.")]
LimitOption = Annotated[int, typer.Option(min=1, max=_LIMIT_MAX, metavar="N", help="No more than so many.")]
NumberArgument = Annotated[int, typer.Argument(min=1, metavar="NUMBER", help="The sequence number, as list shows it.")]


@app.command("list", epilog=example("brook-worker dead-letter list --reason MaxDeliveryCountExceeded --json"))
def list_(
    *,
    config: ConfigOption = None,
    session: SessionOption = None,
    brook: BrookOption = None,
    reason: ReasonOption = None,
    sequence_number: NumbersOption = None,
    from_number: Annotated[
        int, typer.Option("--from", min=0, metavar="N", help="Go on from this sequence number.")
    ] = 0,
    limit: LimitOption = 100,
    as_json: JsonOption = False,
) -> None:
    """List dead letters, by sequence number. Takes and changes nothing: they are peeked at."""
    from worker.commands.dead_letter import list_letters  # noqa: PLC0415 - the other commands need no such client

    with reported():
        settings = settings_of(config)
        selection = _selection(session, brook, reason, sequence_number)
        tell = partial(list_letters, from_number=from_number, limit=limit, as_json=as_json, console=SafeConsole())
        run_interruptible(tell, settings, selection)


@app.command(epilog=example("brook-worker dead-letter show 1042"))
def show(number: NumberArgument, *, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show one dead letter with all its properties and its body. Changes nothing."""
    from worker.commands.dead_letter import show_letter  # noqa: PLC0415

    with reported():
        run_interruptible(partial(show_letter, as_json=as_json, console=SafeConsole()), settings_of(config), number)


@app.command(
    epilog=example("brook-worker dead-letter resubmit --brook 'order|1042' --dry-run")
    + " and the same without `--dry-run`"
)
def resubmit(
    *,
    config: ConfigOption = None,
    session: SessionOption = None,
    brook: BrookOption = None,
    reason: ReasonOption = None,
    sequence_number: NumbersOption = None,
    every: AllOption = False,
    limit: LimitOption = 1000,
    duplicate_window: Annotated[
        float | None,
        typer.Option(min=0, metavar="SECONDS", help="For how long the queue drops duplicates; 0: it does not."),
    ] = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Send dead letters into the queue again, in the order of their sequence numbers within each session.

    Each goes last in its session, under its own command id, and only then leaves the dead letters. A worker looks up
    whether it took effect before: then it answers as it did, and appends nothing. Sending one twice is harmless.
    """
    from worker.commands.dead_letter import Intent, Output, resubmit  # noqa: PLC0415

    with reported():
        settings = settings_of(config)
        selection = _required(_selection(session, brook, reason, sequence_number), every=every)
        intent = Intent(action="resubmit", selection=selection, limit=limit, dry_run=dry_run)
        output = Output(SafeConsole(), SafeConsole(stderr=True), as_json)
        run_interruptible(partial(resubmit, duplicate_window_s=duplicate_window), settings, intent, output)


@app.command(epilog=example("brook-worker dead-letter purge --session 'order|1042' --yes"))
def purge(
    *,
    config: ConfigOption = None,
    session: SessionOption = None,
    brook: BrookOption = None,
    reason: ReasonOption = None,
    sequence_number: NumbersOption = None,
    every: AllOption = False,
    limit: LimitOption = 1000,
    dry_run: DryRunOption = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove dead letters for good. Asks first, unless --yes is given."""
    from worker.commands.dead_letter import Intent, Output, plan_purge, purge  # noqa: PLC0415

    errors = SafeConsole(stderr=True)
    with reported():
        settings = settings_of(config)
        selection = _required(_selection(session, brook, reason, sequence_number), every=every)
        intent = Intent(action="purge", selection=selection, limit=limit, dry_run=dry_run)
        plan = None
        if not yes and not dry_run:
            # Asked while no event loop runs: it would not hear a signal before the answer.
            plan = run_interruptible(plan_purge, settings, intent)
            _ask(len(plan.report.done), errors)
        run_interruptible(partial(purge, plan=plan), settings, intent, Output(SafeConsole(), errors, as_json))


def _ask(count: int, errors: Console) -> None:
    """Raise unless somebody wants so many letters gone."""
    if count == 0:
        return
    if not sys.stdin.isatty() or not errors.is_terminal:
        raise UsageError(f"{count:,} dead letters would be gone for good: give --yes, as nobody can be asked here")
    try:
        wanted = typer.confirm(f"Remove {count:,} dead letters for good?", err=True)
    except typer.Abort:  # at SIGINT, or where the terminal is closed
        raise typer.Exit(128 + signal.SIGINT) from None
    if not wanted:
        raise CommandError("nothing was removed")


def _selection(session: str | None, brook: str | None, reason: str | None, numbers: list[int] | None) -> Selection:
    key = None if brook is None else BrookKey.parse(brook)
    sessions = () if key is None else (session_id_for(key),)
    return Selection(
        session_id=session,
        brook=key,
        brook_sessions=frozenset(sessions),
        reason=reason,
        sequence_numbers=frozenset(numbers or ()),
    )


def _required(selection: Selection, *, every: bool) -> Selection:
    """Nobody means all dead letters by leaving something out."""
    if selection.is_all and not every:
        raise UsageError("say which: --session, --brook, --reason or --sequence-number, or --all for all of them")
    if every and not selection.is_all:
        raise UsageError("--all does not go with --session, --brook, --reason or --sequence-number; leave one out")
    return selection

"""`brook-worker dead-letter`: the command queue's dead letters, shown, sent again in order, or purged."""

from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from operator import attrgetter
from typing import Final, NamedTuple

import msgspec
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from worker.commands.console import print_json
from worker.commands.dead_letter_shown import (
    Action,
    LetterShown,
    LettersShown,
    LetterWhole,
    ReportShown,
    body_text,
    letter_shown,
    letters_table,
    print_report,
)
from worker.commands.failures import CommandError, PartlyDoneError, UsageError
from worker.deadletters.base import Acted, DeadLetterQueue, Letter, Selection
from worker.deadletters.sweep import HELD_BACK, Act, Kept, Report, Sweep, named, selected
from worker.operations.deadletters import dead_letter_queue
from worker.operations.queues import FactsUnavailableError, queue_facts
from worker.settings import Settings

_CLOCK_MARGIN_S: Final = 60.0
"""By so much the broker's clock may differ from ours when a duplicates' window is over."""


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator asked for."""

    action: Action
    selection: Selection
    limit: int
    dry_run: bool


class Output(NamedTuple):
    """Where to print: the report to `console`, progress to `errors`."""

    console: Console
    errors: Console
    as_json: bool


class Plan(NamedTuple):
    """Letters that would be done, and kept; `more` says that there are more than the limit. Nothing is locked."""

    report: Report
    more: bool


class _Work(NamedTuple):
    """What is done with letters, whether their order counts, and which of them had better be kept."""

    act: Act
    in_order: bool
    objection: Callable[[Letter], str | None] = lambda _: None


async def list_letters(
    settings: Settings, selection: Selection, *, from_number: int, limit: int, as_json: bool, console: Console
) -> None:
    """Print the first `limit` dead letters that are meant. Changes nothing."""
    shown: list[LetterShown] = []
    following: int | None = None
    async with dead_letter_queue(settings) as queue:
        async for letter in selected(queue, selection, from_number=from_number):
            if len(shown) == limit:
                following = letter.sequence_number
                break
            shown.append(letter_shown(letter))
    if as_json:
        print_json(console, LettersShown(queue=settings.command_queue, dead_letters=shown, next=following))
        return
    console.print(letters_table(shown, f"dead letters of {settings.command_queue}"))
    if following is not None:
        console.print(f"There are more: go on with --from {following}", highlight=False)


async def show_letter(settings: Settings, number: int, *, as_json: bool, console: Console) -> None:
    """Print one dead letter, body included. Raises CommandError when there is none of that number."""
    async with dead_letter_queue(settings) as queue:
        letters = [one async for one in selected(queue, Selection(sequence_numbers=frozenset({number})))]
    if not letters or letters[0].sequence_number != number:
        raise CommandError(
            f"queue {settings.command_queue!r} has no dead letter {number}; see `brook-worker dead-letter list`"
        )
    (letter,) = letters
    shown = letter_shown(letter)
    if as_json:
        body = None if letter.body is None else b64encode(letter.body).decode("ascii")
        print_json(console, LetterWhole(**msgspec.structs.asdict(shown), queue=settings.command_queue, body=body))
        return
    table = Table(show_header=False)
    table.add_column(justify="right", style="bold")
    table.add_column()
    for name, value in msgspec.to_builtins(shown).items():
        if value is not None and value != {}:
            table.add_row(name, Text(msgspec.json.encode(value).decode() if isinstance(value, dict) else str(value)))
    console.print(table)
    console.print(Text(body_text(letter)), soft_wrap=True)


async def resubmit(settings: Settings, intent: Intent, output: Output, *, duplicate_window_s: float | None) -> None:
    """Send dead letters into the queue again, each then taken out of the dead letters.

    Guarantee: none is lost. Raises PartlyDoneError when some were kept, UsageError where it must be told for how long
    the queue drops duplicates.
    """
    window_s = await _duplicates_window_s(settings) if duplicate_window_s is None else duplicate_window_s
    async with dead_letter_queue(settings) as queue:
        work = _Work(queue.send, in_order=True, objection=partial(_objection, window_s))
        await _carry_out(queue, work, await _planned(queue, intent, work.objection), intent, output)


async def plan_purge(settings: Settings, intent: Intent) -> Plan:
    """Which letters a purge would remove, to ask about them first."""
    async with dead_letter_queue(settings) as queue:
        return await _planned(queue, intent, lambda _: None)


async def purge(settings: Settings, intent: Intent, output: Output, *, plan: Plan | None = None) -> None:
    """Remove dead letters for good: those of `plan`, where somebody was asked about it, else those that are meant."""

    async def nothing(letters: Sequence[Letter]) -> Acted:
        return Acted(len(letters))

    async with dead_letter_queue(settings) as queue:
        work = _Work(nothing, in_order=False)
        planned = plan or await _planned(queue, intent, work.objection)
        await _carry_out(queue, work, planned, intent, output)


async def _carry_out(queue: DeadLetterQueue, work: _Work, plan: Plan, intent: Intent, output: Output) -> None:
    """Sweep as planned, and print the report however that ends."""
    planned = plan.report

    def tell(report: Report) -> None:
        shown = ReportShown(
            queue=queue.name,
            action=intent.action,
            dry_run=intent.dry_run,
            done=report.done,
            kept=report.kept,
            more=plan.more,
        )
        print_report(output.console, shown, as_json=output.as_json)

    report = planned
    if planned.done and not intent.dry_run:
        with _progress(output.errors, intent.action, len(planned.done)) as advance:
            sweep = Sweep(
                queue,
                planned.done,
                work.act,
                objection=work.objection,
                in_order=work.in_order,
                on_decided=advance,
            )
            report = sweep.report
            try:
                await sweep.run()
            finally:
                report.kept = sorted([*planned.kept, *report.kept], key=attrgetter("sequence_number"))
                tell(report)
    else:
        tell(report)
    if report.kept and not intent.dry_run:
        raise PartlyDoneError(f"{len(report.kept):,} dead letters were kept, see the reasons above")


async def _planned(queue: DeadLetterQueue, intent: Intent, objection: Callable[[Letter], str | None]) -> Plan:
    """Those that would be done, and those that would be kept, without any being locked."""
    report = Report(done=[], kept=[])
    blocked: set[str | None] = set()
    async for letter in selected(queue, intent.selection):
        if intent.limit in (len(report.done), len(report.kept)):
            return Plan(report, more=True)
        why = HELD_BACK if letter.session_id in blocked else objection(letter)
        if why is None:
            report.done.append(named(letter))
        else:
            blocked.add(letter.session_id)
            report.kept.append(Kept(**msgspec.structs.asdict(named(letter)), why=why))
    return Plan(report, more=False)


async def _duplicates_window_s(settings: Settings) -> float:
    """For how long the command queue drops what comes under a message id again."""
    try:
        (facts,) = await queue_facts(settings, [settings.command_queue])
    except FactsUnavailableError as error:
        raise UsageError(
            f"whether queue {settings.command_queue!r} drops duplicates is unknown: {error}\n"
            "if it does, a command that is resubmitted too early would vanish; give --duplicate-window 0 if it does not"
            " (as `brook-worker provision` makes it), or its window in seconds"
        ) from error
    return facts.duplicates_window_s


def _objection(window_s: float, letter: Letter) -> str | None:
    """Why sending this letter again would be for nothing, or lose it."""
    if letter.body is None:
        return "its body is not binary: a worker would dead-letter it again; purge it and mend its producer"
    if letter.session_id is None:
        return "it has no session id: the queue refuses it; purge it and mend its producer"
    if letter.message_id is None:
        return "it has no message id: let its producer send it again"
    if window_s > 0 and letter.enqueued_at is not None:
        safe_at = letter.enqueued_at + timedelta(seconds=window_s + _CLOCK_MARGIN_S)
        if datetime.now(UTC) < safe_at:
            until = safe_at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
            return (
                f"the queue drops duplicates for {window_s:g} s and would drop it; run the command again after {until}"
            )
    return None


@contextmanager
def _progress(errors: Console, action: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar on a terminal; nothing where stderr is none."""
    columns = (TextColumn(f"{action}:"), MofNCompleteColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress:
        task = progress.add_task(action, total=total)
        yield partial(progress.advance, task)

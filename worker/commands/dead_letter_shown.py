"""Dead letters as the command line shows them: as JSON, whose names are stable, and as tables."""

from collections.abc import Sequence
from datetime import UTC
from typing import Final, Literal

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from schemas.commands import event_count
from worker.commands.console import print_json
from worker.deadletters.base import Letter
from worker.deadletters.sweep import Kept, Named

Action = Literal["resubmit", "purge"]

_BODY_SHOWN_MAX: Final = 4000
_NAME_WIDTH_MAX: Final = 20
"""Longer ones are folded: a session and a message id may have 128 characters."""


class LetterShown(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A dead letter. `problem` is why no command can be read in it; then what would be of the command is null."""

    sequence_number: int
    message_id: str | None
    session_id: str | None
    brook: str | None
    events: int | None
    reason: str | None
    description: str | None
    problem: str | None
    enqueued_at: str | None
    delivery_count: int
    resubmitted: int
    body_bytes: int | None
    content_type: str | None
    correlation_id: str | None
    reply_to: str | None
    reply_to_session_id: str | None
    properties: dict[str, str | int | float | bool]


class LettersShown(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`dead-letter list --json`. `next` is the number to go on from (`--from`), null where there are no more."""

    queue: str
    dead_letters: list[LetterShown]
    next: int | None


class LetterWhole(LetterShown, frozen=True, kw_only=True, rename="camel"):
    """`dead-letter show --json`: with the body in base64; null where it is no binary one."""

    queue: str
    body: str | None


class ReportShown(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`dead-letter resubmit|purge --json`: what was done, or would be, and what was kept and why.

    `more` says that there are more than `--limit` of those that were asked for.
    """

    queue: str
    action: Action
    dry_run: bool
    done: list[Named]
    kept: list[Kept]
    more: bool


def print_report(console: Console, report: ReportShown, *, as_json: bool) -> None:
    """Print what was done and what was kept."""
    if as_json:
        print_json(console, report)
        return
    table = Table(title=Text(f"dead letters of {report.queue}"), title_justify="left")
    table.add_column("number", justify="right")
    for name in ("session", "message id", "outcome"):
        table.add_column(name, overflow="fold")
    would = "would be " if report.dry_run else ""
    done = f"{would}{_DONE[report.action]}"
    for one in report.done:
        table.add_row(*_cells(one), Text(done, style="green"))
    for kept in report.kept:
        table.add_row(*_cells(kept), Text(f"{would}kept: {kept.why}", style="yellow"))
    if table.row_count:
        console.print(table)
    console.print(f"{len(report.done):,} {done}, {len(report.kept):,} {would}kept", highlight=False)
    if report.more:
        console.print("There are more: run the command again, or raise --limit", highlight=False)


_DONE: Final = {"resubmit": "resubmitted", "purge": "purged"}


def letter_shown(letter: Letter) -> LetterShown:
    """A letter, with what can be read of the command in it."""
    command = letter.command()
    problem = command if isinstance(command, str) else None
    return LetterShown(
        sequence_number=letter.sequence_number,
        message_id=letter.message_id,
        session_id=letter.session_id,
        brook=None if isinstance(command, str) else str(command.brook),
        events=None if isinstance(command, str) else event_count(command),
        reason=letter.reason,
        description=letter.description,
        problem=problem,
        enqueued_at=letter.enqueued_at.astimezone(UTC).isoformat() if letter.enqueued_at is not None else None,
        delivery_count=letter.delivery_count,
        resubmitted=letter.resubmitted,
        body_bytes=None if letter.body is None else len(letter.body),
        content_type=letter.content_type,
        correlation_id=letter.correlation_id,
        reply_to=letter.reply_to,
        reply_to_session_id=letter.reply_to_session_id,
        properties=letter.properties,
    )


def letters_table(letters: Sequence[LetterShown], title: str) -> Table:
    """One letter a line, with most of the room for the reason."""
    table = Table(title=Text(title), title_justify="left")
    table.add_column("number", justify="right", no_wrap=True)
    for name in ("session", "message id"):
        table.add_column(name, overflow="fold", max_width=_NAME_WIDTH_MAX)
    table.add_column("enqueued", no_wrap=True)
    table.add_column("reason", overflow="fold")
    for one in letters:
        reason = ": ".join(text for text in (one.reason, one.description) if text)
        again = f" (resubmitted: {one.resubmitted})" if one.resubmitted else ""
        table.add_row(*map(Text, (*_names(one), (one.enqueued_at or "")[:19], f"{reason}{again}")))
    return table


def _cells(one: Named) -> Sequence[Text]:
    return tuple(map(Text, _names(one)))


def _names(one: Named | LetterShown) -> tuple[str, str, str]:
    return str(one.sequence_number), one.session_id or "", one.message_id or ""


def body_text(letter: Letter) -> str:
    """The body for a person: text as it is, cut where it is long; else its size."""
    if letter.body is None:
        return "The body is not binary."
    try:
        text = letter.body.decode()
    except UnicodeDecodeError:
        return f"The body is {len(letter.body):,} bytes that are no text; --json has all of them."
    return text if len(text) <= _BODY_SHOWN_MAX else f"{text[:_BODY_SHOWN_MAX]}… (--json has all of it)"

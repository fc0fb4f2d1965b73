"""`brook-worker inspect`: how a brook stands, and what recovery would do about it and why. Changes nothing."""

from collections.abc import Sequence
from typing import Final, assert_never

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from schemas.keys import BrookKey
from schemas.types import CommandId, Position
from worker.commands.console import print_json
from worker.commands.read import brook_store
from worker.handlers.recovery import label
from worker.protocol.pending import Pending, StoredBrook
from worker.protocol.recovery import (
    Commit,
    Contradiction,
    DropStale,
    InspectLegacy,
    NothingPending,
    Recovery,
    Resume,
    RollBack,
    decide_recovery,
)
from worker.settings import Settings
from worker.storage.base import BrookStore, ContradictionError

_POSITIONS_SHOWN_MAX: Final = 20
_STRAY: Final = Contradiction(
    "events stand past the head, and no head-pending tells of them",
    "find out which writer made them; delete the events past the head if none of them is wanted",
)


class PendingShown(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The head-pending as stored, under the names of the document."""

    original_position: Position
    position: Position
    written_position: Position | None
    command_id: CommandId | None
    payload_digest: str | None


class Inspection(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How a brook stands. `head` is -1 for an empty or unknown brook.

    `decision` is what recovery would do, under the name that it has in logs and counts, and `why` the reason;
    `remedy` is for an operator, where recovery would do nothing because the documents contradict each other.
    """

    brook: str
    head: Position
    head_exists: bool
    pending: CommandId | None
    recent_commands: int
    head_pending: PendingShown | None
    events_past_head: int
    positions_past_head: tuple[Position, ...]
    decision: str
    why: str
    remedy: str | None = None

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left to do."""
        return self.decision == label(NothingPending())


async def inspect_and_tell(settings: Settings, key: BrookKey, *, as_json: bool, console: Console) -> None:
    """Print how the brook stands. Raises ContradictionError, after that, where an operator has to look."""
    async with brook_store(settings) as store:
        found = await inspected(store, key)
    tell(found, as_json=as_json, console=console)
    if found.remedy is not None:
        raise ContradictionError(key, found.why, found.remedy)


async def inspected(store: BrookStore, key: BrookKey) -> Inspection:
    """Look at head, head-pending and the events past the head. Raises what the store raises."""
    brook = (await store.load(key)).brook
    past_head = await store.positions_past(key, brook.head.head.position)
    decision = decide_recovery(brook)
    if isinstance(decision, NothingPending) and past_head:
        decision = _STRAY
    why, remedy = _explained(decision, brook, past_head)
    head = brook.head.head
    return Inspection(
        brook=str(key),
        head=head.position,
        head_exists=brook.head.etag is not None,
        pending=head.pending,
        recent_commands=len(head.recent),
        head_pending=_shown(brook.pending.pending) if brook.pending is not None else None,
        events_past_head=len(past_head),
        positions_past_head=tuple(past_head[:_POSITIONS_SHOWN_MAX]),
        decision=label(decision),
        why=why,
        remedy=remedy,
    )


def tell(found: Inspection, *, as_json: bool, console: Console) -> None:
    """Print an inspection as one JSON object or as a table."""
    if as_json:
        print_json(console, found)
        return
    table = Table(title=Text(found.brook), title_justify="left", show_header=False)
    table.add_column(justify="right", style="bold")
    table.add_column()
    for name, value in _rows(found):
        table.add_row(name, Text(value))
    console.print(table)


def _explained(decision: Recovery, brook: StoredBrook, past_head: Sequence[Position]) -> tuple[str, str | None]:
    """Why recovery decides so, and what an operator has to do if it does not decide."""
    if isinstance(decision, Contradiction):
        return decision.reason, decision.remedy
    if brook.pending is None:
        return "no large append is under way", None
    return _why(decision, brook.pending.pending, past_head), None


def _why(decision: Recovery, pending: Pending, past_head: Sequence[Position]) -> str:
    """The reason of a decision about a head-pending."""
    events = pending.target - pending.original
    match decision:
        case Commit():
            return f"all events up to {pending.target} are written, only the head has not moved"
        case InspectLegacy() if len(past_head) >= events:
            return "an older writer's append of which all events exist: it is committed"
        case InspectLegacy():
            return f"an older writer's append of which {events - len(past_head)} events are missing: it is deleted"
        case DropStale():
            return "an older writer's marker that the head has passed: it and what stands past the head are deleted"
        case RollBack() | Resume() | NothingPending() | Contradiction():
            written = pending.original if pending.written is None else pending.written
            told = f"{written - pending.original} of {events} events are written: they are deleted,"
            return f"{told} unless the command is delivered again before and completes them"
        case _:
            assert_never(decision)


def _shown(pending: Pending) -> PendingShown:
    return PendingShown(
        original_position=pending.original,
        position=pending.target,
        written_position=pending.written,
        command_id=pending.command_id,
        payload_digest=pending.digest,
    )


def _rows(found: Inspection) -> list[tuple[str, str]]:
    rows = [("head", f"{found.head:,}" if found.head_exists else "none: the brook is empty or unknown")]
    if found.pending is not None:
        rows.append(("large append under way", found.pending))
    rows.append(("recent commands", f"{found.recent_commands:,}"))
    if (pending := found.head_pending) is not None:
        written = "not recorded" if pending.written_position is None else f"{pending.written_position:,}"
        rows += [
            ("head-pending", f"from {pending.original_position:,} to {pending.position:,}, written up to {written}"),
            ("its command", pending.command_id or "not recorded"),
        ]
    if found.events_past_head:
        shown = ", ".join(f"{position:,}" for position in found.positions_past_head)
        more = found.events_past_head - len(found.positions_past_head)
        rows.append(
            (f"{found.events_past_head:,} events past the head", f"{shown} and {more:,} more" if more else shown)
        )
    rows += [("recovery", found.decision), ("why", found.why)]
    if found.remedy is not None:
        rows.append(("what to do", found.remedy))
    return rows

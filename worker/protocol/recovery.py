"""What to do about a pending head that somebody left: a decision on what was loaded, without a scan."""

from collections.abc import Sequence

import msgspec

from schemas.types import Position
from worker.protocol.documents import PENDING_ID
from worker.protocol.model import Head, Limits
from worker.protocol.pending import StoredBrook, pending_document
from worker.protocol.prepare import PreparedCommand
from worker.protocol.writes import Delete, Operation, Replace, write_head


class NothingPending(msgspec.Struct, frozen=True):
    """No large append is under way."""


class Resume(msgspec.Struct, frozen=True):
    """The command whose append it is has been delivered again: write what is missing, then commit."""

    command: PreparedCommand


class Commit(msgspec.Struct, frozen=True):
    """Everything is written: commit."""


class RollBack(msgspec.Struct, frozen=True):
    """Nobody at hand can complete it: delete what was written, then the marker."""


class InspectLegacy(msgspec.Struct, frozen=True):
    """An older writer left it, and the head is where it began: commit if all its events exist, else roll back."""


class DropStale(msgspec.Struct, frozen=True):
    """An older writer left it, and the head is past it: delete the marker and events past the head."""


class Contradiction(msgspec.Struct, frozen=True):
    """Head and head-pending cannot both be right: an operator has to look. Nothing is deleted."""

    reason: str
    remedy: str


Recovery = NothingPending | Resume | Commit | RollBack | InspectLegacy | DropStale | Contradiction


def decide_recovery(brook: StoredBrook, commands: Sequence[PreparedCommand] = ()) -> Recovery:
    """Decide on a brook as it was loaded. `commands` are those at hand, in whose name it may be resumed.

    A marker that the head does not name, or that does not tell what was written, was left by an older writer.
    """
    head = brook.head.head
    if brook.pending is None:
        if head.pending is None:
            return NothingPending()
        return Contradiction(
            f"the head at {head.position} names the large append {head.pending!r}, but there is no head-pending",
            "see which events stand past the head, delete them, then remove `pending` from the head",
        )
    pending = brook.pending.pending
    if pending.original > head.position:
        return Contradiction(
            f"head-pending began at {pending.original}, but the head is at {head.position}",
            f"if events up to {pending.original} exist, set the head there; else delete head-pending",
        )
    if head.pending is None or pending.written is None:
        return InspectLegacy() if pending.original == head.position else DropStale()
    if head.pending != pending.command_id or pending.original < head.position:
        return Contradiction(
            f"the head at {head.position} names {head.pending!r}, but head-pending is of {pending.command_id!r}"
            f" and began at {pending.original}",
            "find out which writer changed only one of them, and restore the other",
        )
    for command in commands:
        if command.withheld is not None:  # nothing to write of it: its append is committed or rolled back as anybody's
            continue
        same_id = command.command_id == pending.command_id
        if same_id and command.digest == pending.digest and len(command) == pending.target - pending.original:
            return Resume(command)
    return Commit() if pending.written == pending.target else RollBack()


def commit_legacy(brook: StoredBrook) -> tuple[Head, tuple[Operation, ...]]:
    """Make an older writer's append visible, all events of which exist."""
    assert brook.pending is not None
    pending, head = brook.pending.pending, brook.head.head
    assert pending.original == head.position, "the head is where the append began"
    after = msgspec.structs.replace(head, position=pending.target, pending=None)
    return after, (write_head(brook.head, after), Delete(PENDING_ID, brook.pending.etag))


def drop_legacy(brook: StoredBrook, past_head: Sequence[Position], limits: Limits) -> tuple[Operation, ...]:
    """Delete the events `past_head` and the marker, or as many of the last events as fit one batch.

    Conditional on head and marker both. While events are left, both are rewritten as they are, so that the next
    batch has to build on the states that this one leaves: load again after each.
    """
    assert brook.pending is not None
    after = msgspec.structs.replace(brook.head.head, pending=None)
    head = write_head(brook.head, after)
    room = max(1, limits.batch_operations_max - 2)  # head, marker and one event: with less nothing would get on
    doomed = (Delete(str(position)) for position in sorted(past_head, reverse=True)[:room])
    if len(past_head) <= room:
        return (head, Delete(PENDING_ID, brook.pending.etag), *doomed)
    return (head, Replace(pending_document(brook.key, brook.pending.pending), brook.pending.etag), *doomed)

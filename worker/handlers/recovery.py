"""Completes or rolls back what somebody left pending. Each decision is one line and one count."""

from collections.abc import Sequence
from typing import assert_never

from worker.handlers.brook import BrookWriter
from worker.handlers.large import commit_pending, complete
from worker.protocol import pending as rules
from worker.protocol.pending import StoredBrook, StoredPending
from worker.protocol.prepare import PreparedCommand
from worker.protocol.recovery import (
    Commit,
    Contradiction,
    DropStale,
    InspectLegacy,
    NothingPending,
    Recovery,
    Resume,
    RollBack,
    commit_legacy,
    decide_recovery,
    drop_legacy,
)
from worker.storage.base import BrookStore, ContradictionError
from worker.telemetry import log
from worker.telemetry.instruments import RECOVERY_DECISIONS

_LABELS = {
    NothingPending: "nothing-pending",
    Resume: "resume",
    Commit: "commit",
    RollBack: "roll-back",
    InspectLegacy: "inspect-legacy",
    DropStale: "drop-stale",
    Contradiction: "contradiction",
}


async def recover(store: BrookStore, writer: BrookWriter, commands: Sequence[PreparedCommand] = ()) -> bool:
    """Go on from what is pending in the brook, as far as writes are not refused.

    Guarantee: True when nothing is pending any more; False when a write was refused, and the brook has to be loaded
    and decided on anew. Nothing is deleted that a head covers.

    Raises ContradictionError, on the second look, and what the store raises.
    """
    brook = writer.stored or await writer.load()
    decision = decide_recovery(brook, commands)
    if isinstance(decision, Contradiction):
        # A read may be older than another writer's last change: look again before anybody is told.
        brook = await writer.load()
        decision = decide_recovery(brook, commands)
    _tell(brook, decision)
    match decision:
        case NothingPending():
            return True
        case Resume(command):
            return await complete(writer, command) is not None
        case Commit():
            return await commit_pending(writer)
        case RollBack():
            return await _roll_back(writer)
        case InspectLegacy() | DropStale():
            return await _settle_legacy(store, writer)
        case Contradiction(reason, remedy):
            raise ContradictionError(brook.key, reason, remedy)
        case _:
            assert_never(decision)


def label(decision: Recovery) -> str:
    """The decision's name in logs, counts and the command line."""
    return _LABELS[type(decision)]


async def _roll_back(writer: BrookWriter) -> bool:
    """Delete what was written, last first, then the marker."""
    while (brook := writer.stored) is not None:
        assert brook.pending is not None, "a roll back ends with the marker"
        pending = brook.pending.pending
        if pending.written == pending.original:
            _, operations = rules.drop(brook)
            done = await writer.write(operations, request_bytes=0) is not None
            if done:
                await writer.load()
            return done
        after, operations = rules.undo_chunk(brook, writer.limits)
        result = await writer.write(operations, request_bytes=0)
        if result is None:
            return False
        if (etag := result.etags[0]) is not None:
            writer.took_effect(StoredBrook(head=brook.head, pending=StoredPending(pending=after, etag=etag)))
    return False


async def _settle_legacy(store: BrookStore, writer: BrookWriter) -> bool:
    """Commit an older writer's append if all of its events exist, else delete those past the head and the marker."""
    while (brook := writer.stored) is not None and brook.pending is not None:
        decision = decide_recovery(brook)
        if not isinstance(decision, InspectLegacy | DropStale):  # somebody settled it, and began a large append
            return False
        may_commit = isinstance(decision, InspectLegacy)
        head, pending = brook.head.head, brook.pending.pending
        past_head = await store.positions_past(brook.key, head.position)
        if past_head and past_head[-1] > pending.target:
            if await writer.load() != brook:  # somebody settled it, and appended more, between the two reads
                return False
            raise ContradictionError(
                brook.key,
                f"an event stands at {past_head[-1]}, past the {pending.target} that head-pending names as its target",
                "find out which writer made it; delete the events past the target if none of them is wanted",
            )
        if may_commit and list(past_head) == list(range(head.position + 1, pending.target + 1)):
            return await _settle_committed(writer, brook)
        result = await writer.write(drop_legacy(brook, past_head, writer.limits), request_bytes=0)
        if result is None:
            return False
        await writer.load()
    return writer.stored is not None


async def _settle_committed(writer: BrookWriter, brook: StoredBrook) -> bool:
    _, operations = commit_legacy(brook)
    done = await writer.write(operations, request_bytes=0) is not None
    if done:
        await writer.load()
    return done


def _tell(brook: StoredBrook, decision: Recovery) -> None:
    pending = brook.pending.pending if brook.pending is not None else None
    RECOVERY_DECISIONS.add(1, label(decision))
    log.info(
        "recovery.decided",
        decision=label(decision),
        brook=str(brook.key),
        head=brook.head.head.position,
        original=pending.original if pending else None,
        target=pending.target if pending else None,
        written=pending.written if pending else None,
        command=pending.command_id if pending else None,
    )

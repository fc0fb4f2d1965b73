"""The stages of a brook and the writes that lead from one to another: the protocol as one table.

Nothing here decides anything. It says what the decisions may lead to; the exploration of the handler checks every
write against it, and the picture in docs/protocol.md is drawn from it (docsite/states.py).
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Final, NamedTuple

from worker.protocol.documents import HEAD_ID, PENDING_ID
from worker.protocol.pending import StoredBrook
from worker.protocol.recovery import Contradiction, DropStale, InspectLegacy, decide_recovery
from worker.protocol.writes import Create, Delete, Operation, Replace


class Stage(StrEnum):
    """What head and head-pending say together. `original`, `written`, `target` are those of the head-pending."""

    ABSENT = "Absent"
    SETTLED = "Settled"
    BEGUN = "Begun"
    PARTIAL = "Partial"
    COMPLETE = "Complete"
    LEGACY = "Legacy"
    STALE = "Stale"
    CONTRADICTORY = "Contradictory"


class Write(StrEnum):
    """The conditional batches, told apart by the documents that they write."""

    APPEND = "append"
    RECORD = "record conflicts"
    BEGIN = "begin"
    CHUNK = "chunk"
    COMMIT = "commit"
    UNDO = "undo"
    DROP = "drop"
    TIDY = "undo, marker kept"


class Transition(NamedTuple):
    """`write` may take a brook from `before` to `after`."""

    before: Stage
    write: Write
    after: Stage


MEANINGS: Final = {
    Stage.ABSENT: "no document",
    Stage.SETTLED: "a head, nothing pending",
    Stage.BEGUN: "written = original",
    Stage.PARTIAL: "original < written < target",
    Stage.COMPLETE: "written = target",
    Stage.LEGACY: "an older writer's marker, head at its original",
    Stage.STALE: "an older writer's marker, head past its original",
}

TRANSITIONS: Final = frozenset(
    {
        Transition(Stage.ABSENT, Write.APPEND, Stage.SETTLED),
        Transition(Stage.ABSENT, Write.RECORD, Stage.SETTLED),
        Transition(Stage.ABSENT, Write.BEGIN, Stage.BEGUN),
        Transition(Stage.SETTLED, Write.APPEND, Stage.SETTLED),
        Transition(Stage.SETTLED, Write.RECORD, Stage.SETTLED),
        Transition(Stage.SETTLED, Write.BEGIN, Stage.BEGUN),
        Transition(Stage.BEGUN, Write.CHUNK, Stage.PARTIAL),
        Transition(Stage.BEGUN, Write.CHUNK, Stage.COMPLETE),
        Transition(Stage.BEGUN, Write.DROP, Stage.SETTLED),
        Transition(Stage.PARTIAL, Write.CHUNK, Stage.PARTIAL),
        Transition(Stage.PARTIAL, Write.CHUNK, Stage.COMPLETE),
        Transition(Stage.PARTIAL, Write.UNDO, Stage.PARTIAL),
        Transition(Stage.PARTIAL, Write.UNDO, Stage.BEGUN),
        Transition(Stage.COMPLETE, Write.COMMIT, Stage.SETTLED),
        Transition(Stage.LEGACY, Write.COMMIT, Stage.SETTLED),
        Transition(Stage.LEGACY, Write.DROP, Stage.SETTLED),
        Transition(Stage.LEGACY, Write.TIDY, Stage.LEGACY),
        # A brook that is probably new is created unread, and written to beside a marker that nobody has looked for.
        Transition(Stage.LEGACY, Write.RECORD, Stage.LEGACY),
        Transition(Stage.LEGACY, Write.APPEND, Stage.STALE),
        Transition(Stage.STALE, Write.RECORD, Stage.STALE),
        Transition(Stage.STALE, Write.APPEND, Stage.STALE),
        Transition(Stage.STALE, Write.DROP, Stage.SETTLED),
        Transition(Stage.STALE, Write.TIDY, Stage.STALE),
    }
)
"""Every write that may take effect. No write leads from or to a contradiction."""


def stage_of(brook: StoredBrook) -> Stage:
    """The stage of a brook as it was loaded."""
    decision = decide_recovery(brook)
    if isinstance(decision, Contradiction):
        return Stage.CONTRADICTORY
    if isinstance(decision, InspectLegacy | DropStale):
        return Stage.LEGACY if isinstance(decision, InspectLegacy) else Stage.STALE
    if brook.pending is None:
        return Stage.ABSENT if brook.head.etag is None else Stage.SETTLED
    pending = brook.pending.pending
    if pending.written == pending.original:
        return Stage.BEGUN
    return Stage.COMPLETE if pending.written == pending.target else Stage.PARTIAL


def write_of(operations: Sequence[Operation], before: StoredBrook) -> Write | None:
    """Which write a batch is, on a brook that stands as `before`; None where it is none of them."""
    written = {one.document["id"]: one for one in operations if not isinstance(one, Delete)}
    deleted = {one.document_id for one in operations if isinstance(one, Delete)}
    head, marker = written.pop(HEAD_ID, None), written.pop(PENDING_ID, None)
    ends = PENDING_ID in deleted
    if not all(isinstance(one, Create) for one in written.values()):
        return None
    match head is not None, marker, bool(written), bool(deleted):
        case True, None, True, False:
            return Write.APPEND
        case True, None, False, False:
            return Write.RECORD
        case True, Create(), False, False:
            return Write.BEGIN
        case False, Replace(), True, False:
            return Write.CHUNK
        case False, Replace(), False, True if not ends:
            return Write.UNDO
        case True, Replace(), False, True if not ends:
            return Write.TIDY
        case True, None, False, True if ends and head is not None:
            moves = head.document["position"] > before.head.head.position
            return Write.COMMIT if moves else Write.DROP
        case _:
            return None

"""The pending head: the durable intent of an append that does not fit one batch, and its writes.

    begin  [create or replace head, pending set] + create head-pending
    chunk  [replace head-pending, written += n] + create n events
    commit [replace head: position, pending cleared, command recorded] + delete head-pending
    undo   [replace head-pending, written -= n] + delete n events, until none is left; then
    drop   [replace head: pending cleared] + delete head-pending

Each is conditional on the documents that it replaces or deletes. `written` is exact in every state, so that whoever
finds a pending head can go on from it without a scan.
"""

from collections.abc import Iterator

import msgspec

from schemas.keys import BrookKey, partition_key
from schemas.types import CommandId, Position
from worker.protocol.documents import (
    PARTITION_KEY_FIELD,
    PENDING_ID,
    Document,
    DocumentError,
    encoded_bytes,
)
from worker.protocol.model import ETag, Head, Limits, RecentCommand, StoredHead
from worker.protocol.prepare import PreparedCommand
from worker.protocol.writes import (
    CREATE_BYTES,
    REPLACE_PENDING_BYTES,
    REQUEST_BYTES,
    Create,
    Delete,
    Operation,
    Replace,
    write_head,
)


class Pending(msgspec.Struct, frozen=True, kw_only=True):
    """A large append under way, from the event after `original` to `target`.

    `written` is the last event that exists; it and the two last fields are None where an older writer, which does
    not record them, left the marker.
    """

    original: Position
    target: Position
    written: Position | None = None
    command_id: CommandId | None = None
    digest: str | None = None


class StoredPending(msgspec.Struct, frozen=True, kw_only=True):
    """A pending head as it was read or written."""

    pending: Pending
    etag: ETag


class StoredBrook(msgspec.Struct, frozen=True, kw_only=True):
    """What every decision on a brook starts from: head and head-pending, loaded together."""

    head: StoredHead
    pending: StoredPending | None = None

    @property
    def key(self) -> BrookKey:
        """The brook."""
        return self.head.key

    @property
    def is_settled(self) -> bool:
        """Whether no large append is under way, so that the head may be moved."""
        return self.pending is None and self.head.head.pending is None


class _PendingFields(msgspec.Struct, rename="camel"):
    original_position: Position
    position: Position
    written_position: Position | None = None
    command_id: CommandId | None = None
    payload_digest: str | None = None


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """Part of a large append that fits one batch: events `start` to `end` (exclusive) of the command."""

    start: int
    end: int
    request_bytes: int


def pending_document(key: BrookKey, pending: Pending) -> Document:
    """The document that holds `pending`."""
    document: Document = {
        "id": PENDING_ID,
        "type": PENDING_ID,
        PARTITION_KEY_FIELD: partition_key(key),
        "originalPosition": pending.original,
        "position": pending.target,
    }
    optional = {
        "writtenPosition": pending.written,
        "commandId": pending.command_id,
        "payloadDigest": pending.digest,
    }
    document.update((name, value) for name, value in optional.items() if value is not None)
    return document


def read_pending(key: BrookKey, document: Document) -> Pending:
    """Read a head-pending that this or the .NET writer left. Raises DocumentError."""
    try:
        fields = msgspec.convert(document, _PendingFields)
    except msgspec.ValidationError as error:
        raise DocumentError(f"brook {key}: document {PENDING_ID!r} is not readable: {error}") from error
    written = fields.written_position
    if not -1 <= fields.original_position < fields.position or (
        written is not None and not fields.original_position <= written <= fields.position
    ):
        raise DocumentError(
            f"brook {key}: document {PENDING_ID!r} runs from {fields.original_position} over {written} to"
            f" {fields.position}, which is no range"
        )
    return Pending(
        original=fields.original_position,
        target=fields.position,
        written=written,
        command_id=fields.command_id,
        digest=fields.payload_digest,
    )


def begin(stored: StoredHead, before: Head, command: PreparedCommand) -> tuple[Pending, tuple[Operation, ...]]:
    """State the intent to append `command` after the head. `before` is the head with what was decided before it."""
    assert before.position == stored.head.position, "what was accepted before is written before"
    assert stored.head.pending is None, "one large append at a time"
    pending = Pending(
        original=before.position,
        target=Position(before.position + len(command)),
        written=before.position,
        command_id=command.command_id,
        digest=command.digest,
    )
    marked = msgspec.structs.replace(before, pending=command.command_id)
    return pending, (write_head(stored, marked), Create(pending_document(stored.key, pending)))


def chunks(key: BrookKey, command: PreparedCommand, pending: Pending, limits: Limits) -> Iterator[Chunk]:
    """What of `command` is not written yet, in pieces as full as `limits` allow, sized exactly."""
    assert pending.written is not None, "only a writer that records what it wrote goes on from it"
    assert pending.target - pending.original == len(command), "the marker is this command's"
    overhead = REQUEST_BYTES + REPLACE_PENDING_BYTES
    # Sized for the longest `written` that the marker will ever hold.
    overhead += encoded_bytes(pending_document(key, msgspec.structs.replace(pending, written=pending.target)))
    start = index = pending.written - pending.original
    size = overhead
    while index < len(command):
        added = command.event_bytes(index, Position(pending.original + 1 + index)) + CREATE_BYTES
        full = 1 + index - start >= limits.batch_operations_max or size + added > limits.batch_bytes_max
        if full and index > start:
            yield Chunk(start=start, end=index, request_bytes=size)
            start, size = index, overhead
        size += added
        index += 1
    if index > start:
        yield Chunk(start=start, end=index, request_bytes=size)


def write_chunk(
    key: BrookKey, stored: StoredPending, command: PreparedCommand, chunk: Chunk
) -> tuple[Pending, tuple[Operation, ...]]:
    """Create the events of a chunk. A zombie's chunk fails on the marker's ETag."""
    pending = stored.pending
    first = pending.original + 1
    assert pending.written == first + chunk.start - 1, "chunks are written in order"
    after = msgspec.structs.replace(pending, written=Position(first + chunk.end - 1))
    events = (Create(command.event_document(index, Position(first + index))) for index in range(chunk.start, chunk.end))
    return after, (Replace(pending_document(key, after), stored.etag), *events)


def commit(brook: StoredBrook, recent_commands_max: int) -> tuple[Head, tuple[Operation, ...]]:
    """Make a completely written append visible, and put its command on record."""
    stored = _modern(brook)
    pending, head = stored.pending, brook.head.head
    assert pending.written == pending.target, "all events exist"
    assert pending.original == head.position, "the head has not moved since the append began"
    assert pending.command_id is not None, "the head names the command"
    entry = RecentCommand(pending.command_id, Position(pending.original + 1), pending.target, pending.digest or "")
    after = head.with_command(entry, recent_commands_max)
    return after, (write_head(brook.head, after), Delete(PENDING_ID, stored.etag))


def undo_chunk(brook: StoredBrook, limits: Limits) -> tuple[Pending, tuple[Operation, ...]]:
    """Delete the last events written, as many as fit one batch."""
    stored = _modern(brook)
    pending = stored.pending
    assert pending.written is not None
    assert pending.written > pending.original, "there is something to delete"
    count = min(pending.written - pending.original, limits.batch_operations_max - 1)
    after = msgspec.structs.replace(pending, written=Position(pending.written - count))
    doomed = (Delete(str(position)) for position in range(pending.written, pending.written - count, -1))
    return after, (Replace(pending_document(brook.key, after), stored.etag), *doomed)


def drop(brook: StoredBrook) -> tuple[Head, tuple[Operation, ...]]:
    """Give up an append of which nothing is written."""
    stored = _modern(brook)
    assert stored.pending.written == stored.pending.original, "no event past the head is left"
    after = msgspec.structs.replace(brook.head.head, pending=None)
    return after, (write_head(brook.head, after), Delete(PENDING_ID, stored.etag))


def _modern(brook: StoredBrook) -> StoredPending:
    """The pending head, which the head must name."""
    assert brook.pending is not None
    assert brook.head.head.pending is not None, "head and head-pending change in one batch"
    return brook.pending

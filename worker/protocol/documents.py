"""The documents of a logical partition, and their exact size on the wire.

Field names are those of the .NET provider EventSourcing.Cosmos, so that both can read one container. The protocol
owns the documents because its limits are limits on their encoding.
"""

import json
from typing import Any, Final

import msgspec

from schemas.commands import AppendCommand, NewEvent
from schemas.events import RecordedEvent
from schemas.keys import BrookKey, partition_key
from schemas.types import EMPTY, CommandId, Position
from worker.protocol.model import Head, RecentCommand, RecentConflict

Document = dict[str, Any]

HEAD_ID: Final = "head"
PENDING_ID: Final = "head-pending"
PARTITION_KEY_FIELD: Final = "brookPartitionKey"


class DocumentError(ValueError):
    """A stored document is not what any known writer makes of it. Says the brook, the document and the reason."""


class _HeadFields(msgspec.Struct, rename="camel"):
    """What is read of a head; a writer without command ids leaves the windows out."""

    position: Position
    pending: CommandId | None = None
    recent_commands: tuple[RecentCommand, ...] = ()
    recent_conflicts: tuple[RecentConflict, ...] = ()


class _EventFields(msgspec.Struct, rename="camel"):
    """What is read of an event."""

    position: Position
    event_id: str
    event_type: str
    time: str
    data: bytes = b""
    data_content_type: str | None = None
    source: str | None = None
    command_id: CommandId | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    metadata: dict[str, Any] | None = None


def encoded_bytes(document: Any) -> int:
    """The bytes that `document` takes in a request: compact JSON in UTF-8, as the client is set up to send it."""
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False)
    return len(text) if text.isascii() else len(text.encode())


def head_document(key: BrookKey, head: Head) -> Document:
    """The document that holds `head`."""
    document: Document = {
        "id": HEAD_ID,
        "type": HEAD_ID,
        PARTITION_KEY_FIELD: partition_key(key),
        "position": head.position,
        "recentCommands": [[entry.command_id, entry.first, entry.last, entry.digest] for entry in head.recent],
    }
    if head.pending is not None:
        document["pending"] = head.pending
    if head.conflicts:
        document["recentConflicts"] = [[entry.command_id, entry.actual, entry.digest] for entry in head.conflicts]
    return document


def read_head(key: BrookKey, document: Document) -> Head:
    """Read a head that this or the .NET writer left. Raises DocumentError."""
    try:
        fields = msgspec.convert(document, _HeadFields)
    except msgspec.ValidationError as error:
        raise DocumentError(f"brook {key}: document {HEAD_ID!r} is not readable: {error}") from error
    if fields.position < EMPTY:
        raise DocumentError(f"brook {key}: document {HEAD_ID!r} has position {fields.position}, below {EMPTY}")
    return Head(
        position=fields.position,
        pending=fields.pending,
        recent=fields.recent_commands,
        conflicts=fields.recent_conflicts,
    )


def event_document(command: AppendCommand, event: NewEvent, default_time: str) -> Document:
    """The document of `event`, but for its place, which `placed` gives it, and its data, which is left empty."""
    document: Document = {
        "type": "event",
        PARTITION_KEY_FIELD: partition_key(command.brook),
        "eventId": event.event_id,
        "eventType": event.event_type,
        "data": "",
        "dataSizeBytes": len(event.data),
        "time": event.time or default_time,
        "commandId": command.command_id,
    }
    optional = {
        "source": event.source,
        "dataContentType": event.data_content_type,
        "correlationId": command.correlation_id,
        "causationId": command.causation_id,
        "metadata": event.metadata,
    }
    document.update((name, value) for name, value in optional.items() if value is not None)
    return document


def placed(document: Document, position: Position) -> Document:
    """A copy of an event document at its place."""
    return {"id": str(position), "position": position, **document}


def read_event(key: BrookKey, document: Document) -> RecordedEvent:
    """Read an event that this or the .NET writer left. Raises DocumentError."""
    try:
        fields = msgspec.convert(document, _EventFields)
    except msgspec.ValidationError as error:
        raise DocumentError(f"brook {key}: document {document.get('id')!r} is not an event: {error}") from error
    return RecordedEvent(**{name: getattr(fields, name) for name in fields.__struct_fields__})

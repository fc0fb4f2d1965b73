"""The documents of a logical partition, and their exact size on the wire.

Field names are those of the .NET provider EventSourcing.Cosmos, so that both can read one container. The protocol
owns the documents because its limits are limits on their encoding.
"""

import base64
import json
from collections.abc import Callable
from json.encoder import encode_basestring
from typing import Any, Final

import msgspec

from schemas.commands import AppendCommand, Command, NewEvent
from schemas.events import RecordedEvent
from schemas.keys import BrookKey, partition_key
from schemas.types import EMPTY, START, CommandId, Position
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
        document["recentConflicts"] = [entry.row() for entry in head.conflicts]
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


def event_document(command: Command, event: NewEvent, default_time: str, position: Position) -> Document:
    """The document of `event` at its place."""
    document: Document = {
        "id": str(position),
        "position": position,
        "type": "event",
        PARTITION_KEY_FIELD: partition_key(command.brook),
        "eventId": event.event_id,
        "eventType": event.event_type,
        "data": base64.b64encode(event.data).decode("ascii"),
        "dataSizeBytes": len(event.data),
        "time": event.time or default_time,
        "commandId": command.command_id,
    }
    # One after the other, not in a loop: a large append makes a hundred thousand of these.
    if event.source is not None:
        document["source"] = event.source
    if event.data_content_type is not None:
        document["dataContentType"] = event.data_content_type
    if command.correlation_id is not None:
        document["correlationId"] = command.correlation_id
    if command.causation_id is not None:
        document["causationId"] = command.causation_id
    if event.metadata is not None:
        document["metadata"] = event.metadata
    return document


def event_sizes(command: AppendCommand, default_time: str) -> tuple[int, ...]:
    """The encoded size of each event's document at position 0, exactly, without making any of them but one."""
    return tuple(map(event_sizer(command, default_time), command.events))


def event_sizer(command: Command, default_time: str) -> Callable[[NewEvent], int]:
    """What measures an event's document at position 0.

    What all have in common is measured once. Base64 has no characters to escape: its length need not be produced.
    """
    bare = event_document(command, NewEvent(event_id="", event_type="", data=b"", time=default_time), "", START)
    common = encoded_bytes(bare)
    default_time_bytes = _text_bytes(default_time)

    def size_of(event: NewEvent) -> int:
        data_bytes = len(event.data)
        size = common + _text_bytes(event.event_id) + _text_bytes(event.event_type) - 2 * len('""')
        size += 4 * -(-data_bytes // 3) + len(str(data_bytes)) - 1
        if event.time:
            size += _text_bytes(event.time) - default_time_bytes
        if event.source is not None:
            size += len(',"source":') + _text_bytes(event.source)
        if event.data_content_type is not None:
            size += len(',"dataContentType":') + _text_bytes(event.data_content_type)
        if event.metadata is not None:
            size += len(',"metadata":') + encoded_bytes(event.metadata)
        return size

    return size_of


def _text_bytes(text: str) -> int:
    """The bytes that a text takes in JSON, quotes included."""
    quoted = encode_basestring(text)
    return len(quoted) if quoted.isascii() else len(quoted.encode())


def read_event(key: BrookKey, document: Document) -> RecordedEvent:
    """Read an event that this or the .NET writer left. Raises DocumentError."""
    try:
        fields = msgspec.convert(document, _EventFields)
    except msgspec.ValidationError as error:
        raise DocumentError(f"brook {key}: document {document.get('id')!r} is not an event: {error}") from error
    return RecordedEvent(**{name: getattr(fields, name) for name in fields.__struct_fields__})

"""Commands for tests: short to write, valid unless a test makes them otherwise."""

import itertools
from typing import Any

from schemas.commands import AppendCommand, Expected, NewEvent
from schemas.keys import BrookKey
from schemas.types import CommandId, Position
from worker.protocol.documents import Document
from worker.protocol.prepare import PreparedCommand, prepare

KEY = BrookKey("orders", "1")
TIME = "2026-01-31T12:00:00.000Z"

FULL_EVENT = NewEvent(
    event_id="größe 🌊",
    event_type='quote " type',
    data=bytes(range(256)),
    data_content_type="application/x-bytes",
    source="urn:source",
    time="2026-01-31T12:00:00.1234567+02:00",
    metadata={"a": [1, 2.5, None, {"b": "ü"}], "c": True},
)
"""Has every field, and in them what an encoding may get wrong."""

_ids = itertools.count(1)


def event(event_id: str | None = None, *, data: bytes = b"data", event_type: str = "happened") -> NewEvent:
    return NewEvent(event_id=event_id or f"e{next(_ids)}", event_type=event_type, data=data)


def command(
    *,
    command_id: str | None = None,
    events: int | tuple[NewEvent, ...] = 1,
    expected: Expected = "any",
    key: BrookKey = KEY,
) -> AppendCommand:
    made = tuple(event() for _ in range(events)) if isinstance(events, int) else events
    return AppendCommand(
        command_id=CommandId(command_id or f"c{next(_ids)}"), brook=key, expected=expected, events=made
    )


def prepared(
    *,
    command_id: str | None = None,
    events: int | tuple[NewEvent, ...] = 1,
    expected: Expected = "any",
    key: BrookKey = KEY,
) -> PreparedCommand:
    return prepare(command(command_id=command_id, events=events, expected=expected, key=key), TIME)


def head(position: int, **fields: Any) -> Document:
    """The head of the brook `KEY`, as it stands in the store."""
    return {"id": "head", "type": "head", "brookPartitionKey": str(KEY), "position": position, **fields}


def marker(original: int, target: int, **fields: Any) -> Document:
    """Its head-pending as the .NET provider writes it, but for `fields`."""
    positions = {"originalPosition": original, "position": target}
    return {"id": "head-pending", "type": "head-pending", "brookPartitionKey": str(KEY), **positions, **fields}


def left_events(*positions: int) -> list[Document]:
    """Events of a command `left`, each at one of these positions."""
    return [prepared(command_id="left").event_document(0, Position(position)) for position in positions]

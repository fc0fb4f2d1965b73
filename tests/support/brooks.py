"""Commands for tests: short to write, valid unless a test makes them otherwise."""

import itertools

from schemas.commands import AppendCommand, Expected, NewEvent
from schemas.keys import BrookKey
from schemas.types import CommandId
from worker.protocol.prepare import PreparedCommand, prepare

KEY = BrookKey("orders", "1")
TIME = "2026-01-31T12:00:00.000Z"

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

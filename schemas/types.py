"""The quantities that travel in commands, replies and documents."""

from typing import Final, NewType

Position = NewType("Position", int)
"""0-based place of an event in its brook."""

CommandId = NewType("CommandId", str)
"""Identifies one append command for ever; equals the message id. Must be unique across all brooks."""

START: Final = Position(0)
"""The position of the first event."""

EMPTY: Final = Position(-1)
"""The head position of a brook without events."""

POSITION_MAX: Final = Position(2**53 - 2)
"""Cosmos DB stores numbers as IEEE-754 doubles: integers are exact up to 2**53 - 1."""

MESSAGE_ID_LENGTH_MAX: Final = 128
"""Service Bus: message ids and session ids hold at most 128 characters."""

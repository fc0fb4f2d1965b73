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

NUMBER_MAX: Final = 2**53 - 1
"""What every language, and Cosmos DB, can hold exactly: JSON's numbers are IEEE-754 doubles to most of them."""

POSITION_MAX: Final = Position(NUMBER_MAX - 1)
"""So that the number of events, which is one more, is exact too."""

MESSAGE_ID_LENGTH_MAX: Final = 128
"""Service Bus: message ids and session ids hold at most 128 characters."""

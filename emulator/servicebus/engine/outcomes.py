"""What a receiver can say about a message it holds."""

from typing import Any

import msgspec


class Complete(msgspec.Struct, frozen=True):
    """Done: the message is deleted."""


class Release(msgspec.Struct, frozen=True):
    """Not looked at: the message is available again and its delivery count stays."""


class Abandon(msgspec.Struct, frozen=True):
    """Failed: available again, one delivery more. `properties` are added to the application properties."""

    properties: dict[str, Any] = {}


class Defer(msgspec.Struct, frozen=True):
    """Set aside: from now on the message is received by its sequence number only."""

    properties: dict[str, Any] = {}


class DeadLetter(msgspec.Struct, frozen=True):
    """Given up: the message moves to the dead-letter queue."""

    reason: str | None = None
    description: str | None = None
    properties: dict[str, Any] = {}


Outcome = Complete | Release | Abandon | Defer | DeadLetter

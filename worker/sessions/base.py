"""What the worker asks of a message broker, whichever it is."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, Literal, Protocol

import msgspec

RESUBMITTED: Final = "brook-resubmitted"
"""The application property of a command that an operator took out of the dead letters: how often, so far."""


class BrokerError(Exception):
    """Base of what broker adapters raise. No library error leaves an adapter."""


class BrokerUnavailableError(BrokerError):
    """The broker did not do what it was asked within the time allowed. Of a send it is unknown whether it was."""


class BrokerRefusedError(BrokerError):
    """The broker refuses for good: wrong credentials, missing entity, no sessions on the queue."""


class SessionLostError(BrokerError):
    """The session is not ours any more: its lock or its connection is gone. What is unsettled comes again."""

    def __init__(self, message: str, what: Literal["lock", "connection"] = "lock") -> None:
        super().__init__(message)
        self.what = what


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """One message as it was delivered this time.

    `body` is None where it is no binary body. `delivery_count` is 0 at the first delivery. `is_resubmitted` is the word
    of whoever sent it, and is taken only for what makes us more careful. `received_at_s` is on the event loop's clock.
    `trace_parent` and `trace_state` are as they came, by whomever. `raw` is the adapter's.
    """

    body: bytes | None
    content_type: str | None
    message_id: str | None
    session_id: str | None
    reply_to: str | None
    reply_to_session_id: str | None
    enqueued_at: datetime | None
    delivery_count: int
    is_resubmitted: bool = False
    received_at_s: float | None = None
    trace_parent: str | None = None
    trace_state: str | None = None
    raw: object = None

    @property
    def may_be_decided(self) -> bool:
        """Whether a worker may have decided on it before, by all that the message tells."""
        return self.delivery_count > 0 or self.is_resubmitted


class Complete(msgspec.Struct, frozen=True):
    """It is done with: remove it."""


class Abandon(msgspec.Struct, frozen=True):
    """Deliver it again, and count that: the broker ends it after its maximum of deliveries."""


class DeadLetter(msgspec.Struct, frozen=True):
    """Put it aside for an operator."""

    reason: str
    description: str


Settlement = Complete | Abandon | DeadLetter


class OutgoingReply(msgspec.Struct, frozen=True, kw_only=True):
    """One reply on its way. `address` None means the worker's own reply entity.

    The body is the same on each delivery of the command; `properties` (facts of this attempt) may differ.
    """

    address: str | None
    body: bytes
    content_type: str
    message_id: str
    correlation_id: str
    session_id: str
    properties: dict[str, str | int | float]


class CommandSession(Protocol):
    """One accepted session: until it is lost or closed, nobody else receives its messages."""

    @property
    def session_id(self) -> str:
        """Which session it is."""
        ...

    async def receive(self, count_max: int, wait_s: float) -> Sequence[Delivery]:
        """At most `count_max` deliveries, in order; none when none came within `wait_s`.

        What has queued up comes together; a message that comes while nothing else does, comes at once. Raises
        SessionLostError.
        """
        ...

    async def settle(self, settlements: Sequence[tuple[Delivery, Settlement]]) -> None:
        """Settle deliveries. Raises SessionLostError; then some may be settled and the others come again."""
        ...

    async def keep_locked(self) -> None:
        """Renew the lock until cancelled. Raises SessionLostError once it is lost or about to lapse."""
        ...

    async def close(self) -> None:
        """Give the session back; what is unsettled comes again without having been counted. Never raises."""
        ...


class SessionSource(Protocol):
    """Where sessions come from."""

    async def accept(self) -> CommandSession | None:
        """Accept the next session that has messages; None when there was none for a while.

        Safe to cancel. Raises BrokerUnavailableError or BrokerRefusedError.
        """
        ...


class Replies(Protocol):
    """Where replies go."""

    async def send(self, replies: Sequence[OutgoingReply]) -> None:
        """Send replies in order. When it returns, the broker holds all of them.

        Raises BrokerUnavailableError; then any of them may have been sent, and sending all again is safe.
        """
        ...

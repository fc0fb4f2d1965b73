"""What dead letters are, which of them an operator means, and what is asked of the queue that holds them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

import msgspec

from schemas.codec import CommandDecodeError, decode_message
from schemas.commands import Command
from schemas.keys import BrookKey
from worker.sessions.base import BrokerError


class LockLostError(BrokerError):
    """The lock on one dead letter is gone: it is in the queue still, and somebody else may have it."""


class Acted(msgspec.Struct, frozen=True):
    """So many letters, from the first on, were acted on; fewer than all where the next one has a `problem`."""

    count: int
    problem: str | None = None


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """One dead letter. `body` is None where it is no binary body; `raw` is the adapter's.

    `reason` and `description` are whose dead-lettered it: the worker, or the broker (`MaxDeliveryCountExceeded`,
    `TTLExpiredException`). `resubmitted` counts how often an operator has sent it again already.
    """

    sequence_number: int
    message_id: str | None
    session_id: str | None
    reason: str | None
    description: str | None
    enqueued_at: datetime | None
    delivery_count: int
    content_type: str | None
    correlation_id: str | None
    reply_to: str | None
    reply_to_session_id: str | None
    properties: dict[str, str | int | float | bool]
    resubmitted: int
    body: bytes | None
    raw: object = None

    def command(self) -> Command | str:
        """The command that it is, or why it is none that can be read."""
        if self.body is None:
            return "its body is not binary"
        try:
            return decode_message(self.body, self.content_type)
        except CommandDecodeError as error:
            return str(error)


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Which dead letters are meant: those that fit all that is given. Nothing given means all.

    `brook_sessions` are the sessions in which commands for `brook` travel: one whose body cannot be read is taken
    for the brook's if it is in one of its own.
    """

    session_id: str | None = None
    brook: BrookKey | None = None
    brook_sessions: frozenset[str] = frozenset()
    reason: str | None = None
    sequence_numbers: frozenset[int] = frozenset()

    @property
    def is_all(self) -> bool:
        """Whether it leaves nothing out."""
        return self == Selection()

    def takes(self, letter: Letter) -> bool:
        """Whether the letter is meant. Reasons are compared without regard to upper and lower case."""
        return (
            self.session_id in (None, letter.session_id)
            and (not self.sequence_numbers or letter.sequence_number in self.sequence_numbers)
            and (self.reason is None or self.reason.casefold() == (letter.reason or "").casefold())
            and self._is_of_brook(letter)
        )

    def _is_of_brook(self, letter: Letter) -> bool:
        if self.brook is None:
            return True
        command = letter.command()
        if isinstance(command, str):
            return letter.session_id in self.brook_sessions
        return command.brook == self.brook


class DeadLetterQueue(Protocol):
    """The dead letters of one queue, and the way back into it.

    Any call may raise BrokerUnavailableError or BrokerRefusedError.
    """

    @property
    def name(self) -> str:
        """The queue's name."""
        ...

    async def peek(self, from_number: int, count_max: int) -> Sequence[Letter]:
        """Look at letters from a sequence number on, ascending, locked or not. None means that there are no more."""
        ...

    async def lock(self, count_max: int, wait_s: float) -> Sequence[Letter]:
        """Take up to `count_max` letters under lock, in no order that may be relied on; none when none came.

        A letter whose lock lapses comes again.
        """
        ...

    def lock_left_s(self, letter: Letter) -> float:
        """How long the lock lasts, by our clock."""
        ...

    async def renew(self, letter: Letter) -> None:
        """Have the lock last for a full duration from now. Raises LockLostError."""
        ...

    async def release(self, letter: Letter) -> None:
        """Give a locked letter back. Raises LockLostError."""
        ...

    async def remove(self, letter: Letter) -> None:
        """Take a locked letter out for good. Raises LockLostError; then it is there still."""
        ...

    async def send(self, letters: Sequence[Letter]) -> Acted:
        """Send letters of one session into the queue again, in order, last in their session.

        They keep body and properties but for why they were dead, and are marked as resubmitted. The problem is what
        keeps the queue from ever taking the next one. After BrokerUnavailableError any of them may have been sent.
        """
        ...

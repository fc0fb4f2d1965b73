"""A command made ready for planning: measured once, however often it is planned; encoded only when it is written."""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from schemas.commands import AppendCommand, ClaimedCommand, Command, Expected, NewEvent
from schemas.digests import payload_digest
from schemas.replies import RejectionCode
from schemas.types import POSITION_MAX, CommandId, Position
from worker.protocol.documents import Document, event_document, event_sizes

Identity = tuple[CommandId, str]
"""A command's id and the digest of what it asks for. Of several commands under one id, one may have been the first."""


class Events(Protocol):
    """The events of a command, in memory or not."""

    def __len__(self) -> int:
        """Count them."""
        ...

    def __getitem__(self, index: int, /) -> NewEvent:
        """Event `index`."""
        ...


class PreparedCommand(msgspec.Struct, frozen=True):
    """What the protocol needs of a command: `count` events, at least one, and the size of each at position 0.

    Documents are made one at a time when they are written, so that a command of any size is held once.

    With `withheld` there are no events to be had, for the reason that it tells: unless the command took effect before,
    it is refused for that, and stays so. Then `digest` may be empty: not known.
    """

    command: Command
    digest: str
    default_time: str
    count: int
    bytes_at_start: Sequence[int]
    events: Events
    withheld: RejectionCode | None = None

    @property
    def command_id(self) -> CommandId:
        """The command's id."""
        return self.command.command_id

    @property
    def identity(self) -> Identity:
        """What tells it from every other command."""
        return self.command_id, self.digest

    @property
    def expected(self) -> Expected:
        """The head that the producer believes in."""
        return self.command.expected

    def __len__(self) -> int:
        """Count the events, also those that are not to be had."""
        return self.count

    def is_same_as(self, digest: str) -> bool:
        """Whether what was recorded with this digest under the command's id is this command, as far as can be told."""
        return "" in (digest, self.digest) or digest == self.digest

    def event_bytes(self, index: int, position: Position) -> int:
        """The exact encoded size of event `index` at `position`: the digits stand in `id` and in `position`."""
        return self.bytes_at_start[index] + 2 * (len(str(position)) - 1)

    def largest_event(self) -> tuple[int, int]:
        """Index and encoded size of the largest event, at a position of the most digits: the same in every brook."""
        at_start = max(self.bytes_at_start)
        index = self.bytes_at_start.index(at_start)
        return index, self.event_bytes(index, POSITION_MAX)

    def event_document(self, index: int, position: Position) -> Document:
        """The document of event `index` at `position`."""
        return event_document(self.command, self.events[index], self.default_time, position)


def prepare(command: AppendCommand, default_time: str) -> PreparedCommand:
    """Measure a command that `check_command` found nothing against.

    `default_time` (RFC 3339) is for events without a time; take the time at which the broker enqueued the message,
    which every delivery of it repeats.
    """
    assert command.events, "check_command rejects commands without events"
    return PreparedCommand(
        command=command,
        digest=payload_digest(command),
        default_time=default_time,
        count=len(command.events),
        bytes_at_start=event_sizes(command, default_time),
        events=command.events,
    )


def prepare_withheld(command: ClaimedCommand, reason: RejectionCode, default_time: str) -> PreparedCommand:
    """A claimed command whose events are not to be had: the planner tells whether it took effect before."""
    return PreparedCommand(
        command=command,
        digest=command.claim.payload_digest or "",
        default_time=default_time,
        count=command.claim.event_count,
        bytes_at_start=(),
        events=(),
        withheld=reason,
    )

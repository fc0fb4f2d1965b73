"""What the protocol decides on: the head of a brook and the limits of a write."""

from typing import Final, NewType

import msgspec

from schemas.keys import BrookKey
from schemas.types import EMPTY, CommandId, Position

ETag = NewType("ETag", str)
"""Names one state of one document. A conditional write with it is the fence."""

RECENT_COMMANDS_MAX_DEFAULT: Final = 200
"""A group of two full batches, and a little more: what a session may decide before its first reply is out."""


class RecentCommand(msgspec.Struct, frozen=True, array_like=True):
    """A command that took effect, and where. `digest` is empty where the writer recorded none."""

    command_id: CommandId
    first: Position
    last: Position
    digest: str = ""


class RecentConflict(msgspec.Struct, frozen=True, array_like=True):
    """A command that was refused because the head was `actual`; or, with a `refusal`, for that reason."""

    command_id: CommandId
    actual: Position
    digest: str = ""
    refusal: str = ""

    def row(self) -> list[str | Position]:
        """As it stands in the document."""
        row: list[str | Position] = [self.command_id, self.actual, self.digest]
        return [*row, self.refusal] if self.refusal else row


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a brook that every decision starts from.

    `recent` and `conflicts` hold what was decided last, oldest first, so that a command delivered again gets the
    same reply. `pending` names the large append under way.
    """

    position: Position = EMPTY
    pending: CommandId | None = None
    recent: tuple[RecentCommand, ...] = ()
    conflicts: tuple[RecentConflict, ...] = ()

    def with_command(self, entry: RecentCommand, recent_commands_max: int) -> "Head":
        """The head after a command took effect, with the windows as the planner keeps them."""
        recent = (*self.recent, entry)[-recent_commands_max:]
        conflicts = self.conflicts
        if len(self.recent) >= recent_commands_max:
            conflicts = tuple(conflict for conflict in conflicts if conflict.actual >= recent[0].first - 1)
        return Head(position=entry.last, recent=recent, conflicts=conflicts)


class StoredHead(msgspec.Struct, frozen=True, kw_only=True):
    """A head as it was read or written. `etag` is None while the brook has no head document."""

    key: BrookKey
    head: Head = Head()
    etag: ETag | None = None


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one conditional batch may hold.

    `batch_operations_max` (Azure: 100) counts the write of the head. `batch_bytes_max` bounds the encoded request;
    the default leaves room below the 2 MB that Azure takes. `event_bytes_max` bounds one encoded event document.
    Source: https://learn.microsoft.com/azure/cosmos-db/nosql/transactional-batch#limitations.
    """

    batch_operations_max: int = 100
    batch_bytes_max: int = 1_800_000
    event_bytes_max: int = 2_000_000
    recent_commands_max: int = RECENT_COMMANDS_MAX_DEFAULT
    event_alone_bytes_max: int | None = None
    event_refused_bytes: int | None = None
    """The store was found to take no event of this size, measured as by `PreparedCommand.largest_event`."""

    def __post_init__(self) -> None:
        """Refuse limits under which no event could ever be appended."""
        if self.batch_operations_max < 2:  # noqa: PLR2004 - the head and one event
            raise ValueError(f"batch_operations_max must be at least 2, not {self.batch_operations_max}")
        if self.batch_bytes_max < 2 * self.head_bytes_max:
            raise ValueError(f"batch_bytes_max must be at least {2 * self.head_bytes_max:,} for these recent commands")

    @property
    def head_bytes_max(self) -> int:
        """No encoded head, with its share of the request, is larger.

        Key: 1,024 bytes, each of which may be escaped as two. An entry: a command id of 128 UTF-16 units, at
        most three bytes each, two positions of 16 digits, a digest of 12 and punctuation: below 512. Two windows.
        """
        return 4096 + 2 * 512 * self.recent_commands_max

    @property
    def single_event_bytes_max(self) -> int:
        """The largest encoded event that always fits into a batch beside the head.

        Unless `event_alone_bytes_max` says so: where the store took less than was expected, batches are split, but what
        an event may hold does not depend on the company that it came in.
        """
        if self.event_alone_bytes_max is not None:
            return self.event_alone_bytes_max
        return min(self.event_bytes_max, self.batch_bytes_max - self.head_bytes_max)

"""What the worker asks of a store, whichever it is.

The store knows nothing of the protocol: it carries out conditional batches and loads what they are decided on.
"""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Final, Protocol

import msgspec

from schemas.events import RecordedEvent
from schemas.keys import BrookKey
from schemas.types import START, CommandId, Position
from worker.protocol.model import ETag
from worker.protocol.pending import StoredBrook
from worker.protocol.writes import Operation

PAGE_EVENTS_DEFAULT: Final = 1000


class StoreError(Exception):
    """Base of what stores raise. No library error leaves an adapter."""


class StoreUnavailableError(StoreError):
    """The store did not carry out the request within the retries and the time allowed.

    Of a write it is unknown whether it took effect: load the brook and decide anew.
    """


class StoreMisconfiguredError(StoreUnavailableError):
    """The store refuses everything until an operator acts: wrong credentials, missing database or container."""


class StoreRefusedError(StoreError):
    """The store refuses this one request for good: malformed, or the brook is full."""


class ContradictionError(StoreError):
    """The documents of a brook contradict each other or are not readable: an operator has to look.

    Nothing was changed. `remedy` says what to do.
    """

    def __init__(self, key: BrookKey, reason: str, remedy: str) -> None:
        super().__init__(f"brook {key}: {reason}; {remedy}")
        self.key = key
        self.reason = reason
        self.remedy = remedy


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """The batch took effect whole. `etags` has one entry for each operation, None where it deleted."""

    etags: tuple[ETag | None, ...]
    charge_ru: float = 0.0
    attempts: int = 1


class Diverged(msgspec.Struct, frozen=True, kw_only=True):
    """A precondition did not hold, and nothing of this request took effect.

    `operation` is the index of the first one whose precondition failed. Says nothing about who won: an earlier try
    of the same batch may have. Load the brook and decide anew.
    """

    operation: int = 0
    charge_ru: float = 0.0
    attempts: int = 1


class TooLarge(msgspec.Struct, frozen=True, kw_only=True):
    """The store takes no request of this size, and nothing took effect: split it."""

    attempts: int = 1


WriteResult = Written | Diverged | TooLarge


class LoadedBrook(msgspec.Struct, frozen=True, kw_only=True):
    """A brook's head and head-pending as one read found them."""

    brook: StoredBrook
    charge_ru: float = 0.0


class BrookReader(Protocol):
    """The read side. Guarantee: never an event past the head as it was when the reading began."""

    async def head_position(self, key: BrookKey) -> Position:
        """The last committed position; -1 for an empty or unknown brook."""
        ...

    def read_forward(
        self, key: BrookKey, from_position: Position = START, *, page_events: int = PAGE_EVENTS_DEFAULT
    ) -> AsyncIterator[RecordedEvent]:
        """Events from `from_position` up to the head, ascending, without gaps.

        Reads pages of `page_events`. Raises StoreUnavailableError, or ContradictionError where one is missing.
        """
        ...

    def read_backward(
        self, key: BrookKey, from_position: Position | None = None, *, page_events: int = PAGE_EVENTS_DEFAULT
    ) -> AsyncIterator[RecordedEvent]:
        """Events from `from_position` (default: the head) down to 0, descending, without gaps."""
        ...


class BrookStore(BrookReader, Protocol):
    """The write side.

    Guarantee: a batch takes effect whole or not at all, and only if each of its preconditions holds at that moment.
    """

    async def load(self, key: BrookKey) -> LoadedBrook:
        """Head and head-pending, from one read.

        Not guaranteed: that it is the newest state. The ETags make that safe, and after a write of this process
        was refused the state that refused it is seen.
        """
        ...

    async def write(self, key: BrookKey, operations: Sequence[Operation]) -> WriteResult:
        """Carry out one conditional batch.

        Retries what may pass, within bounds. Raises StoreUnavailableError (unknown whether it took effect) or
        StoreRefusedError (it did not).
        """
        ...

    async def find_commands(
        self, key: BrookKey, command_ids: Collection[CommandId], head: Position
    ) -> Mapping[CommandId, tuple[Position, Position]]:
        """First and last position of the events that each command has up to `head`; nothing for one without."""
        ...

    async def positions_past(self, key: BrookKey, head: Position) -> Sequence[Position]:
        """The positions past `head` at which an event stands."""
        ...

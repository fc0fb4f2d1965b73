"""Reading a brook page by page, the same for every store."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator

from schemas.events import RecordedEvent
from schemas.keys import BrookKey
from schemas.types import START, Position
from worker.storage.base import PAGE_EVENTS_DEFAULT, ContradictionError


class PagedReads(ABC):
    """The reads of a `BrookStore`, for a store that can read a range of positions and tell where the head is."""

    @abstractmethod
    async def head_position(self, key: BrookKey) -> Position:
        """The last committed position."""

    @abstractmethod
    async def _read_range(self, key: BrookKey, first: Position, last: Position) -> list[RecordedEvent]:
        """Read the events of a closed range of positions, ascending."""

    async def read_forward(
        self, key: BrookKey, from_position: Position = START, *, page_events: int = PAGE_EVENTS_DEFAULT
    ) -> AsyncIterator[RecordedEvent]:
        """Events from `from_position` up to the head, ascending. Raises ContradictionError where one is missing."""
        head = await self.head_position(key)
        start = max(from_position, 0)
        while start <= head:
            end = Position(min(start + page_events - 1, head))
            for event in await self._page(key, Position(start), end):
                yield event
            start = end + 1

    async def read_backward(
        self, key: BrookKey, from_position: Position | None = None, *, page_events: int = PAGE_EVENTS_DEFAULT
    ) -> AsyncIterator[RecordedEvent]:
        """Events from `from_position` (default: the head) down to 0. Raises ContradictionError where one is missing."""
        head = await self.head_position(key)
        end = head if from_position is None else Position(min(from_position, head))
        while end >= 0:
            start = Position(max(end - page_events + 1, 0))
            for event in reversed(await self._page(key, start, end)):
                yield event
            end = Position(start - 1)

    async def _page(self, key: BrookKey, first: Position, last: Position) -> list[RecordedEvent]:
        """One page, every position of which must be there: up to the head there are no gaps."""
        events = await self._read_range(key, first, last)
        if [event.position for event in events] != list(range(first, last + 1)):
            found = {event.position for event in events}
            missing = next((position for position in range(first, last + 1) if position not in found), first)
            raise ContradictionError(
                key,
                f"no single event stands at position {missing}, though the head is past it",
                "restore the container to a point before the event was lost or doubled",
            )
        return events

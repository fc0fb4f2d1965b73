"""Reading a brook page by page, the same for every store."""

from collections.abc import AsyncIterator, Awaitable, Callable

from schemas.events import RecordedEvent
from schemas.keys import BrookKey
from schemas.types import Position
from worker.storage.base import ContradictionError

ReadRange = Callable[[BrookKey, Position, Position], Awaitable[list[RecordedEvent]]]
"""Reads the events of a closed range of positions, ascending."""


async def forward(
    read_range: ReadRange, key: BrookKey, first: Position, head: Position, page_events: int
) -> AsyncIterator[RecordedEvent]:
    """Yield the events `first` to `head`, ascending. Raises ContradictionError where one is missing."""
    start = max(first, 0)
    while start <= head:
        end = Position(min(start + page_events - 1, head))
        for event in await _complete(read_range, key, Position(start), end):
            yield event
        start = end + 1


async def backward(
    read_range: ReadRange, key: BrookKey, last: Position, page_events: int
) -> AsyncIterator[RecordedEvent]:
    """Yield the events `last` to 0, descending. Raises ContradictionError where one is missing."""
    end = last
    while end >= 0:
        start = Position(max(end - page_events + 1, 0))
        for event in reversed(await _complete(read_range, key, start, end)):
            yield event
        end = Position(start - 1)


async def _complete(read_range: ReadRange, key: BrookKey, first: Position, last: Position) -> list[RecordedEvent]:
    """One page, every position of which must be there: up to the head there are no gaps."""
    events = await read_range(key, first, last)
    if [event.position for event in events] != list(range(first, last + 1)):
        found = {event.position for event in events}
        missing = next((position for position in range(first, last + 1) if position not in found), first)
        raise ContradictionError(
            key,
            f"no single event stands at position {missing}, though the head is past it",
            "restore the container to a point before the event was lost or doubled",
        )
    return events

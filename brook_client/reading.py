"""Reads a brook, whichever way, through a reader."""

from collections.abc import AsyncIterator

from schemas.events import RecordedEvent
from schemas.keys import BrookKey
from schemas.types import Position
from worker.storage.base import BrookReader


def read(
    reader: BrookReader, brook: BrookKey | str, *, from_position: int | None = None, backward: bool = False
) -> AsyncIterator[RecordedEvent]:
    """Read committed events: forward from `from_position` (default 0), or backward from it (default: the head).

    Guarantee: no gaps, and nothing past the head. Raises InvalidBrookKeyError at once for text that is no key.
    """
    key = BrookKey.parse(brook) if isinstance(brook, str) else brook
    if backward:
        return reader.read_backward(key, None if from_position is None else Position(from_position))
    return reader.read_forward(key, Position(from_position or 0))

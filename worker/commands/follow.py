"""`brook-worker read --follow`: a brook's events as they are committed."""

import random
from collections.abc import AsyncIterator, Callable
from typing import Final, Literal

import anyio
import msgspec

from schemas.events import RecordedEvent
from schemas.keys import BrookKey
from schemas.types import Position
from worker.storage.base import BrookReader, StoreMisconfiguredError, StoreUnavailableError

Start = int | Literal["end"]

_BACKOFF_FACTOR: Final = 1.5
_JITTER: Final = 0.2


class Polling(msgspec.Struct, frozen=True, kw_only=True):
    """How long to pause between two looks at the head: `first_s` after events came, then longer, up to `max_s`."""

    first_s: float = 0.2
    max_s: float = 2.0

    def after(self, pause_s: float) -> float:
        """The pause after one in which nothing came."""
        return min(max(pause_s, self.first_s) * _BACKOFF_FACTOR, self.max_s)


async def follow(
    reader: BrookReader,
    key: BrookKey,
    start: Start,
    *,
    polling: Polling,
    on_trouble: Callable[[str], None],
) -> AsyncIterator[RecordedEvent]:
    """Events from a position on, and then for ever those that are committed; from "end": only those.

    Guarantee: each once, ascending, without gaps, and none before its whole command is committed. An outage is told to
    `on_trouble` once and waited out. Raises StoreMisconfiguredError, and ContradictionError where an event is missing.
    """
    waiter = _Waiter(polling)
    following = None if start == "end" else start
    in_trouble = False
    while True:
        try:
            if following is None:
                following = await reader.head_position(key) + 1
            # Looks at the head first, and reads up to that.
            async for event in reader.read_forward(key, Position(following)):
                following = event.position + 1
                waiter.came()
                yield event
            if in_trouble:
                in_trouble = False
                on_trouble("the store answers again")
        except StoreMisconfiguredError:
            raise
        except StoreUnavailableError as error:
            if not in_trouble:
                in_trouble = True
                on_trouble(f"the store does not answer, trying on: {error}")
        await waiter.wait()


class _Waiter:
    """Pauses, longer and longer while nothing comes."""

    def __init__(self, polling: Polling) -> None:
        self._polling = polling
        self._pause_s = polling.first_s

    def came(self) -> None:
        """Something came."""
        self._pause_s = 0.0

    async def wait(self) -> None:
        """Pause."""
        pause_s = self._pause_s or self._polling.first_s
        self._pause_s = self._polling.after(pause_s)
        # Those who started together are not to ask together for ever.
        await anyio.sleep(pause_s * (1 - random.random() * _JITTER))

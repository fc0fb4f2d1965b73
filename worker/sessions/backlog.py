"""A bounded queue between two stages, from which the later one takes all there is at once."""

from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Generic, TypeVar

import anyio

T = TypeVar("T")


class Backlog(Generic[T]):
    """At most `size_max` items wait; whoever puts more waits for room. One producer, one consumer."""

    def __init__(self, size_max: int) -> None:
        self._size_max = size_max
        self._items: deque[T] = deque()
        self._closed = False
        self._changed = anyio.Event()

    def __len__(self) -> int:
        """Count the items that wait."""
        return len(self._items)

    async def room(self, least: int = 1) -> int:
        """Wait until there is room for `least`, and tell for how many."""
        assert least <= self._size_max, "so much room there never is"
        while self._size_max - len(self._items) < least:
            await self._changed.wait()
        return self._size_max - len(self._items)

    def put(self, items: Sequence[T]) -> None:
        """Add items, for which there must be room."""
        assert len(self._items) + len(items) <= self._size_max, "ask for room first"
        self._items.extend(items)
        self._notify()

    def close(self) -> None:
        """Say that nothing more comes."""
        self._closed = True
        self._notify()

    async def take(self, count_max: int) -> list[T]:
        """Wait for items and take up to `count_max` of them, in order; none once it is closed and empty."""
        while not self._items and not self._closed:
            await self._changed.wait()
        taken = list(islice(self._items, count_max))
        for _ in taken:
            self._items.popleft()
        self._notify()
        return taken

    def _notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

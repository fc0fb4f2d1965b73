"""Deadlines of many things, of which most are cancelled before they come."""

import heapq
from typing import Protocol


class Timed(Protocol):
    """Something that wants to be told when its time has come. Hashed by identity."""

    def on_timer(self, now_s: float) -> None:
        """The deadline that was set last has passed."""
        ...


class Timers:
    """At most one deadline for each thing. Cancelled entries are dropped once they outnumber the live ones.

    Setting and cancelling cost O(log n); memory stays within a constant of the number of live deadlines.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timed]] = []
        self._current: dict[Timed, int] = {}
        self._count = 0

    def set(self, timed: Timed, when_s: float) -> None:
        """Replace the deadline of `timed`."""
        self._count += 1
        self._current[timed] = self._count
        heapq.heappush(self._heap, (when_s, self._count, timed))
        if len(self._heap) > 2 * len(self._current) + 64:
            self._heap = [entry for entry in self._heap if self._current.get(entry[2]) == entry[1]]
            heapq.heapify(self._heap)

    def cancel(self, timed: Timed) -> None:
        """Forget the deadline of `timed`, if it has one."""
        self._current.pop(timed, None)

    def next_s(self) -> float | None:
        """The earliest deadline."""
        heap = self._heap
        while heap and self._current.get(heap[0][2]) != heap[0][1]:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def pop_due(self, now_s: float) -> Timed | None:
        """Take out something whose deadline has passed, the earliest first."""
        when_s = self.next_s()
        if when_s is None or when_s > now_s:
            return None
        timed = heapq.heappop(self._heap)[2]
        del self._current[timed]
        return timed

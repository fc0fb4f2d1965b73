"""Removing what has outlived its time to live. Reads never see it; this gives its memory and its rows back."""

import heapq
from typing import Final

from emulator.cosmos.items import Item, Partition
from emulator.cosmos.resources import Container
from emulator.cosmos.transaction import ITEMS_SPACE, progress_row
from emulator.journal import Change, Journal

SWEEP_MAX: Final = 1000
"""Items that one request removes at most."""

REBUILD_INTERVAL_S: Final = 10.0


class _Schedule:
    """When which item of a container goes: rebuilt now and then, since most items outlive many requests."""

    def __init__(self) -> None:
        self.heap: list[tuple[float, int, int, Partition, Item]] = []
        self.built_at_s = float("-inf")
        self.ttl_s: int | None = None


class Expiry:
    """Sweeps the containers that have a time to live."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._schedules: dict[str, _Schedule] = {}

    def sweep(self, container: Container, now_s: float) -> None:
        """Remove expired items of a container, at most `SWEEP_MAX`."""
        if container.is_rewound:
            return
        if container.default_ttl_s is None:
            self._schedules.pop(container.rid, None)
            return
        schedule = self._schedules.setdefault(container.rid, _Schedule())
        stale = schedule.ttl_s != container.default_ttl_s
        if stale or (not schedule.heap and now_s - schedule.built_at_s >= REBUILD_INTERVAL_S):
            self._rebuild(schedule, container, now_s)
        expired: list[tuple[Partition, Item]] = []
        while schedule.heap and schedule.heap[0][0] <= now_s and len(expired) < SWEEP_MAX:
            *_, partition, item = heapq.heappop(schedule.heap)
            if partition.items.get(item.id) is item:
                expired.append((partition, item))
        if expired:
            self._remove(container, expired)

    @staticmethod
    def _rebuild(schedule: _Schedule, container: Container, now_s: float) -> None:
        due = []
        for partition in container.partitions.values():
            for item in partition.items.values():
                expires_s = container.expires_s(item)
                if expires_s is not None and expires_s <= now_s:
                    due.append((expires_s, partition.range_index, item.number, partition, item))
        heapq.heapify(due)
        schedule.heap, schedule.built_at_s, schedule.ttl_s = due, now_s, container.default_ttl_s

    def _remove(self, container: Container, expired: list[tuple[Partition, Item]]) -> None:
        prefix = f"{container.number:08x}"
        rows = [
            Change(ITEMS_SPACE, f"{prefix}/{partition.range_index:02x}/{item.number:014x}", None)
            for partition, item in expired
        ]
        touched = {partition.range_index for partition, _ in expired}
        ranges = [container.ranges[index] for index in touched]
        rows += [progress_row(container, found, found.lsn + 1, found.next_number) for found in ranges]
        self._journal.commit(rows)
        for found in ranges:
            found.lsn += 1  # expiry is a write like any other: whoever keeps results must notice
        for partition, item in expired:
            partition.remove(item.id)
            container.ranges[partition.range_index].record(partition, item, None)
            container.detach_if_empty(partition)

"""What a container was a little while ago: what a replica still shows that the last writes have not reached.

Sessions read their own writes; everybody else may meet such a replica under session consistency:
https://learn.microsoft.com/azure/cosmos-db/consistency-levels#session-consistency.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

from emulator.cosmos.epk import Key
from emulator.cosmos.items import Item, Partition

if TYPE_CHECKING:
    from emulator.cosmos.resources import Container, Range

CHANGES_MAX: Final = 1_000
BYTES_MAX: Final = 4 * 1024 * 1024


class Change(NamedTuple):
    """One item before one transaction; `before` is None where it was not there."""

    lsn: int
    key: Key
    item_id: str
    before: Item | None


class History:
    """The last changes of one physical partition: at most CHANGES_MAX, whose old items have at most BYTES_MAX."""

    def __init__(self) -> None:
        self._changes: deque[Change] = deque()
        self._size_bytes = 0
        self.forgotten_lsn = 0
        """The newest transaction of which a change is not here any more."""

    def note(self, change: Change) -> None:
        """Remember a change, the newest of all."""
        self._changes.append(change)
        self._size_bytes += _size_bytes(change)
        while len(self._changes) > CHANGES_MAX or self._size_bytes > BYTES_MAX:
            oldest = self._changes.popleft()
            self._size_bytes -= _size_bytes(oldest)
            self.forgotten_lsn = oldest.lsn

    def after(self, lsn: int) -> Iterator[Change]:
        """The changes of transactions past `lsn`, the newest first."""
        for change in reversed(self._changes):
            if change.lsn <= lsn:
                return
            yield change


@contextmanager
def rewound(container: "Container", transactions: int, seen: dict[str, int]) -> Iterator[None]:
    """The container as it was before the last `transactions` of each physical partition, for reads only.

    Never older than what is `seen` (a log sequence number by physical partition), nor than the history goes back.
    """
    newest = [(found, found.lsn) for found in container.ranges]
    undone: list[tuple[Partition, str, Item | None]] = []
    container.is_rewound = True
    try:
        for found, lsn in newest:
            oldest = max(lsn - transactions, seen.get(found.id, 0), found.history.forgotten_lsn)
            undone += _undo(container, found, min(oldest, lsn))
        yield
    finally:
        for partition, item_id, item in reversed(undone):
            _put(container, partition, item_id, item)
        for found, lsn in newest:
            found.lsn = lsn
        container.is_rewound = False


def _undo(container: "Container", found: "Range", lsn: int) -> list[tuple[Partition, str, Item | None]]:
    undone = []
    for change in found.history.after(lsn):
        partition = container.partition_or_new(change.key)
        undone.append((partition, change.item_id, partition.items.get(change.item_id)))
        _put(container, partition, change.item_id, change.before)
    found.lsn = lsn
    return undone


def _put(container: "Container", partition: Partition, item_id: str, item: Item | None) -> None:
    """Have `item` in the place of whatever the id stands for."""
    current = partition.items.get(item_id)
    if current is not None and (item is None or item.number != current.number):
        partition.remove(item_id)
    if item is None:
        container.detach_if_empty(partition)
    else:
        container.attach(partition)
        document = item.document()
        partition.put(item, document, container.unique_values(document))
    partition.forget_order()


def _size_bytes(change: Change) -> int:
    return 0 if change.before is None else len(change.before.body)

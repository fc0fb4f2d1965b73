"""Items in memory: their encoded bytes, by id within a logical partition, with sorted indexes where asked for."""

from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import Any, Final

from emulator.cosmos.epk import Key
from emulator.cosmos.values import at_path, decode_stored, encode, order_key

INDEXES_MAX: Final = 8
"""Sorted indexes a partition keeps; queries over more paths than that sort what they find."""

SYSTEM_PROPERTIES: Final = ("_rid", "_self", "_etag", "_attachments", "_ts", "_lsn")

Path = tuple[str | int, ...]

IndexEntry = tuple[int, Any, int, str]
"""(rank of the type, value, number of the item, id)."""


class Item:
    """One version of an item. Never changed once it is made: a write makes another."""

    __slots__ = ("body", "etag", "id", "lsn", "number", "rid", "ts", "ttl_s")

    def __init__(
        self,
        *,
        id: str,  # noqa: A002 - the name that the service gives it
        rid: str,
        number: int,
        etag: str,
        lsn: int,
        ts: int,
        ttl_s: int | None,
        body: bytes,
    ) -> None:
        self.id = id
        self.rid = rid
        self.number = number
        """Grows with every item created in the container: the order of a scan."""
        self.etag = etag
        self.lsn = lsn
        self.ts = ts
        self.ttl_s = ttl_s
        """The item's own time to live; -1 never; None where it has none of its own."""
        self.body = body
        """The whole item as JSON, system properties included."""

    def document(self) -> dict[str, Any]:
        """The item decoded: a new dict each time."""
        decoded: dict[str, Any] = decode_stored(self.body)
        return decoded


class SortedIndex:
    """The items of a partition by the value at one path, in the order of ORDER BY.

    Built on the first query that needs it and kept from then on; an append at the end, the usual case for
    positions, costs no more than a list append.
    """

    def __init__(self, path: Path, items: Iterator[Item]) -> None:
        self.path = path
        self._by_number: dict[int, IndexEntry] = {}
        for item in items:
            self._by_number[item.number] = self._entry(item.document(), item)
        self.entries: list[IndexEntry] = sorted(self._by_number.values())

    def _entry(self, document: dict[str, Any], item: Item) -> IndexEntry:
        rank, value = order_key(at_path(document, self.path))
        return (rank, value, item.number, item.id)

    def put(self, document: dict[str, Any], item: Item) -> None:
        """Add an item or the new version of one."""
        entry = self._entry(document, item)
        old = self._by_number.get(item.number)
        if old == entry:
            return
        if old is not None:
            self._discard(old)
        self._by_number[item.number] = entry
        if not self.entries or self.entries[-1] < entry:
            self.entries.append(entry)
        else:
            insort(self.entries, entry)

    def remove(self, number: int) -> None:
        """Take an item out."""
        entry = self._by_number.pop(number, None)
        if entry is not None:
            self._discard(entry)

    def _discard(self, entry: IndexEntry) -> None:
        del self.entries[bisect_left(self.entries, entry)]


class Partition:
    """One logical partition."""

    __slots__ = ("_order", "_unique", "_unique_of", "epk", "indexes", "items", "key", "range_index")

    def __init__(self, key: Key, epk: str, range_index: int, unique_keys: int) -> None:
        self.key = key
        self.epk = epk
        self.range_index = range_index
        self.items: dict[str, Item] = {}
        self.indexes: dict[Path, SortedIndex] = {}
        self._unique: list[dict[bytes, str]] = [{} for _ in range(unique_keys)]
        self._unique_of: dict[str, tuple[bytes, ...]] = {}
        self._order: list[tuple[int, str]] | None = None

    def put(self, item: Item, document: dict[str, Any], unique: tuple[bytes, ...]) -> None:
        """Store a version; `unique` holds one encoded value for each unique key of the container."""
        old = self.items.get(item.id)
        self.items[item.id] = item
        if self._unique:
            self._release(item.id)
            self._unique_of[item.id] = unique
            for owners, value in zip(self._unique, unique, strict=True):
                owners[value] = item.id
        for index in self.indexes.values():
            index.put(document, item)
        if self._order is not None and old is None:
            self._order.append((item.number, item.id))

    def remove(self, item_id: str) -> None:
        """Drop an item."""
        item = self.items.pop(item_id)
        if self._unique:
            self._release(item_id)
        for index in self.indexes.values():
            index.remove(item.number)
        if self._order is not None:
            del self._order[bisect_left(self._order, (item.number, item_id))]

    def forget_order(self) -> None:
        """The order of creation is worked out anew when it is needed next: items came or went out of it."""
        self._order = None

    def _release(self, item_id: str) -> None:
        values = self._unique_of.pop(item_id, ())
        for owners, value in zip(self._unique, values, strict=False):
            if owners.get(value) == item_id:  # a batch may have given it to another item already
                del owners[value]

    def unique_owner(self, key_index: int, value: bytes) -> str | None:
        """The id that holds a unique key's value."""
        return self._unique[key_index].get(value)

    def unique_of(self, item_id: str) -> tuple[bytes, ...]:
        """The unique keys' values of an item."""
        return self._unique_of.get(item_id, ())

    def after(self, number: int) -> Iterator[Item]:
        """The items past `number`, in the order in which they were created."""
        if number < 0:
            yield from list(self.items.values())
            return
        if self._order is None:
            self._order = sorted((item.number, item.id) for item in self.items.values())
        order = self._order
        for place in range(bisect_left(order, (number + 1, "")), len(order)):
            yield self.items[order[place][1]]

    def index(self, path: Path) -> SortedIndex | None:
        """The sorted index over a path, made on first use; None where the partition has too many already."""
        index = self.indexes.get(path)
        if index is None and len(self.indexes) < INDEXES_MAX:
            index = self.indexes[path] = SortedIndex(path, iter(self.items.values()))
        return index


def unique_value(document: dict[str, Any], paths: tuple[Path, ...]) -> bytes:
    """The value of one unique key; a property that is missing counts as a value of its own."""
    values = [at_path(document, path) for path in paths]
    return encode([value if isinstance(value, (str, int, float, bool, list, dict)) else None for value in values])

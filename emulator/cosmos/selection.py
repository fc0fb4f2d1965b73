"""What a query selects from and what it answers: scopes, pages, candidates, and the order that indexes can serve."""

from bisect import bisect_left
from functools import total_ordering
from typing import Any, Final, NamedTuple

import msgspec

from emulator.cosmos.access import Interval
from emulator.cosmos.continuation import Resume
from emulator.cosmos.epk import MAX, MIN, Key
from emulator.cosmos.errors import bad_request
from emulator.cosmos.indexing import Steps
from emulator.cosmos.items import Item, Partition
from emulator.cosmos.resources import Container
from emulator.cosmos.sql.tree import ObjectOf, Query, property_path
from emulator.cosmos.values import RANK_NUMBER, OrderKey, order_key

PAGE_ITEMS_DEFAULT: Final = 100
PAGE_ITEMS_MAX: Final = 1000
PAGE_BYTES_MAX: Final = 4 * 1024 * 1024
"""https://learn.microsoft.com/azure/cosmos-db/concepts-limits: 4 MB a page."""

sorted_encode = msgspec.json.Encoder(order="sorted").encode


class Scope(msgspec.Struct, frozen=True):
    """Where a query looks: one key, or a range of effective partition keys; `range_index` None for all ranges."""

    key: Key | None = None
    range_index: int | None = None
    low: str = MIN
    high: str = MAX

    def admits(self, partition: Partition) -> bool:
        """Whether a logical partition lies inside."""
        if self.key is not None:
            return partition.key == self.key
        if self.range_index is not None and partition.range_index != self.range_index:
            return False
        return self.low <= partition.epk < self.high


class Page(msgspec.Struct, frozen=True):
    """Rows as JSON texts, and where the next page begins (None at the end)."""

    rows: list[bytes]
    resume: Resume | None
    charge: float


class Row(NamedTuple):
    """A candidate, its place in the order, and whether it passed the filter."""

    order: tuple[Any, ...]
    epk: str
    number: int
    keys: tuple[OrderKey, ...]
    item: Item
    passed: bool


@total_ordering
class Descending:
    """An order key that sorts the other way round."""

    __slots__ = ("key",)

    def __init__(self, key: OrderKey) -> None:
        self.key = key

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Descending) and self.key == other.key

    def __lt__(self, other: "Descending") -> bool:
        return other.key < self.key

    def __hash__(self) -> int:
        return hash(self.key)


def single(query: Query) -> Any:
    """The SELECT clause as one expression."""
    if isinstance(query.select, tuple):
        return ObjectOf(tuple((name, expression) for expression, name in query.select))
    return query.select


def index_steps(path: tuple[str | int, ...]) -> Steps:
    """A property path as indexing policies write it."""
    return tuple(step if isinstance(step, str) else "[]" for step in path)


def order_paths(query: Query, container: Container) -> tuple[tuple[str | int, ...], ...]:
    """The paths of ORDER BY.

    Raises:
        CosmosError: 400 where one is no property, or no index serves them.
    """
    if not query.order_by:
        return ()
    paths = []
    for expression, _ in query.order_by:
        path = property_path(expression, query.alias)
        if not path:
            raise bad_request(
                "Unsupported ORDER BY clause. ORDER BY item expression could not be mapped to a document path."
            )
        paths.append(path)
    order = tuple((index_steps(path), descending) for path, (_, descending) in zip(paths, query.order_by, strict=True))
    if not container.indexing.serves(order):
        if len(order) == 1:
            raise bad_request("The index path corresponding to the specified order-by item is excluded.")
        raise bad_request(
            "The order by query does not have a corresponding composite index that it can be served from."
        )
    return tuple(paths)


def slice_of(entries: list[tuple[int, Any, int, str]], interval: Interval | None) -> tuple[int, int]:
    """The part of an index that lies within an interval, as (first, end)."""
    if interval is None:
        return 0, len(entries)
    low: tuple[Any, ...] = (RANK_NUMBER,)
    if interval.low is not None:
        low = (RANK_NUMBER, interval.low) if interval.low_inclusive else (RANK_NUMBER, interval.low, float("inf"))
    high: tuple[Any, ...] = (RANK_NUMBER + 1,)
    if interval.high is not None:
        inclusive = interval.high_inclusive
        high = (RANK_NUMBER, interval.high, float("inf")) if inclusive else (RANK_NUMBER, interval.high)
    return bisect_left(entries, low), bisect_left(entries, high)


def equal_to(entries: list[tuple[int, Any, int, str]], value: str) -> tuple[int, int]:
    """The part of an index at which a text stands, as (first, end)."""
    rank, key = order_key(value)
    return bisect_left(entries, (rank, key)), bisect_left(entries, (rank, key, float("inf")))

"""The change feed in its "latest version" mode: every item once, at the place of its last write.

Rules: https://learn.microsoft.com/azure/cosmos-db/nosql/change-feed-modes. Deletes do not appear; writes of one
transaction share a log sequence number and are never cut apart by a page.
"""

from bisect import bisect_left

import msgspec

from emulator.cosmos import charges
from emulator.cosmos.epk import MAX, MIN, Key
from emulator.cosmos.items import Item, Partition
from emulator.cosmos.resources import Container, Range


class FeedPage(msgspec.Struct, frozen=True):
    """Items as JSON texts with their `_lsn`, and the log sequence number that the next page begins after."""

    rows: list[bytes]
    lsn: int
    charge: float


class FeedStart(msgspec.Struct, frozen=True):
    """Where to begin: after a log sequence number, and with items written at `since_s` or later."""

    after_lsn: int = 0
    since_s: float = 0.0


def read_feed(
    container: Container,
    partition_range: Range,
    start: FeedStart,
    *,
    page_items: int,
    now_s: float,
    key: Key | None = None,
    low: str = MIN,
    high: str = MAX,
) -> FeedPage:
    """The next changes of one physical partition, within a key or a range of effective partition keys."""
    feed = _feed(container, partition_range)
    rows: list[bytes] = []
    lsn = start.after_lsn
    for place in range(bisect_left(feed, (start.after_lsn + 1, -1)), len(feed)):
        found_lsn, number = feed[place]
        if len(rows) >= page_items and found_lsn != lsn:
            break
        lsn = found_lsn
        partition, item = partition_range.feed_items[number]
        if key is not None and partition.key != key:
            continue
        if low <= partition.epk < high and item.ts >= start.since_s and container.is_alive(item, now_s):
            rows.append(item.body[:-1] + b',"_lsn":%d}' % found_lsn)
    else:
        lsn = max(lsn, partition_range.lsn)
    return FeedPage(rows, lsn, charges.query(len(rows), sum(map(len, rows)), 0))


def _feed(container: Container, partition_range: Range) -> list[tuple[int, int]]:
    """The order of changes, built when somebody reads the feed for the first time."""
    if partition_range.feed is None:
        latest: list[tuple[int, int]] = []
        for _, key in partition_range.order:
            partition: Partition = container.partitions[key]
            for item in partition.items.values():
                _note(partition_range, partition, item)
                latest.append((item.lsn, item.number))
        latest.sort()
        partition_range.feed = latest
    return partition_range.feed


def _note(partition_range: Range, partition: Partition, item: Item) -> None:
    partition_range.feed_items[item.number] = (partition, item)

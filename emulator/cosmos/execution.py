"""One query over one scope at one moment: which items it looks at, in which order, and what comes out."""

import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from emulator.cosmos import charges
from emulator.cosmos.access import Interval, Members, access_for
from emulator.cosmos.continuation import START, Resume
from emulator.cosmos.errors import bad_request
from emulator.cosmos.items import Item, Partition, SortedIndex
from emulator.cosmos.resources import Container
from emulator.cosmos.selection import (
    PAGE_BYTES_MAX,
    Descending,
    Page,
    Row,
    Scope,
    equal_to,
    index_steps,
    order_paths,
    single,
    slice_of,
    sorted_encode,
)
from emulator.cosmos.sql.aggregate import Aggregation
from emulator.cosmos.sql.evaluate import Evaluator, compile_expression
from emulator.cosmos.sql.plan import bound
from emulator.cosmos.sql.tree import Query, has_aggregate, property_path, selected
from emulator.cosmos.values import UNDEFINED, OrderKey, at_path, encode, order_key

SCANNED_MAX: Final = 20_000
"""Items a page of an unordered query looks at before it hands out what it has, so that no request takes long."""


class Execution:
    """One query over one scope at one moment."""

    def __init__(
        self, container: Container, query: Query, parameters: dict[str, Any], scope: Scope, now_s: float
    ) -> None:
        self._container = container
        self._query = query
        self._parameters = parameters
        self._scope = scope
        self._now_s = now_s
        self._where = compile_expression(query.where) if query.where is not None else None
        self._order_paths = order_paths(query, container)
        self._directions = tuple(descending for _, descending in query.order_by)
        self._access = access_for(query, parameters, container.definition)
        self._scanned = 0
        self.aggregation: Aggregation | None = None
        self._project: Evaluator | None = None
        if any(has_aggregate(expression) for expression in selected(query)):
            self.aggregation = Aggregation(single(query))
        elif query.select is not None and property_path(single(query), query.alias) != ():
            self._project = compile_expression(single(query))

    def identity(self) -> tuple[Any, ...]:
        """What the rows depend on, but for the text of the query."""
        lsns = tuple(partition_range.lsn for partition_range in self._container.ranges)
        parameters = tuple((name, sorted_encode(value)) for name, value in self._parameters.items())
        return (self._container.rid, self._container.default_ttl_s, parameters, self._scope, lsns)

    # --- which items ---

    def _partitions(self, from_epk: str) -> Iterator[Partition]:
        """The logical partitions to look at, in the order of their effective keys."""
        container = self._container
        keys = (self._scope.key,) if self._scope.key is not None else self._access.keys
        if keys is not None:
            named = [container.partitions[key] for key in keys if key in container.partitions]
            for partition in sorted(named, key=lambda found: found.epk):
                if self._scope.admits(partition) and partition.epk >= from_epk:
                    yield partition
            return
        for partition_range in container.ranges:
            order = partition_range.order
            start = bisect_left(order, max(from_epk, self._scope.low), key=lambda entry: entry[0])
            for place in range(start, len(order)):
                partition = container.partitions[order[place][1]]
                if self._scope.admits(partition):
                    yield partition

    def _candidates(self, resume: Resume) -> Iterator[tuple[Partition, Item]]:
        """Partitions and items past `resume` that the filter could accept, in the order of a scan."""
        if self._access.points is not None:
            yield from self._points(resume)
            return
        for partition in self._partitions(resume.epk):
            after = resume.number if partition.epk == resume.epk else -1
            if self._access.ids is not None:
                named = (partition.items.get(item_id) for item_id in self._access.ids)
                found = sorted((item for item in named if item is not None), key=lambda item: item.number)
                items: Iterator[Item] = (item for item in found if item.number > after)
            elif (best := self._members_in(partition)) is not None:
                _, index, members = best
                slices = (equal_to(index.entries, value) for value in members.values)
                numbered = sorted(entry[2:] for first, end in slices for entry in index.entries[first:end])
                items = iter([partition.items[item_id] for number, item_id in numbered if number > after])
            else:
                items = partition.after(after)
            for item in items:
                yield partition, item

    def _points(self, resume: Resume) -> Iterator[tuple[Partition, Item]]:
        found = []
        for key, item_id in self._access.points or ():
            partition = self._container.partitions.get(key)
            item = partition.items.get(item_id) if partition is not None else None
            if partition is not None and item is not None and self._scope.admits(partition):
                found.append((partition.epk, item.number, partition, item))
        found.sort(key=lambda entry: entry[:2])
        for epk, number, partition, item in found:
            if (epk, number) > (resume.epk, resume.number):
                yield partition, item

    def _passes(self, item: Item) -> dict[str, Any] | None:
        """The item decoded if it is alive and the filter accepts it."""
        self._scanned += 1
        if not self._container.is_alive(item, self._now_s):
            return None
        document = item.document()
        if self._where is not None and self._where(document, self._parameters) is not True:
            return None
        return document

    # --- in which order ---

    def serving_index(self) -> tuple[SortedIndex, Partition, Interval | None] | None:
        """The sorted index that serves this query within one logical partition."""
        access = self._access
        if access.points is not None or access.ids is not None or len(self._order_paths) > 1:
            return None
        keys = (self._scope.key,) if self._scope.key is not None else access.keys
        if keys is None or len(keys) != 1:
            return None
        partition = self._container.partitions.get(keys[0])
        if partition is None or not self._scope.admits(partition):
            return None
        if self._order_paths:
            path = self._order_paths[0]
        else:
            indexed = [found.path for found in access.intervals if self._indexes(found)]
            if not indexed:
                return None
            path = indexed[0]
        interval = next((found for found in access.intervals if found.path == path), None)
        index = partition.index(path)
        if index is None:
            return None
        first, end = slice_of(index.entries, interval)
        members = None if self._order_paths else self._members_in(partition)
        if members is not None and members[0] < end - first:
            return None  # fewer candidates than along this index: they are looked up one by one
        return (index, partition, interval)

    def _indexes(self, found: Interval | Members) -> bool:
        return self._container.indexing.indexes(index_steps(found.path))

    def _members_in(self, partition: Partition) -> tuple[int, SortedIndex, Members] | None:
        """The IN or `=` over an indexed path that leaves the fewest items, and how many."""
        best: tuple[int, SortedIndex, Members] | None = None
        for members in filter(self._indexes, self._access.members):
            index = partition.index(members.path)
            if index is None:
                continue
            slices = (equal_to(index.entries, value) for value in members.values)
            count = sum(end - first for first, end in slices)
            if best is None or count < best[0]:
                best = (count, index, members)
        return best

    def along_index(
        self, index: SortedIndex, partition: Partition, interval: Interval | None, resume: Resume
    ) -> Iterator[Row]:
        """Candidates in the order of an index."""
        entries = index.entries
        first, end = slice_of(entries, interval)
        descending = bool(self._directions and self._directions[0])
        if resume.order:
            rank, value = resume.order[0]
            if descending:
                end = min(end, bisect_left(entries, (rank, value, resume.number)))
            else:
                first = max(first, bisect_left(entries, (rank, value, resume.number + 1)))
        places = range(end - 1, first - 1, -1) if descending else range(first, end)
        for place in places:
            rank, value, number, item_id = entries[place]
            item = partition.items[item_id]
            yield Row((), partition.epk, number, ((rank, value),), item, self._passes(item) is not None)

    def along_items(self, resume: Resume) -> Iterator[Row]:
        """Candidates in the order of a scan."""
        for partition, item in self._candidates(resume):
            yield Row((), partition.epk, item.number, (), item, self._passes(item) is not None)

    def all_rows(self) -> list[Row]:
        """All rows, sorted."""
        rows = []
        for partition, item in self._candidates(START):
            document = self._passes(item)
            if document is not None:
                keys = tuple(order_key(at_path(document, path)) for path in self._order_paths)
                rows.append(Row(self._order(keys), partition.epk, item.number, keys, item, True))
        rows.sort(key=lambda row: row[:3])
        return rows

    def _order(self, keys: tuple[OrderKey, ...]) -> tuple[Any, ...]:
        return tuple(
            Descending(key) if descending else key for key, descending in zip(keys, self._directions, strict=True)
        )

    def along_rows(self, rows: list[Row], resume: Resume) -> Iterator[Row]:
        """The rows of `all_rows` past `resume`."""
        first = 0
        if resume.order:
            if len(resume.order) != len(self._directions):
                raise bad_request("Invalid Continuation Token.")
            last = (self._order(tuple((rank, value) for rank, value in resume.order)), resume.epk, resume.number)
            first = bisect_right(rows, last, key=lambda row: row[:3])
        for place in range(first, len(rows)):
            alive = self._container.is_alive(rows[place].item, self._now_s)
            yield rows[place] if alive else rows[place]._replace(passed=False)

    # --- what comes out ---

    def _render(self, item: Item) -> bytes | None:
        """The projection of an item as JSON; None where `SELECT VALUE` has no value."""
        if self._project is None:
            return item.body
        value = self._project(item.document(), self._parameters)
        return None if value is UNDEFINED else encode(value)

    def _bounds(self) -> tuple[int, int | None]:
        """How many rows to skip, and how many to hand out at most."""
        query, parameters = self._query, self._parameters
        offset = bound(query.offset, parameters, "OFFSET") or 0
        top, limit = bound(query.top, parameters, "TOP"), bound(query.limit, parameters, "LIMIT")
        return offset, top if limit is None else limit

    def page(self, candidates: Iterator[Row], page_items: int, resume: Resume) -> Page:
        """Take candidates until the page is full, enough was looked at, or none is left."""
        offset, limit = self._bounds()
        rows: list[bytes] = []
        emitted, skipped, size_bytes = resume.emitted, resume.skipped, 0
        last: Row | None = None
        for candidate in itertools.islice(candidates, SCANNED_MAX):
            if limit is not None and emitted >= limit:
                return Page(rows, None, self._charge(len(rows), size_bytes))
            if len(rows) >= page_items or size_bytes >= PAGE_BYTES_MAX:
                break  # there is at least one more candidate: the page ends before it
            last = candidate
            if not candidate.passed:
                continue
            if skipped < offset:
                skipped += 1
            elif (row := self._render(candidate.item)) is not None:
                rows.append(row)
                emitted += 1
                size_bytes += len(row)
        else:
            if last is None or next(candidates, None) is None:
                return Page(rows, None, self._charge(len(rows), size_bytes))
        assert last is not None, "a page holds at least one row or has looked at one candidate"
        following = Resume(emitted, skipped, last.keys, last.epk, last.number)
        return Page(rows, following, self._charge(len(rows), size_bytes))

    def _charge(self, rows: int, size_bytes: int) -> float:
        return charges.query(rows, size_bytes, max(0, self._scanned - rows))

    def distinct_page(self, page_items: int, resume: Resume) -> Page:
        """A page of a DISTINCT query: every page finds all rows again and goes on by count."""
        offset, limit = self._bounds()
        seen: set[bytes] = set()
        rows = []
        size_bytes = 0
        for found in self.all_rows():
            row = self._render(found.item)
            if row is not None and (identity := sorted_encode(msgspec.json.decode(row))) not in seen:
                seen.add(identity)
                rows.append(row)
        rows = rows[offset : None if limit is None else offset + limit]
        page = rows[resume.emitted : resume.emitted + page_items]
        size_bytes = sum(len(row) for row in page)
        emitted = resume.emitted + len(page)
        following = Resume(emitted=emitted) if emitted < len(rows) else None
        return Page(page, following, self._charge(len(page), size_bytes))

    def aggregate(self) -> Page:
        """The one row of a query with aggregates."""
        assert self.aggregation is not None
        for _, item in self._candidates(START):
            document = self._passes(item)
            if document is not None:
                self.aggregation.feed(document, self._parameters)
        value = self.aggregation.result(self._parameters)
        offset, limit = self._bounds()
        rows = [] if value is UNDEFINED or offset or limit == 0 else [encode(value)]
        return Page(rows, None, self._charge(len(rows), sum(len(row) for row in rows)))

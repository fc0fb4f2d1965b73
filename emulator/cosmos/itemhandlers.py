"""Operations on items: points, batches, queries and feeds."""

from collections.abc import Callable
from typing import Any

from emulator.cosmos import charges, partitionkey
from emulator.cosmos.batch import BATCH_BYTES_MAX, BatchResult, failed, parse_batch, parse_bulk, succeeded
from emulator.cosmos.continuation import from_token, to_token
from emulator.cosmos.engine import CosmosEngine, Place, range_by_id
from emulator.cosmos.epk import Key
from emulator.cosmos.errors import CosmosError, not_covered, too_large
from emulator.cosmos.inputs import (
    Request,
    container_of,
    feed_start,
    key_of,
    page_items_of,
    place_of,
    spec_of,
    wants_minimal,
)
from emulator.cosmos.replies import Reply, batch_body, charged, documents, item_headers, point_reply
from emulator.cosmos.resources import Container, Range
from emulator.cosmos.selection import Page
from emulator.cosmos.transaction import Operation
from emulator.cosmos.values import encode
from emulator.cosmos.wire import (
    CONTINUATION,
    RANGE_ID,
    SESSION_TOKEN,
    is_true,
)

Route = Callable[[Request], Reply]


class ItemHandlers:
    """One method for each kind of operation on items. They raise `CosmosError` for what the service refuses."""

    def __init__(self, engine: CosmosEngine) -> None:
        self._engine = engine
        self.routes: dict[str, Route] = {
            "create-item": self._point,
            "upsert-item": self._point,
            "read-item": self._point,
            "replace-item": self._point,
            "patch-item": self._point,
            "delete-item": self._point,
            "batch": self._batch,
            "query": self._query,
            "query-plan": self._query_plan,
            "read-feed": self._read_feed,
            "change-feed": self._change_feed,
        }

    def _in_range(self, request: Request, container: Container, key: tuple[Any, ...]) -> Range:
        """The physical partition of a key, after the session token was checked against it."""
        partition = container.partitions.get(key)
        partition_range = (
            container.ranges[partition.range_index]
            if partition is not None
            else container.range_for(container.definition.epk(key))
        )
        token = request.headers.get(SESSION_TOKEN)
        if token:
            self._engine.check_session(partition_range, token)
        return partition_range

    def _point(self, request: Request) -> Reply:
        container = container_of(self._engine, request)
        key = container.definition.complete(key_of(request))
        partition_range = self._in_range(request, container, key)
        headers = request.headers
        kind = request.target.operation.removesuffix("-item")
        operation = Operation(
            kind,
            self._item_id(request, container, key),
            request.body or None,
            headers.get("if-match"),
            headers.get("if-none-match"),
        )
        try:
            outcome = self._engine.execute(container, key, operation)
        except CosmosError as error:
            error.headers = item_headers(request.target, partition_range) | charged(charges.MISS)
            raise
        return point_reply(request, partition_range, outcome, kind)

    @staticmethod
    def _item_id(request: Request, container: Container, key: Key) -> str | None:
        """The id that a request names: itself, or by the resource id of the item where the link is made of those."""
        named = request.target.item
        if named is None or request.target.container == container.id:
            return named
        partition = container.partitions.get(key)
        items = partition.items.values() if partition is not None else ()
        return next((item.id for item in items if item.rid == named), named)

    def _batch(self, request: Request) -> Reply:
        container = container_of(self._engine, request)
        headers = request.headers
        if len(request.body) > BATCH_BYTES_MAX:
            raise too_large()
        if not is_true(headers.get("x-ms-cosmos-batch-atomic")):
            return self._bulk(request, container)
        key = container.definition.complete(key_of(request))
        operations = parse_batch(request.body)
        partition_range = self._in_range(request, container, key)
        result = self._engine.batch(container, key, operations)
        minimal = wants_minimal(request)
        body = batch_body(result, [operation.kind for operation in operations], minimal=minimal)
        return Reply(result.status, body, item_headers(request.target, partition_range) | charged(result.charge))

    def _bulk(self, request: Request, container: Container) -> Reply:
        """Operations that have only the request in common: each has a key of its own and fails on its own."""
        partition_range = range_by_id(container, request.headers.get(RANGE_ID, "0"))
        members = parse_bulk(request.body)
        results = []
        for member in members:
            try:
                key = None if member.partition_key is None else partitionkey.parse_header(member.partition_key)
                outcome = self._engine.execute(container, container.definition.complete(key), member.operation)
                results.append(succeeded(outcome))
            except CosmosError as error:
                results.append(failed(error))
        status = 200 if all(result.error is None for result in results) else 207
        result = BatchResult(status, tuple(results))
        kinds = [member.operation.kind for member in members]
        body = batch_body(result, kinds, minimal=wants_minimal(request))
        return Reply(status, body, item_headers(request.target, partition_range) | charged(result.charge))

    def _query(self, request: Request) -> Reply:
        container = container_of(self._engine, request)
        spec = spec_of(request)
        place = place_of(request)
        enabled = is_true(request.headers.get("x-ms-documentdb-query-enablecrosspartition"))
        self._engine.check_servable(container, spec, place, enabled=enabled)
        self._check_sessions(request, container)
        page = self._engine.query(
            container,
            spec,
            place,
            page_items=page_items_of(request),
            resume=from_token(request.headers.get(CONTINUATION)),
        )
        return self._page_reply(request, container, place, page)

    def _read_feed(self, request: Request) -> Reply:
        container = container_of(self._engine, request)
        place = place_of(request)
        self._check_sessions(request, container)
        page = self._engine.feed(
            container, place, page_items=page_items_of(request), resume=from_token(request.headers.get(CONTINUATION))
        )
        return self._page_reply(request, container, place, page)

    def _query_plan(self, request: Request) -> Reply:
        container_of(self._engine, request)
        plan = self._engine.query_plan(spec_of(request))
        return Reply(200, encode(plan), charged(charges.METADATA_READ))

    def _change_feed(self, request: Request) -> Reply:
        container = container_of(self._engine, request)
        if request.headers.get("a-im", "").lower() != "incremental feed":
            raise not_covered("The change feed mode 'all versions and deletes'")
        self._check_sessions(request, container)
        partition_range, page = self._engine.change_feed(
            container,
            place_of(request),
            page_items=page_items_of(request),
            start=lambda found: feed_start(request, found),
        )
        headers = item_headers(request.target, partition_range) | charged(page.charge)
        headers["etag"] = f'"{page.lsn}"'
        if not page.rows:
            return Reply(304, headers=headers)
        return Reply(200, documents(container, page.rows), headers)

    def _check_sessions(self, request: Request, container: Container) -> None:
        token = request.headers.get(SESSION_TOKEN)
        if token:
            for partition_range in container.ranges:
                self._engine.check_session(partition_range, token)

    def _page_reply(self, request: Request, container: Container, place: Place, page: Page) -> Reply:
        ranges = container.ranges
        if place.range_id is not None:
            ranges = [range_by_id(container, place.range_id)]
        elif place.key is not None and len(place.key) == len(container.definition.paths):
            ranges = [container.range_for(container.definition.epk(place.key))]
        headers = item_headers(request.target, ranges[0]) | charged(page.charge)
        headers[SESSION_TOKEN] = ",".join(partition_range.session_token() for partition_range in ranges)
        headers["x-ms-item-count"] = str(len(page.rows))
        if page.resume is not None:
            headers[CONTINUATION] = to_token(page.resume)
        return Reply(200, documents(container, page.rows), headers)

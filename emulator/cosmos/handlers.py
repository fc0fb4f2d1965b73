"""From a request to the engine and back: one method for each kind of operation."""

from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Final

import msgspec

from emulator.cosmos import charges, partitionkey
from emulator.cosmos.account import Throughput
from emulator.cosmos.batch import BATCH_BYTES_MAX, BatchResult, failed, parse_batch, parse_bulk, succeeded
from emulator.cosmos.changefeed import FeedStart
from emulator.cosmos.continuation import from_token, to_token
from emulator.cosmos.engine import CosmosEngine, Place, QuerySpec, range_by_id
from emulator.cosmos.errors import SUB_COLLECTION_RID_MISMATCH, CosmosError, bad_request, not_covered, too_large
from emulator.cosmos.query import PAGE_ITEMS_DEFAULT, PAGE_ITEMS_MAX, Page, run_over
from emulator.cosmos.resources import Container, Range
from emulator.cosmos.transaction import Operation, Outcome
from emulator.cosmos.values import encode, parse_object
from emulator.cosmos.wire import (
    CONTINUATION,
    PARTITION_KEY,
    RANGE_ID,
    SESSION_TOKEN,
    Target,
    is_true,
)

_CONSISTENCY_LEVELS: Final = ("Eventual", "ConsistentPrefix", "Session")


class Request(msgspec.Struct, frozen=True):
    """A request after the socket: header names are case-insensitive."""

    target: Target
    headers: Mapping[str, str]
    body: bytes


class Reply(msgspec.Struct):
    """What goes back."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = {}


class Handlers:
    """The operations of one account. Methods raise `CosmosError` for what the service refuses."""

    def __init__(self, engine: CosmosEngine, account_properties: Callable[[], dict[str, Any]]) -> None:
        self._engine = engine
        self._account_properties = account_properties
        self._routes: dict[str, Callable[[Request], Reply]] = {
            "read-account": self._read_account,
            "create-database": self._create_database,
            "list-databases": self._list_databases,
            "query-databases": self._list_databases,
            "read-database": self._read_database,
            "delete-database": self._delete_database,
            "create-container": self._create_container,
            "list-containers": self._list_containers,
            "query-containers": self._list_containers,
            "read-container": self._read_container,
            "replace-container": self._replace_container,
            "delete-container": self._delete_container,
            "read-partition-key-ranges": self._read_ranges,
            "list-offers": self._list_offers,
            "query-offers": self._list_offers,
            "read-offer": self._read_offer,
            "replace-offer": self._replace_offer,
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

    def handle(self, request: Request) -> Reply:
        """Carry a request out.

        Raises:
            CosmosError: what the service answers instead.
        """
        level = request.headers.get("x-ms-consistency-level")
        if level is not None and level not in _CONSISTENCY_LEVELS:
            raise bad_request(
                f"ConsistencyLevel {level[:40]} specified in the request is invalid when service is configured with"
                " consistency level Session."
            )
        route = self._routes.get(request.target.operation)
        if route is None:
            if request.target.operation == "not-covered":
                raise not_covered(f"The resource '{request.target.item}'")
            raise CosmosError(405, "The requested verb is not supported on this resource.")
        return route(request)

    # --- account, databases, containers, offers ---

    def _read_account(self, _request: Request) -> Reply:
        return _json(200, self._account_properties(), charges.METADATA_READ)

    def _create_database(self, request: Request) -> Reply:
        database = self._engine.account.create_database(parse_object(request.body), _throughput(request))
        return _resource(201, database.properties, charges.METADATA_WRITE)

    def _list_databases(self, request: Request) -> Reply:
        found = [database.properties for database in self._engine.account.databases.values()]
        return _metadata_feed(request, "Databases", "", found)

    def _read_database(self, request: Request) -> Reply:
        properties = self._engine.account.database(str(request.target.database)).properties
        return _resource_read(request, properties)

    def _delete_database(self, request: Request) -> Reply:
        self._engine.account.delete_database(str(request.target.database), request.headers.get("if-match"))
        return Reply(204, headers=_charged(charges.METADATA_WRITE))

    def _create_container(self, request: Request) -> Reply:
        target = request.target
        container = self._engine.account.create_container(
            str(target.database), parse_object(request.body), _throughput(request)
        )
        return _resource(201, container.properties, charges.METADATA_WRITE, target)

    def _list_containers(self, request: Request) -> Reply:
        database = self._engine.account.database(str(request.target.database), owner=True)
        found = [container.properties for container in database.containers.values()]
        return _metadata_feed(request, "DocumentCollections", database.rid, found)

    def _read_container(self, request: Request) -> Reply:
        container = self._container(request, owner=False)
        reply = _resource_read(request, container.properties)
        if is_true(request.headers.get("x-ms-documentdb-populatequotainfo")):
            items = sum(len(partition.items) for partition in container.partitions.values())
            reply.headers["x-ms-resource-usage"] = f"documentsCount={items};"
            reply.headers["x-ms-resource-quota"] = "documentsCount=-1;"
        return reply

    def _replace_container(self, request: Request) -> Reply:
        target = request.target
        container = self._engine.account.replace_container(
            str(target.database), str(target.container), parse_object(request.body), request.headers.get("if-match")
        )
        return _resource(200, container.properties, charges.METADATA_WRITE, target)

    def _delete_container(self, request: Request) -> Reply:
        target = request.target
        self._engine.account.delete_container(
            str(target.database), str(target.container), request.headers.get("if-match")
        )
        return Reply(204, headers=_charged(charges.METADATA_WRITE))

    def _read_ranges(self, request: Request) -> Reply:
        """The physical partitions; 304 for a client that knows them all, or it would ask for ever."""
        container = self._container(request)
        etag = f'"{len(container.ranges)}"'
        headers = _charged(charges.METADATA_READ) | {"etag": etag}
        if request.headers.get("if-none-match") == etag:
            return Reply(304, headers=headers)
        ranges = [
            {
                "_rid": container.rid,
                "id": partition_range.id,
                "_etag": etag,
                "minInclusive": partition_range.low,
                "maxExclusive": partition_range.high,
                "ridPrefix": partition_range.index,
                "_self": f"{container.self_link}pkranges/{partition_range.id}/",
                "throughputFraction": 1 / len(container.ranges),
                "status": "online",
                "parents": [],
                "_ts": container.properties["_ts"],
                "lsn": partition_range.lsn,
            }
            for partition_range in container.ranges
        ]
        body = encode({"_rid": container.rid, "PartitionKeyRanges": ranges, "_count": len(ranges)})
        return Reply(200, body, headers)

    def _list_offers(self, request: Request) -> Reply:
        found = [offer.document() for offer in self._engine.account.offers.values()]
        return _metadata_feed(request, "Offers", "", found)

    def _read_offer(self, request: Request) -> Reply:
        offer = self._engine.account.offer(str(request.target.item))
        return _resource(200, offer.document(), charges.METADATA_READ)

    def _replace_offer(self, request: Request) -> Reply:
        offer = self._engine.account.replace_offer(str(request.target.item), parse_object(request.body))
        return _resource(200, offer.document(), charges.METADATA_WRITE)

    # --- items ---

    def _container(self, request: Request, *, owner: bool = True) -> Container:
        """The container, if it is the one that the client means."""
        target = request.target
        container = self._engine.account.container(str(target.database), str(target.container), owner=owner)
        intended = request.headers.get("x-ms-cosmos-intended-collection-rid")
        if intended is not None and intended != container.rid:
            raise bad_request(
                "Collection rid in the request does not match the container: it was created anew.",
                SUB_COLLECTION_RID_MISMATCH,
            )
        return container

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
        container = self._container(request)
        key = container.definition.complete(_key(request))
        partition_range = self._in_range(request, container, key)
        headers = request.headers
        kind = request.target.operation.removesuffix("-item")
        operation = Operation(
            kind, request.target.item, request.body or None, headers.get("if-match"), headers.get("if-none-match")
        )
        try:
            outcome = self._engine.execute(container, key, operation)
        except CosmosError as error:
            error.headers = _item_headers(request.target, partition_range) | _charged(charges.MISS)
            raise
        return _point_reply(request, partition_range, outcome, kind)

    def _batch(self, request: Request) -> Reply:
        container = self._container(request)
        headers = request.headers
        if len(request.body) > BATCH_BYTES_MAX:
            raise too_large()
        if not is_true(headers.get("x-ms-cosmos-batch-atomic")):
            return self._bulk(request, container)
        key = container.definition.complete(_key(request))
        operations = parse_batch(request.body)
        partition_range = self._in_range(request, container, key)
        result = self._engine.batch(container, key, operations)
        minimal = _wants_minimal(request)
        body = _batch_body(result, [operation.kind for operation in operations], minimal=minimal)
        return Reply(result.status, body, _item_headers(request.target, partition_range) | _charged(result.charge))

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
        body = _batch_body(result, kinds, minimal=_wants_minimal(request))
        return Reply(status, body, _item_headers(request.target, partition_range) | _charged(result.charge))

    def _query(self, request: Request) -> Reply:
        container = self._container(request)
        spec = _spec(request)
        place = _place(request)
        enabled = is_true(request.headers.get("x-ms-documentdb-query-enablecrosspartition"))
        self._engine.check_servable(container, spec, place, enabled=enabled)
        self._check_sessions(request, container)
        page = self._engine.query(
            container,
            spec,
            place,
            page_items=_page_items(request),
            resume=from_token(request.headers.get(CONTINUATION)),
        )
        return self._page_reply(request, container, place, page)

    def _read_feed(self, request: Request) -> Reply:
        container = self._container(request)
        place = _place(request)
        self._check_sessions(request, container)
        page = self._engine.feed(
            container, place, page_items=_page_items(request), resume=from_token(request.headers.get(CONTINUATION))
        )
        return self._page_reply(request, container, place, page)

    def _query_plan(self, request: Request) -> Reply:
        self._container(request)
        plan = self._engine.query_plan(_spec(request))
        return Reply(200, encode(plan), _charged(charges.METADATA_READ))

    def _change_feed(self, request: Request) -> Reply:
        container = self._container(request)
        if request.headers.get("a-im", "").lower() != "incremental feed":
            raise not_covered("The change feed mode 'all versions and deletes'")
        self._check_sessions(request, container)
        partition_range, page = self._engine.change_feed(
            container, _place(request), page_items=_page_items(request), start=lambda found: _start(request, found)
        )
        headers = _item_headers(request.target, partition_range) | _charged(page.charge)
        headers["etag"] = f'"{page.lsn}"'
        if not page.rows:
            return Reply(304, headers=headers)
        return Reply(200, _documents(container, page.rows), headers)

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
        headers = _item_headers(request.target, ranges[0]) | _charged(page.charge)
        headers[SESSION_TOKEN] = ",".join(partition_range.session_token() for partition_range in ranges)
        headers["x-ms-item-count"] = str(len(page.rows))
        if page.resume is not None:
            headers[CONTINUATION] = to_token(page.resume)
        return Reply(200, _documents(container, page.rows), headers)


def _key(request: Request) -> tuple[Any, ...] | None:
    header = request.headers.get(PARTITION_KEY)
    return None if header is None else partitionkey.parse_header(header)


def _place(request: Request) -> Place:
    headers = request.headers
    return Place(
        key=_key(request), range_id=headers.get(RANGE_ID), low=headers.get("x-ms-start-epk"),
        high=headers.get("x-ms-end-epk"),
    )  # fmt: skip


def _spec(request: Request) -> QuerySpec:
    """The query in a body `{"query": …, "parameters": [{"name", "value"}]}`."""
    body = parse_object(request.body)
    text, parameters = body.get("query"), body.get("parameters")
    if parameters is None:
        parameters = []
    if type(text) is not str:
        raise bad_request("The request body must be an object with the text of a 'query'.")
    if type(parameters) is not list:
        raise bad_request("The 'parameters' of a query must be a list of {name, value}.")
    values = {}
    for parameter in parameters:
        name = parameter.get("name") if type(parameter) is dict else None
        if type(name) is not str or not name.startswith("@"):
            raise bad_request("Each parameter of a query needs a 'name' that begins with '@'.")
        values[name] = parameter.get("value")
    return QuerySpec(text, values)


def _page_items(request: Request) -> int:
    text = request.headers.get("x-ms-max-item-count")
    if text is None:
        return PAGE_ITEMS_DEFAULT
    try:
        count = int(text)
    except ValueError:
        count = 0
    if count == 0 or count < -1:
        raise bad_request("x-ms-max-item-count must be -1 or a whole number from 1 on.")
    return PAGE_ITEMS_MAX if count == -1 else min(count, PAGE_ITEMS_MAX)


def _start(request: Request, partition_range: Range) -> FeedStart:
    """Where a change feed request begins: If-None-Match names what was seen, `*` everything up to now."""
    seen = request.headers.get("if-none-match")
    since_text = request.headers.get("if-modified-since")
    since_s = 0.0
    if since_text is not None:
        try:
            since_s = parsedate_to_datetime(since_text).timestamp()
        except (ValueError, OverflowError) as error:
            raise bad_request("The If-Modified-Since header is not a valid date.") from error
    if seen is None:
        return FeedStart(0, since_s)
    if seen == "*":
        return FeedStart(partition_range.lsn, since_s)
    digits = seen.strip('"')
    if not digits.isdecimal() or len(digits) > 20:  # noqa: PLR2004 - the digits of a 64-bit number
        raise bad_request("The If-None-Match header of a change feed request is not valid.")
    return FeedStart(int(digits), since_s)


def _throughput(request: Request) -> Throughput:
    manual_text = request.headers.get("x-ms-offer-throughput")
    settings_text = request.headers.get("x-ms-cosmos-offer-autopilot-settings")
    manual = autoscale_max = None
    if manual_text is not None:
        if not manual_text.isdecimal():
            raise bad_request("x-ms-offer-throughput must be a whole number.")
        manual = int(manual_text)
    if settings_text is not None:
        most = parse_object(settings_text.encode()).get("maxThroughput")
        if type(most) is not int:
            raise bad_request("The autoscale settings need a whole 'maxThroughput'.")
        autoscale_max = most
    return Throughput(manual, autoscale_max)


def _wants_minimal(request: Request) -> bool:
    return request.headers.get("prefer", "").replace(" ", "").lower() == "return=minimal"


def _charged(charge: float) -> dict[str, str]:
    return {"x-ms-request-charge": f"{charge:.2f}"}


def _item_headers(target: Target, partition_range: Range) -> dict[str, str]:
    lsn = str(partition_range.lsn)
    return {
        SESSION_TOKEN: partition_range.session_token(),
        "lsn": lsn,
        "x-ms-item-lsn": lsn,
        "x-ms-documentdb-partitionkeyrangeid": partition_range.id,
        "x-ms-alt-content-path": target.alternate_path,
    }


def _point_reply(request: Request, partition_range: Range, outcome: Outcome, kind: str) -> Reply:
    headers = _item_headers(request.target, partition_range) | _charged(outcome.charge)
    if outcome.etag is not None:
        headers["etag"] = outcome.etag
    body = outcome.body or b""
    if kind != "read" and _wants_minimal(request):
        body = b""
    return Reply(outcome.status, body, headers)


def _batch_body(result: BatchResult, kinds: list[str], *, minimal: bool) -> bytes:
    """The results as JSON, with the encoded items put in as they are."""
    parts = []
    for outcome, kind in zip(result.results, kinds, strict=True):
        head = b'{"statusCode":%d,"requestCharge":%.2f' % (outcome.status, outcome.charge)
        if outcome.sub_status:
            head += b',"subStatusCode":%d' % outcome.sub_status
        if outcome.etag is not None:
            head += b',"eTag":' + encode(outcome.etag)
        if outcome.error is not None:
            head += b',"message":' + encode(outcome.error)
        if outcome.body is not None and (kind == "read" or not minimal):
            head += b',"resourceBody":' + outcome.body
        parts.append(head + b"}")
    return b"[" + b",".join(parts) + b"]"


def _documents(container: Container, rows: list[bytes]) -> bytes:
    head = b'{"_rid":"' + container.rid.encode() + b'","Documents":['
    return head + b",".join(rows) + b'],"_count":%d}' % len(rows)


def _json(status: int, value: dict[str, Any], charge: float) -> Reply:
    return Reply(status, encode(value), _charged(charge))


def _resource(status: int, properties: dict[str, Any], charge: float, target: Target | None = None) -> Reply:
    reply = _json(status, properties, charge)
    reply.headers["etag"] = properties["_etag"]
    if target is not None:
        reply.headers["x-ms-alt-content-path"] = target.alternate_path
    return reply


def _resource_read(request: Request, properties: dict[str, Any]) -> Reply:
    if request.headers.get("if-none-match") in ("*", properties["_etag"]):
        return Reply(304, headers=_charged(charges.METADATA_READ) | {"etag": properties["_etag"]})
    return _resource(200, properties, charges.METADATA_READ, request.target)


def _metadata_feed(request: Request, member: str, owner_rid: str, documents: list[dict[str, Any]]) -> Reply:
    """All of an account's databases, containers or offers, or those that a query selects, on one page."""
    if request.target.operation.startswith("query-"):
        spec = _spec(request)
        rows = run_over(documents, spec.text, spec.parameters)
    else:
        rows = [encode(document) for document in documents]
    head = encode({"_rid": owner_rid})[:-1] + b',"' + member.encode() + b'":['
    body = head + b",".join(rows) + b'],"_count":%d}' % len(rows)
    return Reply(200, body, _charged(charges.METADATA_READ) | {"x-ms-item-count": str(len(rows))})

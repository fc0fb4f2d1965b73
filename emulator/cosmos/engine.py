"""The embedded Cosmos DB without a socket: what Azure does, given a clock and a journal.

Guarantee: a method that returns has its changes in the journal and in memory; a method that raises has changed
nothing. Methods are synchronous and run to their end, so there is no concurrency in here.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import msgspec

from emulator.clock import Clock
from emulator.cosmos.account import Account
from emulator.cosmos.batch import BatchResult, perform
from emulator.cosmos.changefeed import FeedPage, FeedStart, read_feed
from emulator.cosmos.continuation import Resume
from emulator.cosmos.epk import MAX, MIN, Key
from emulator.cosmos.errors import (
    SUB_CROSS_PARTITION_NOT_SERVABLE,
    SUB_PARTITION_KEY_RANGE_GONE,
    SUB_READ_SESSION_NOT_AVAILABLE,
    CosmosError,
    bad_request,
)
from emulator.cosmos.expiry import Expiry
from emulator.cosmos.history import rewound
from emulator.cosmos.query import QueryRunner
from emulator.cosmos.resources import Container, Range
from emulator.cosmos.selection import Page, Scope
from emulator.cosmos.sql.evaluate import predicate
from emulator.cosmos.sql.parser import parse
from emulator.cosmos.sql.plan import needs_plan, plan
from emulator.cosmos.transaction import Operation, Outcome, Transaction
from emulator.cosmos.values import encode
from emulator.journal import Journal

_SESSION_PART = re.compile(r"(?P<range>\d{1,10}):-?\d{1,20}#(?P<lsn>\d{1,20})(?:#\d{1,20}=-?\d{1,20})*")
"""Physical partition, version, log sequence number and, in accounts with several regions, one number a region."""

SCAN_TEXT: Final = "SELECT * FROM c"


class QuerySpec(msgspec.Struct, frozen=True):
    """A query's text and parameters."""

    text: str
    parameters: dict[str, Any]


class Place(msgspec.Struct, frozen=True):
    """What a request says about where it reads: a key or its prefix, a physical partition, effective keys."""

    key: Key | None = None
    range_id: str | None = None
    low: str | None = None
    high: str | None = None


class CosmosEngine:
    """One account."""

    def __init__(self, *, clock: Clock, journal: Journal) -> None:
        self._clock = clock
        self._journal = journal
        self.account = Account(clock, journal)
        self._queries = QueryRunner()
        self._expiry = Expiry(journal)

    # --- items ---

    def execute(self, container: Container, key: Key, operation: Operation) -> Outcome:
        """One operation on one item.

        Raises:
            CosmosError: what the service answers.
        """
        transaction = self._transaction(container, key)
        outcome = transaction.perform(operation)
        self._commit(transaction)
        return outcome

    def batch(self, container: Container, key: Key, operations: list[Operation]) -> BatchResult:
        """All operations or none: a result with status 207 has changed nothing."""
        transaction = self._transaction(container, key)
        result = perform(transaction, operations)
        if result.status == 200:  # noqa: PLR2004 - 207 is a batch that failed
            self._commit(transaction)
        return result

    def _transaction(self, container: Container, key: Key) -> Transaction:
        now_s = self._clock.now_s()
        self._expiry.sweep(container, now_s)
        partition = container.partition_or_new(container.definition.complete(key))
        return Transaction(container, partition, now_s, predicate)

    def _commit(self, transaction: Transaction) -> None:
        self._journal.commit(transaction.changes())
        transaction.take_over()

    # --- reading many ---

    def query(self, container: Container, spec: QuerySpec, place: Place, *, page_items: int, resume: Resume) -> Page:
        """A page of a query.

        Raises:
            CosmosError: 400 for a query that cannot be served; 400/1004 where the client must fetch a plan first.
        """
        now_s = self._clock.now_s()
        self._expiry.sweep(container, now_s)
        scope = self._scope(container, place)
        return self._queries.run(
            container, spec.text, spec.parameters, scope=scope, page_items=page_items, resume=resume, now_s=now_s
        )

    def feed(self, container: Container, place: Place, *, page_items: int, resume: Resume) -> Page:
        """A page of all items."""
        return self.query(container, QuerySpec(SCAN_TEXT, {}), place, page_items=page_items, resume=resume)

    def change_feed(
        self, container: Container, place: Place, *, page_items: int, start: Callable[[Range], FeedStart]
    ) -> tuple[Range, FeedPage]:
        """A page of changes of the physical partition that `place` names or lies in."""
        scope = self._scope(container, place)
        index = scope.range_index
        if index is None:
            epk = container.definition.epk(scope.key) if scope.key is not None else scope.low
            index = container.range_for(epk).index
        partition_range = container.ranges[index]
        now_s = self._clock.now_s()
        page = read_feed(
            container, partition_range, start(partition_range), page_items=page_items, now_s=now_s, key=scope.key,
            low=scope.low, high=scope.high,
        )  # fmt: skip
        return partition_range, page

    def query_plan(self, spec: QuerySpec) -> dict[str, Any]:
        """What a client needs to run a query over all physical partitions."""
        return plan(parse(spec.text), spec.parameters)

    def check_servable(self, container: Container, spec: QuerySpec, place: Place, *, enabled: bool) -> None:
        """Raise where a query over several partitions was not asked for as one, or needs the client's help.

        Raises:
            CosmosError: 400, with sub-status 1004 where the client has to fetch the query plan.
        """
        query = parse(spec.text)
        if place.key is not None or place.range_id is not None:
            return
        scope = self._scope(container, place)
        if QueryRunner.names_one_key(container, query, spec.parameters, scope):
            return
        if not enabled:
            raise bad_request(
                "Cross partition query is required but disabled. Please set"
                " x-ms-documentdb-query-enablecrosspartition to true, specify x-ms-documentdb-partitionkey, or"
                " revise your query to avoid this exception."
            )
        if needs_plan(query):
            first_chance = bad_request(
                "The provided cross partition query can not be directly served by the gateway. This is a first"
                " chance (internal) exception that all newer clients will know how to handle gracefully.",
                SUB_CROSS_PARTITION_NOT_SERVABLE,
            )
            first_chance.additional = encode(plan(query, spec.parameters)).decode()
            raise first_chance

    @staticmethod
    def _scope(container: Container, place: Place) -> Scope:
        index = None
        if place.range_id is not None:
            index = range_by_id(container, place.range_id).index
        low, high = (place.low or MIN).upper(), (place.high or MAX).upper()
        if place.key is not None and len(place.key) > len(container.definition.paths):
            raise bad_request("The partition key has more components than the container's definition.")
        if place.key is not None and len(place.key) < len(container.definition.paths):
            prefix = container.definition.epk(place.key)
            low, high = max(low, prefix), min(high, prefix + MAX)
            return Scope(None, index, low, high)
        return Scope(place.key, index, low, high)

    # --- sessions ---

    @contextmanager
    def behind(self, container: Container, transactions: int, token: str | None) -> Iterator[None]:
        """Read from a replica that is so many transactions behind, but has all that the session token tells of."""
        self._expiry.sweep(container, self._clock.now_s())
        with rewound(container, transactions, _seen(token) if token else {}):
            yield

    def check_session(self, partition_range: Range, token: str) -> None:
        """Raise 404/1002 where the client has seen more than this partition has; 400 where the token is malformed.

        Guarantee: log sequence numbers survive a restart, so a token from before it is honoured after it.
        """
        if _seen(token).get(partition_range.id, 0) > partition_range.lsn:
            raise CosmosError(
                404,
                "The read session is not available for the input session token.",
                sub_status=SUB_READ_SESSION_NOT_AVAILABLE,
            )


def _seen(token: str) -> dict[str, int]:
    """What a session token such as `0:-1#12,1:-1#5` has seen: log sequence numbers by physical partition."""
    seen = {}
    for part in token.split(","):
        found = _SESSION_PART.fullmatch(part)
        if found is None:
            raise bad_request(f"The session token '{token[:100]}' is not valid.")
        seen[found["range"]] = int(found["lsn"])
    return seen


def range_by_id(container: Container, range_id: str) -> Range:
    """A physical partition.

    Raises:
        CosmosError: 410/1002 where there is none of that id, which makes clients fetch the ranges anew.
    """
    for partition_range in container.ranges:
        if partition_range.id == range_id:
            return partition_range
    raise CosmosError(
        410, "The requested resource is no longer available at the server.", sub_status=SUB_PARTITION_KEY_RANGE_GONE
    )

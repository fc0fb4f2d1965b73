"""An engine of the embedded Cosmos DB with one container, and short words for what tests do with it."""

from collections.abc import Sequence
from typing import Any

import msgspec

from emulator.clock import ManualClock
from emulator.cosmos.batch import BatchResult
from emulator.cosmos.continuation import START, from_token, to_token
from emulator.cosmos.engine import CosmosEngine, Place, QuerySpec
from emulator.cosmos.resources import Container
from emulator.cosmos.throughput import Throughput
from emulator.cosmos.transaction import Operation, Outcome
from emulator.journal import Journal, MemoryJournal

BROOK = "orders|1"


def encoded(document: Any) -> bytes:
    """JSON text."""
    return msgspec.json.encode(document)


class Bench:
    """One engine, one database `d`, one container `c` with partition key `/pk`."""

    def __init__(
        self,
        journal: Journal | None = None,
        *,
        partition_key: dict[str, Any] | None = None,
        throughput: int | None = None,
        **properties: Any,
    ) -> None:
        self.clock = ManualClock()
        self.journal = journal or MemoryJournal()
        self.engine = CosmosEngine(clock=self.clock, journal=self.journal)
        if "d" not in self.engine.account.databases:
            self.engine.account.create_database({"id": "d"}, Throughput())
            key = partition_key or {"paths": ["/pk"], "kind": "Hash", "version": 2}
            self.engine.account.create_container(
                "d", {"id": "c", "partitionKey": key, **properties}, Throughput(manual=throughput)
            )

    @property
    def container(self) -> Container:
        return self.engine.account.container("d", "c")

    def do(self, kind: str, document: Any = None, *, pk: Any = BROOK, id: str | None = None, **more: Any) -> Outcome:  # noqa: A002
        """One point operation."""
        key = pk if isinstance(pk, tuple) else (pk,)
        body = None if document is None else encoded(document)
        return self.engine.execute(self.container, key, Operation(kind, id, body, **more))

    def create(self, item_id: str, *, pk: Any = BROOK, **more: Any) -> Outcome:
        return self.do("create", {"id": item_id, "pk": pk, **more}, pk=pk)

    def read(self, item_id: str, *, pk: Any = BROOK) -> dict[str, Any]:
        document: dict[str, Any] = msgspec.json.decode(self.do("read", id=item_id, pk=pk).body or b"")
        return document

    def batch(self, operations: Sequence[Operation], *, pk: str = BROOK) -> BatchResult:
        return self.engine.batch(self.container, (pk,), list(operations))

    def pages(
        self, text: str, *, place: Place | None = None, page_items: int = 1000, **parameters: Any
    ) -> list[list[Any]]:
        """All pages of a query; every continuation goes through its token."""
        spec = QuerySpec(text, {f"@{name}": value for name, value in parameters.items()})
        resume = START
        found = []
        while True:
            page = self.engine.query(
                self.container, spec, place or Place(key=(BROOK,)), page_items=page_items, resume=resume
            )
            found.append([msgspec.json.decode(row) for row in page.rows])
            if page.resume is None:
                return found
            resume = from_token(to_token(page.resume))

    def query(self, text: str, *, place: Place | None = None, page_items: int = 1000, **parameters: Any) -> list[Any]:
        """All rows of a query."""
        return [row for page in self.pages(text, place=place, page_items=page_items, **parameters) for row in page]


EVERYWHERE = Place()

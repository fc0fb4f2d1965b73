"""Changes of one logical partition: staged, checked against each other, and taken over all at once or not at all.

Point operations and transactional batches are the same thing here: a transaction with one operation or with many.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from emulator.cosmos import charges
from emulator.cosmos.errors import (
    SUB_PARTITION_KEY_MISMATCH,
    bad_request,
    conflict,
    not_found,
    precondition_failed,
    too_large,
)
from emulator.cosmos.items import SYSTEM_PROPERTIES, Item, Partition
from emulator.cosmos.patch import apply_patch, parse_request
from emulator.cosmos.resources import TTL_S_MAX, Container, Range, check_id, check_ttl, rid
from emulator.cosmos.values import encode, is_number, parse_object
from emulator.journal import Change

ITEM_BYTES_MAX: Final = 2 * 1024 * 1024
"""2 MB, the UTF-8 length of the JSON text: https://learn.microsoft.com/azure/cosmos-db/concepts-limits."""

ITEMS_SPACE: Final = "cosmos-items"
LSN_SPACE: Final = "cosmos-lsn"


class Operation(msgspec.Struct, frozen=True):
    """One operation on one item.

    `kind` is create, read, replace, upsert, delete or patch; `id` names the item but for create and upsert; `body`
    is JSON text where the kind has one.
    """

    kind: str
    id: str | None = None
    body: bytes | None = None
    if_match: str | None = None
    if_none_match: str | None = None


class Outcome(msgspec.Struct, frozen=True):
    """What an operation answers. `body` is the item as JSON, None where there is none."""

    status: int
    charge: float
    etag: str | None = None
    body: bytes | None = None


class StoredItem(msgspec.Struct, frozen=True, array_like=True):
    """A row of the journal: the item's place and its encoded body."""

    container: int
    range_index: int
    number: int
    lsn: int
    body: bytes


class StoredRange(msgspec.Struct, frozen=True, array_like=True):
    """A row of the journal: how far a physical partition has come."""

    lsn: int
    next_number: int


_row = msgspec.msgpack.Encoder()

Predicate = Callable[[dict[str, Any]], bool]


class Transaction:
    """Stages operations; `commit` hands out what to journal and then takes the changes over."""

    def __init__(
        self, container: Container, partition: Partition, now_s: float, predicate: Callable[[str], Predicate]
    ) -> None:
        self._container = container
        self._partition = partition
        self._now_s = now_s
        self._predicate = predicate
        self._range = container.ranges[partition.range_index]
        self._lsn = self._range.lsn + 1
        self._next_number = self._range.next_number
        self._staged: dict[str, tuple[Item, dict[str, Any]] | None] = {}
        self._unique: dict[tuple[int, bytes], str | None] = {}
        self._writes = 0

    def perform(self, operation: Operation) -> Outcome:
        """Stage one operation.

        Raises:
            CosmosError: what the service answers; the transaction must then be thrown away.
        """
        match operation.kind:
            case "create":
                return self._create(self._incoming(operation))
            case "upsert":
                return self._upsert(operation)
            case "replace":
                return self._replace(operation)
            case "patch":
                return self._patch(operation)
            case "delete":
                return self._delete(operation)
            case "read":
                return self._read(operation)
            case _:
                raise bad_request(f"The operation type '{operation.kind}' is not valid.")

    def get(self, item_id: str) -> Item | None:
        """The item as this transaction sees it, expired ones left out."""
        if item_id in self._staged:
            staged = self._staged[item_id]
            return staged[0] if staged else None
        item = self._partition.items.get(item_id)
        if item is None or not self._container.is_alive(item, self._now_s):
            return None
        return item

    def changes(self) -> list[Change]:
        """The rows to journal before `take_over`; empty where nothing was written."""
        if not self._staged:
            return []
        rows = []
        for item_id, staged in self._staged.items():
            old = self._partition.items.get(item_id)
            if old is not None and (staged is None or staged[0].rid != old.rid):
                rows.append(Change(ITEMS_SPACE, self._row_key(old.number), None))
            if staged is not None:
                item = staged[0]
                stored = StoredItem(self._container.number, self._range.index, item.number, item.lsn, item.body)
                rows.append(Change(ITEMS_SPACE, self._row_key(item.number), _row.encode(stored)))
        rows.append(progress_row(self._container, self._range, self._lsn, self._next_number))
        return rows

    def take_over(self) -> None:
        """Make the staged changes the state of the container. Cannot fail."""
        if not self._staged:
            return
        partition, container = self._partition, self._container
        self._range.lsn = self._lsn
        self._range.next_number = self._next_number
        container.attach(partition)
        for item_id, staged in self._staged.items():
            old = partition.items.get(item_id)
            if old is not None and (staged is None or staged[0].number != old.number):
                partition.remove(item_id)
            if staged is not None:
                item, document = staged
                partition.put(item, document, container.unique_values(document))
                self._range.record(partition, old, item)
            else:
                self._range.record(partition, old, None)
        container.detach_if_empty(partition)

    def _row_key(self, number: int) -> str:
        return f"{self._container.number:08x}/{self._range.index:02x}/{number:014x}"

    def _incoming(self, operation: Operation) -> dict[str, Any]:
        """The document of a write: a JSON object that belongs to this partition."""
        if operation.body is None:
            raise bad_request("The operation needs a body.")
        if len(operation.body) > ITEM_BYTES_MAX:
            raise too_large()
        document = parse_object(operation.body)
        check_id(document.get("id"))
        self._check_key(document)
        return document

    def _check_key(self, document: dict[str, Any]) -> None:
        if self._container.definition.extract(document) != self._partition.key:
            raise bad_request(
                "PartitionKey extracted from document doesn't match the one specified in the header.",
                SUB_PARTITION_KEY_MISMATCH,
            )

    def _existing(self, operation: Operation) -> Item:
        item = self.get(check_id(operation.id))
        if item is None:
            raise not_found()
        return item

    def _create(self, document: dict[str, Any]) -> Outcome:
        if self.get(document["id"]) is not None:
            raise conflict()
        return self._stage(document, None, 201)

    def _upsert(self, operation: Operation) -> Outcome:
        document = self._incoming(operation)
        existing = self.get(document["id"])
        if existing is None:
            return self._stage(document, None, 201)  # If-Match does not apply to what is not there
        _check_write(operation, existing)
        return self._stage(document, existing, 200)

    def _replace(self, operation: Operation) -> Outcome:
        document = self._incoming(operation)
        existing = self._existing(operation)
        if document["id"] != existing.id:
            raise bad_request("The id of the document differs from the id that the request addresses.")
        _check_write(operation, existing)
        return self._stage(document, existing, 200)

    def _patch(self, operation: Operation) -> Outcome:
        operations, condition = parse_request(operation.body or b"")
        existing = self._existing(operation)
        _check_write(operation, existing)
        document = existing.document()
        if condition is not None:
            if type(condition) is not str:
                raise bad_request("The patch's 'condition' must be text such as 'from c where c.n = 1'.")
            if not self._predicate(condition)(document):
                raise precondition_failed()
        apply_patch(document, operations)
        if self._container.definition.extract(document) != self._partition.key:
            raise bad_request("A patch cannot change the partition key.", SUB_PARTITION_KEY_MISMATCH)
        return self._stage(document, existing, 200)

    def _delete(self, operation: Operation) -> Outcome:
        existing = self._existing(operation)
        _check_write(operation, existing)
        self._claim_unique(existing.id, ())
        self._staged[existing.id] = None
        self._writes += 1
        return Outcome(204, charges.write(len(existing.body), self._indexed(existing)))

    def _read(self, operation: Operation) -> Outcome:
        item = self._existing(operation)
        if operation.if_none_match in ("*", item.etag):
            return Outcome(304, charges.MISS, item.etag)
        return Outcome(200, charges.read(len(item.body)), item.etag, item.body)

    def _indexed(self, item: Item) -> int:
        policy = self._container.indexing
        return policy.count({} if policy.everything else item.document(), item.body)

    def _stage(self, document: dict[str, Any], existing: Item | None, status: int) -> Outcome:
        """Stage a new version of a document, with its system properties."""
        for name in SYSTEM_PROPERTIES:
            document.pop(name, None)
        ttl_s = self._ttl_s(document)
        if self._container.unique_keys:
            self._claim_unique(document["id"], self._container.unique_values(document))
        if existing is None:
            number = self._next_number
            self._next_number += 1
            self._staged.pop(document["id"], None)  # deleted before: what is new goes behind what is older
            place = (self._range.index << 56) | number
            item_rid = rid((self._container.database_number, 4), (self._container.number, 4), (place, 8))
        else:
            number, item_rid = existing.number, existing.rid
        etag = self._etag()
        document["_rid"] = item_rid
        document["_self"] = f"{self._container.self_link}docs/{item_rid}/"
        document["_etag"] = etag
        document["_attachments"] = "attachments/"
        document["_ts"] = int(self._now_s)
        body = encode(document)
        if len(body) > ITEM_BYTES_MAX:
            raise too_large()
        item = Item(
            id=document["id"], rid=item_rid, number=number, etag=etag, lsn=self._lsn, ts=int(self._now_s),
            ttl_s=ttl_s, body=body,
        )  # fmt: skip
        self._staged[item.id] = (item, document)
        self._writes += 1
        indexed = self._container.indexing.count(document, body)
        cost = charges.write if existing is None else charges.replace
        return Outcome(status, cost(len(body), indexed), etag, body)

    def _ttl_s(self, document: dict[str, Any]) -> int | None:
        ttl = document.get("ttl")
        if self._container.default_ttl_s is not None:
            if "ttl" in document and ttl is None:
                raise bad_request("The input ttl 'null' is invalid: leave it out to use the container's.")
            return check_ttl(ttl, "ttl")
        return ttl if is_number(ttl) and type(ttl) is int and -1 <= ttl <= TTL_S_MAX and ttl != 0 else None

    def _etag(self) -> str:
        """Never the same twice in an account: place in the log, operation, container and time are all in it."""
        return (
            f'"{self._lsn & 0xFFFFFFFF:08x}-{(self._lsn >> 32) & 0xFFFF:04x}-{self._writes:04x}'
            f'-{self._range.index:02x}00-{self._container.number & 0xFFFF:04x}{int(self._now_s) & 0xFFFFFFFF:08x}"'
        )

    def _claim_unique(self, item_id: str, values: tuple[bytes, ...]) -> None:
        """Give up the unique keys that the item holds now, and take `values`."""
        if item_id in self._staged:
            staged = self._staged[item_id]
            held = self._container.unique_values(staged[1]) if staged else ()
        else:
            held = self._partition.unique_of(item_id)
        for place in enumerate(held):
            self._unique[place] = None
        for place in enumerate(values):
            owner = self._unique[place] if place in self._unique else self._partition.unique_owner(*place)
            if owner is not None and owner != item_id and self.get(owner) is not None:
                raise conflict("Unique index constraint violation.")
            self._unique[place] = item_id


def progress_row(container: Container, partition_range: Range, lsn: int, next_number: int) -> Change:
    """The row that says how far a physical partition has come."""
    key = f"{container.number}/{partition_range.index}"
    return Change(LSN_SPACE, key, _row.encode(StoredRange(lsn, next_number)))


def _check_write(operation: Operation, existing: Item) -> None:
    """Raise 412 where the preconditions of a write do not hold for the item that is there."""
    if operation.if_match is not None and operation.if_match not in ("*", existing.etag):
        raise precondition_failed()
    if operation.if_none_match is not None and operation.if_none_match in ("*", existing.etag):
        raise precondition_failed()

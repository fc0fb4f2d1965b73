"""The rows that keep an account in the journal, and how they become an account again."""

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from emulator.cosmos.items import Item
from emulator.cosmos.resources import (
    Container,
    Database,
    Offer,
)
from emulator.cosmos.transaction import ITEMS_SPACE, LSN_SPACE, StoredItem, StoredRange
from emulator.cosmos.values import decode_stored
from emulator.journal import Change, Journal

DATABASES_SPACE: Final = "cosmos-databases"
CONTAINERS_SPACE: Final = "cosmos-containers"
OFFERS_SPACE: Final = "cosmos-offers"
COUNTERS_SPACE: Final = "cosmos-counters"


class StoredDatabase(msgspec.Struct, frozen=True):
    """A row of a database."""

    number: int
    properties: dict[str, Any]


class StoredContainer(msgspec.Struct, frozen=True):
    """A row of a container."""

    number: int
    database_number: int
    ranges: int
    properties: dict[str, Any]


def database_row(stored: StoredDatabase) -> Change:
    """The row of a database."""
    return Change(DATABASES_SPACE, f"{stored.number:08x}", msgspec.msgpack.encode(stored))


def database_removal(database: Database) -> Change:
    """The removal of a database's row."""
    return Change(DATABASES_SPACE, f"{database.number:08x}", None)


def container_row(stored: StoredContainer) -> Change:
    """The row of a container."""
    return Change(CONTAINERS_SPACE, f"{stored.number:08x}", msgspec.msgpack.encode(stored))


def offer_row(offer: Offer) -> Change:
    """The row of an offer."""
    return Change(OFFERS_SPACE, f"{offer.number:08x}", msgspec.msgpack.encode(offer))


def offer_removal(offer: Offer) -> Change:
    """The removal of an offer's row."""
    return Change(OFFERS_SPACE, f"{offer.number:08x}", None)


def counter_row(number: int) -> Change:
    """The row that keeps numbers, and with them resource ids and ETags, from being used again after a restart."""
    return Change(COUNTERS_SPACE, "number", msgspec.msgpack.encode(number))


def container_removals(container: Container) -> list[Change]:
    """The removal of every row of a container."""
    rows = [Change(CONTAINERS_SPACE, f"{container.number:08x}", None)]
    rows += [
        Change(LSN_SPACE, f"{container.number}/{partition_range.index}", None) for partition_range in container.ranges
    ]
    for partition in container.partitions.values():
        rows += [
            Change(ITEMS_SPACE, f"{container.number:08x}/{partition.range_index:02x}/{item.number:014x}", None)
            for item in partition.items.values()
        ]
    return rows


class Loaded(msgspec.Struct):
    """An account as it was: databases by id, offers by what they belong to, the last number used."""

    databases: dict[str, Database]
    offers: dict[str, Offer]
    number: int


def load_account(journal: Journal) -> Loaded:
    """Read everything back. Rows come in the order of their keys, so items in the order of their making."""
    number = 0
    databases: dict[str, Database] = {}
    offers: dict[str, Offer] = {}
    for _, row in journal.load(COUNTERS_SPACE):
        number = msgspec.msgpack.decode(row, type=int)
    by_number: dict[int, Database] = {}
    for _, row in journal.load(DATABASES_SPACE):
        stored = msgspec.msgpack.decode(row, type=StoredDatabase)
        database = by_number[stored.number] = Database(stored.number, stored.properties)
        databases[database.id] = database
    containers: dict[int, Container] = {}
    for _, row in journal.load(CONTAINERS_SPACE):
        kept = msgspec.msgpack.decode(row, type=StoredContainer)
        container = containers[kept.number] = Container(
            number=kept.number, database_number=kept.database_number, properties=kept.properties,
            ranges=kept.ranges,
        )  # fmt: skip
        by_number[kept.database_number].containers[container.id] = container
    for _, row in journal.load(OFFERS_SPACE):
        offer = msgspec.msgpack.decode(row, type=Offer)
        offers[offer.resource_self] = offer
    for key, row in journal.load(LSN_SPACE):
        container_number, _, index = key.partition("/")
        progress = msgspec.msgpack.decode(row, type=StoredRange)
        partition_range = containers[int(container_number)].ranges[int(index)]
        partition_range.lsn, partition_range.next_number = progress.lsn, progress.next_number
        partition_range.history.forgotten_lsn = progress.lsn
    for stored_item in _stored_items(journal):
        _restore(containers[stored_item.container], stored_item)
    return Loaded(databases, offers, number)


def _stored_items(journal: Journal) -> Iterator[StoredItem]:
    decoder = msgspec.msgpack.Decoder(StoredItem)
    for _, row in journal.load(ITEMS_SPACE):
        yield decoder.decode(row)


def _restore(container: Container, stored: StoredItem) -> None:
    document = decode_stored(stored.body)
    ttl = document.get("ttl")
    item = Item(
        id=document["id"], rid=document["_rid"], number=stored.number, etag=document["_etag"], lsn=stored.lsn,
        ts=document["_ts"], ttl_s=ttl if type(ttl) is int and ttl >= -1 and ttl != 0 else None, body=stored.body,
    )  # fmt: skip
    partition = container.partition_or_new(container.definition.extract(document))
    container.attach(partition)
    partition.put(item, document, container.unique_values(document))

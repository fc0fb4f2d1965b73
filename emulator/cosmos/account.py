"""The account: databases, containers and offers, and how all of it comes back from the journal."""

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from emulator.clock import Clock
from emulator.cosmos.errors import bad_request, conflict, not_found, owner_not_found, precondition_failed
from emulator.cosmos.items import Item
from emulator.cosmos.resources import (
    RANGE_THROUGHPUT,
    RANGES_MAX,
    THROUGHPUT_DEFAULT,
    Container,
    Database,
    Offer,
    check_name,
    container_properties,
    rid,
)
from emulator.cosmos.transaction import ITEMS_SPACE, LSN_SPACE, StoredItem, StoredRange
from emulator.cosmos.values import decode_stored
from emulator.journal import Change, Journal

DATABASES_SPACE: Final = "cosmos-databases"
CONTAINERS_SPACE: Final = "cosmos-containers"
OFFERS_SPACE: Final = "cosmos-offers"
COUNTERS_SPACE: Final = "cosmos-counters"

CONTAINERS_MAX: Final = 500
DATABASES_MAX: Final = 500
"""https://learn.microsoft.com/azure/cosmos-db/concepts-limits: 500 databases and containers an account."""

THROUGHPUT_MIN: Final = 400
THROUGHPUT_MAX: Final = RANGE_THROUGHPUT * RANGES_MAX
AUTOSCALE_MIN: Final = 1000


class _StoredDatabase(msgspec.Struct, frozen=True):
    number: int
    properties: dict[str, Any]


class _StoredContainer(msgspec.Struct, frozen=True):
    number: int
    database_number: int
    ranges: int
    properties: dict[str, Any]


class Throughput(msgspec.Struct, frozen=True):
    """What a create asks for: manual RU/s, or the most that autoscale may use."""

    manual: int | None = None
    autoscale_max: int | None = None

    def checked(self) -> "Throughput":
        """This.

        Raises:
            CosmosError: 400 for both at once, and for numbers outside of the limits.
        """
        if self.manual is not None and self.autoscale_max is not None:
            raise bad_request("Manual throughput and autoscale cannot be set together.")
        for value, least, step in ((self.manual, THROUGHPUT_MIN, 100), (self.autoscale_max, AUTOSCALE_MIN, 1000)):
            if value is not None and (not least <= value <= THROUGHPUT_MAX or value % step):
                raise bad_request(
                    f"The throughput {value} is not valid: from {least} to {THROUGHPUT_MAX} RU/s in steps of {step}."
                )
        return self


class Account:
    """Databases by id. Every change is in the journal before it is in memory."""

    def __init__(self, clock: Clock, journal: Journal) -> None:
        self._clock = clock
        self._journal = journal
        self.databases: dict[str, Database] = {}
        self.offers: dict[str, Offer] = {}
        """By the self link of what they belong to."""
        self._number = 0
        self._load()

    # --- databases ---

    def create_database(self, body: dict[str, Any], throughput: Throughput) -> Database:
        """A new database, with shared throughput where asked for.

        Raises:
            CosmosError: 409 where the id is taken, 400 where it is not valid.
        """
        name = check_name(body.get("id"))
        throughput.checked()
        if name in self.databases:
            raise conflict()
        if len(self.databases) >= DATABASES_MAX:
            raise bad_request(f"The account holds {DATABASES_MAX} databases already.")
        number = self._next_number()
        database_rid = rid((number, 4))
        properties = {
            "id": name,
            "_rid": database_rid,
            "_self": f"dbs/{database_rid}/",
            "_etag": self._etag(number),
            "_colls": "colls/",
            "_users": "users/",
            "_ts": int(self._clock.now_s()),
        }
        changes = [
            self._counter_row(),
            Change(DATABASES_SPACE, f"{number:08x}", _encode(_StoredDatabase(number, properties))),
        ]
        offer = None
        if throughput.manual is not None or throughput.autoscale_max is not None:
            offer = self._new_offer(properties, throughput)
            changes.append(_offer_row(offer))
        self._journal.commit(changes)
        database = self.databases[name] = Database(number, properties)
        if offer is not None:
            self.offers[offer.resource_self] = offer
        return database

    def database(self, name: str, *, owner: bool = False) -> Database:
        """A database by id or resource id.

        Raises:
            CosmosError: 404, with sub-status 1003 where it was needed as the owner of something.
        """
        database = self.databases.get(name)
        if database is None:
            database = next((found for found in self.databases.values() if found.rid == name), None)
        if database is None:
            raise owner_not_found(f"database '{name}'") if owner else not_found()
        return database

    def delete_database(self, name: str, if_match: str | None) -> None:
        """Delete a database with everything in it."""
        database = self.database(name)
        _check_etag(database.properties, if_match)
        changes = [Change(DATABASES_SPACE, f"{database.number:08x}", None)]
        links = [database.self_link]
        for container in database.containers.values():
            changes += self._container_rows(container)
            links.append(container.self_link)
        self._journal.commit([*changes, *self._offer_removals(links)])
        del self.databases[database.id]
        for link in links:
            self.offers.pop(link, None)

    # --- containers ---

    def create_container(self, database_name: str, body: dict[str, Any], throughput: Throughput) -> Container:
        """A new container; the throughput decides how many physical partitions it has.

        Raises:
            CosmosError: 409 where the id is taken, 400 where a property is not valid.
        """
        database = self.database(database_name, owner=True)
        properties = container_properties(body)
        throughput.checked()
        if properties["id"] in database.containers:
            raise conflict()
        if sum(len(found.containers) for found in self.databases.values()) >= CONTAINERS_MAX:
            raise bad_request(f"The account holds {CONTAINERS_MAX} containers already.")
        number = self._next_number()
        container_rid = rid((database.number, 4), (number, 4))
        properties |= {
            "_rid": container_rid,
            "_self": f"{database.self_link}colls/{container_rid}/",
            "_etag": self._etag(number),
            "_ts": int(self._clock.now_s()),
            "_docs": "docs/",
            "_sprocs": "sprocs/",
            "_triggers": "triggers/",
            "_udfs": "udfs/",
            "_conflicts": "conflicts/",
        }
        shared = database.self_link in self.offers
        most = throughput.manual or throughput.autoscale_max or THROUGHPUT_DEFAULT
        ranges = max(1, -(-most // RANGE_THROUGHPUT))
        container = Container(number=number, database_number=database.number, properties=properties, ranges=ranges)
        stored = _StoredContainer(number, database.number, ranges, properties)
        changes = [self._counter_row(), Change(CONTAINERS_SPACE, f"{number:08x}", _encode(stored))]
        offer = None
        if not shared or throughput.manual is not None or throughput.autoscale_max is not None:
            offer = self._new_offer(properties, throughput)
            changes.append(_offer_row(offer))
        self._journal.commit(changes)
        database.containers[container.id] = container
        if offer is not None:
            self.offers[offer.resource_self] = offer
        return container

    def container(self, database_name: str, name: str, *, owner: bool = False) -> Container:
        """A container by id or resource id.

        Raises:
            CosmosError: 404, with sub-status 1003 where it was needed as the owner of something.
        """
        database = self.database(database_name, owner=True)
        container = database.containers.get(name)
        if container is None:
            container = next((found for found in database.containers.values() if found.rid == name), None)
        if container is None:
            raise owner_not_found(f"container '{name}'") if owner else not_found()
        return container

    def replace_container(self, database_name: str, name: str, body: dict[str, Any], if_match: str | None) -> Container:
        """Take over new properties; id, partition key and unique keys cannot change.

        Raises:
            CosmosError: 400 where one of those differs, 412 where If-Match does not hold.
        """
        container = self.container(database_name, name)
        _check_etag(container.properties, if_match)
        properties = container_properties(body)
        old = container.properties
        if properties["id"] != container.id:
            raise bad_request("The id of a container cannot be changed.")
        if properties["partitionKey"] != old["partitionKey"]:
            raise bad_request("Document collection partition key cannot be changed.")
        if properties.get("uniqueKeyPolicy", old.get("uniqueKeyPolicy")) != old.get("uniqueKeyPolicy"):
            raise bad_request("The unique keys of a container cannot be changed.")
        if "uniqueKeyPolicy" in old:
            properties["uniqueKeyPolicy"] = old["uniqueKeyPolicy"]
        number = self._next_number()
        system = {member: value for member, value in old.items() if member.startswith("_")}
        properties |= system | {"_etag": self._etag(number), "_ts": int(self._clock.now_s())}
        stored = _StoredContainer(container.number, container.database_number, len(container.ranges), properties)
        self._journal.commit(
            [self._counter_row(), Change(CONTAINERS_SPACE, f"{container.number:08x}", _encode(stored))]
        )
        container.adopt(properties)
        return container

    def delete_container(self, database_name: str, name: str, if_match: str | None) -> None:
        """Delete a container with all of its items."""
        container = self.container(database_name, name)
        _check_etag(container.properties, if_match)
        removals = self._offer_removals([container.self_link])
        self._journal.commit([*self._container_rows(container), *removals])
        del self.database(database_name).containers[container.id]
        self.offers.pop(container.self_link, None)

    # --- offers ---

    def offer(self, offer_rid: str) -> Offer:
        """An offer by resource id."""
        for offer in self.offers.values():
            if offer.document()["_rid"] == offer_rid:
                return offer
        raise not_found()

    def replace_offer(self, offer_rid: str, body: dict[str, Any]) -> Offer:
        """Change the throughput. The number of physical partitions stays: the emulator does not split.

        Raises:
            CosmosError: 400 for throughput outside of the limits.
        """
        offer = self.offer(offer_rid)
        content = body.get("content")
        if type(content) is not dict:
            raise bad_request("The offer's 'content' is missing.")
        settings = content.get("offerAutopilotSettings")
        if type(settings) is dict:
            throughput = Throughput(autoscale_max=_whole(settings.get("maxThroughput"))).checked()
        else:
            throughput = Throughput(manual=_whole(content.get("offerThroughput"))).checked()
        number = self._next_number()
        changed = msgspec.structs.replace(
            offer,
            throughput=throughput.manual or (throughput.autoscale_max or 0) // 10,
            autoscale_max=throughput.autoscale_max,
            etag=self._etag(number),
            ts=int(self._clock.now_s()),
        )
        self._journal.commit([self._counter_row(), _offer_row(changed)])
        self.offers[changed.resource_self] = changed
        return changed

    # --- details ---

    def _next_number(self) -> int:
        self._number += 1
        return self._number

    def _etag(self, number: int) -> str:
        return f'"{number:08x}-0000-0000-0000-{int(self._clock.now_s()):012x}"'

    def _counter_row(self) -> Change:
        """So that numbers, and with them resource ids and ETags, are never used again after a restart."""
        return Change(COUNTERS_SPACE, "number", msgspec.msgpack.encode(self._number))

    def _new_offer(self, properties: dict[str, Any], throughput: Throughput) -> Offer:
        autoscale_max = throughput.autoscale_max
        current = throughput.manual or (autoscale_max // 10 if autoscale_max else THROUGHPUT_DEFAULT)
        number = self._next_number()
        return Offer(
            number=number, resource_self=properties["_self"], resource_rid=properties["_rid"], throughput=current,
            autoscale_max=autoscale_max, etag=self._etag(number), ts=int(self._clock.now_s()),
        )  # fmt: skip

    def _offer_removals(self, links: list[str]) -> list[Change]:
        found = [self.offers[link] for link in links if link in self.offers]
        return [Change(OFFERS_SPACE, f"{offer.number:08x}", None) for offer in found]

    @staticmethod
    def _container_rows(container: Container) -> list[Change]:
        """The removal of every row of a container."""
        rows = [Change(CONTAINERS_SPACE, f"{container.number:08x}", None)]
        rows += [
            Change(LSN_SPACE, f"{container.number}/{partition_range.index}", None)
            for partition_range in container.ranges
        ]
        for partition in container.partitions.values():
            rows += [
                Change(ITEMS_SPACE, f"{container.number:08x}/{partition.range_index:02x}/{item.number:014x}", None)
                for item in partition.items.values()
            ]
        return rows

    def _load(self) -> None:
        """Read everything back. Rows are in the order of their keys, so items come in the order of their making."""
        for _, row in self._journal.load(COUNTERS_SPACE):
            self._number = msgspec.msgpack.decode(row, type=int)
        by_number: dict[int, Database] = {}
        for _, row in self._journal.load(DATABASES_SPACE):
            stored = msgspec.msgpack.decode(row, type=_StoredDatabase)
            database = by_number[stored.number] = Database(stored.number, stored.properties)
            self.databases[database.id] = database
        containers: dict[int, Container] = {}
        for _, row in self._journal.load(CONTAINERS_SPACE):
            kept = msgspec.msgpack.decode(row, type=_StoredContainer)
            container = containers[kept.number] = Container(
                number=kept.number, database_number=kept.database_number, properties=kept.properties,
                ranges=kept.ranges,
            )  # fmt: skip
            by_number[kept.database_number].containers[container.id] = container
        for _, row in self._journal.load(OFFERS_SPACE):
            offer = msgspec.msgpack.decode(row, type=Offer)
            self.offers[offer.resource_self] = offer
        for key, row in self._journal.load(LSN_SPACE):
            container_number, _, index = key.partition("/")
            progress = msgspec.msgpack.decode(row, type=StoredRange)
            partition_range = containers[int(container_number)].ranges[int(index)]
            partition_range.lsn, partition_range.next_number = progress.lsn, progress.next_number
        for stored_item in self._stored_items():
            _restore(containers[stored_item.container], stored_item)

    def _stored_items(self) -> Iterator[StoredItem]:
        decoder = msgspec.msgpack.Decoder(StoredItem)
        for _, row in self._journal.load(ITEMS_SPACE):
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


def _whole(value: Any) -> int:
    """A throughput out of a body; 0, which no check lets pass, for anything but a whole number."""
    return int(value) if type(value) is int else 0


def _encode(value: msgspec.Struct) -> bytes:
    return msgspec.msgpack.encode(value)


def _offer_row(offer: Offer) -> Change:
    return Change(OFFERS_SPACE, f"{offer.number:08x}", _encode(offer))


def _check_etag(properties: dict[str, Any], if_match: str | None) -> None:
    if if_match is not None and if_match not in ("*", properties["_etag"]):
        raise precondition_failed()

"""The account: databases, containers and offers, and how all of it comes back from the journal."""

from typing import Any, Final

import msgspec

from emulator.clock import Clock
from emulator.cosmos.errors import bad_request, conflict, not_found, owner_not_found, precondition_failed
from emulator.cosmos.resources import (
    RANGE_THROUGHPUT,
    THROUGHPUT_DEFAULT,
    Container,
    Database,
    Offer,
    check_name,
    container_properties,
    rid,
)
from emulator.cosmos.rows import (
    StoredContainer,
    StoredDatabase,
    container_removals,
    container_row,
    counter_row,
    database_removal,
    database_row,
    load_account,
    offer_removal,
    offer_row,
)
from emulator.cosmos.throughput import Throughput
from emulator.journal import Change, Journal

CONTAINERS_MAX: Final = 500
DATABASES_MAX: Final = 500
"""https://learn.microsoft.com/azure/cosmos-db/concepts-limits: 500 databases and containers an account."""


class Account:
    """Databases by id. Every change is in the journal before it is in memory."""

    def __init__(self, clock: Clock, journal: Journal) -> None:
        self._clock = clock
        self._journal = journal
        loaded = load_account(journal)
        self.databases = loaded.databases
        self.offers = loaded.offers
        """By the self link of what they belong to."""
        self._number = loaded.number

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
            counter_row(self._number),
            database_row(StoredDatabase(number, properties)),
        ]
        offer = None
        if throughput.manual is not None or throughput.autoscale_max is not None:
            offer = self._new_offer(properties, throughput)
            changes.append(offer_row(offer))
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
        changes = [database_removal(database)]
        links = [database.self_link]
        for container in database.containers.values():
            changes += container_removals(container)
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
        stored = StoredContainer(number, database.number, ranges, properties)
        changes = [counter_row(self._number), container_row(stored)]
        offer = None
        if not shared or throughput.manual is not None or throughput.autoscale_max is not None:
            offer = self._new_offer(properties, throughput)
            changes.append(offer_row(offer))
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
        stored = StoredContainer(container.number, container.database_number, len(container.ranges), properties)
        self._journal.commit([counter_row(self._number), container_row(stored)])
        container.adopt(properties)
        return container

    def delete_container(self, database_name: str, name: str, if_match: str | None) -> None:
        """Delete a container with all of its items."""
        container = self.container(database_name, name)
        _check_etag(container.properties, if_match)
        removals = self._offer_removals([container.self_link])
        self._journal.commit([*container_removals(container), *removals])
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
        self._journal.commit([counter_row(self._number), offer_row(changed)])
        self.offers[changed.resource_self] = changed
        return changed

    # --- details ---

    def _next_number(self) -> int:
        self._number += 1
        return self._number

    def _etag(self, number: int) -> str:
        return f'"{number:08x}-0000-0000-0000-{int(self._clock.now_s()):012x}"'

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
        return [offer_removal(offer) for offer in found]


def _whole(value: Any) -> int:
    """A throughput out of a body; 0, which no check lets pass, for anything but a whole number."""
    return int(value) if type(value) is int else 0


def _check_etag(properties: dict[str, Any], if_match: str | None) -> None:
    if if_match is not None and if_match not in ("*", properties["_etag"]):
        raise precondition_failed()

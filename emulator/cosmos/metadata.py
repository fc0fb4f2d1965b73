"""Operations on the account, its databases, containers and offers."""

from collections.abc import Callable
from typing import Any

from emulator.cosmos import charges
from emulator.cosmos.engine import CosmosEngine
from emulator.cosmos.inputs import Request, container_of, throughput_of
from emulator.cosmos.replies import Reply, charged, json_reply, metadata_feed, resource_read_reply, resource_reply
from emulator.cosmos.values import encode, parse_object
from emulator.cosmos.wire import (
    is_true,
)

Route = Callable[[Request], Reply]


class MetadataHandlers:
    """One method for each kind of operation on metadata. They raise `CosmosError` for what the service refuses."""

    def __init__(self, engine: CosmosEngine, account_properties: Callable[[], dict[str, Any]]) -> None:
        self._engine = engine
        self._account_properties = account_properties
        self.routes: dict[str, Route] = {
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
        }

    def _read_account(self, _request: Request) -> Reply:
        return json_reply(200, self._account_properties(), charges.METADATA_READ)

    def _create_database(self, request: Request) -> Reply:
        database = self._engine.account.create_database(parse_object(request.body), throughput_of(request))
        return resource_reply(201, database.properties, charges.METADATA_WRITE)

    def _list_databases(self, request: Request) -> Reply:
        found = [database.properties for database in self._engine.account.databases.values()]
        return metadata_feed(request, "Databases", "", found)

    def _read_database(self, request: Request) -> Reply:
        properties = self._engine.account.database(str(request.target.database)).properties
        return resource_read_reply(request, properties)

    def _delete_database(self, request: Request) -> Reply:
        self._engine.account.delete_database(str(request.target.database), request.headers.get("if-match"))
        return Reply(204, headers=charged(charges.METADATA_WRITE))

    def _create_container(self, request: Request) -> Reply:
        target = request.target
        container = self._engine.account.create_container(
            str(target.database), parse_object(request.body), throughput_of(request)
        )
        return resource_reply(201, container.properties, charges.METADATA_WRITE, target)

    def _list_containers(self, request: Request) -> Reply:
        database = self._engine.account.database(str(request.target.database), owner=True)
        found = [container.properties for container in database.containers.values()]
        return metadata_feed(request, "DocumentCollections", database.rid, found)

    def _read_container(self, request: Request) -> Reply:
        container = container_of(self._engine, request, owner=False)
        reply = resource_read_reply(request, container.properties)
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
        return resource_reply(200, container.properties, charges.METADATA_WRITE, target)

    def _delete_container(self, request: Request) -> Reply:
        target = request.target
        self._engine.account.delete_container(
            str(target.database), str(target.container), request.headers.get("if-match")
        )
        return Reply(204, headers=charged(charges.METADATA_WRITE))

    def _read_ranges(self, request: Request) -> Reply:
        """The physical partitions; 304 for a client that knows them all, or it would ask for ever."""
        container = container_of(self._engine, request)
        etag = f'"{len(container.ranges)}"'
        headers = charged(charges.METADATA_READ) | {"etag": etag}
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
        return metadata_feed(request, "Offers", "", found)

    def _read_offer(self, request: Request) -> Reply:
        offer = self._engine.account.offer(str(request.target.item))
        return resource_reply(200, offer.document(), charges.METADATA_READ)

    def _replace_offer(self, request: Request) -> Reply:
        offer = self._engine.account.replace_offer(str(request.target.item), parse_object(request.body))
        return resource_reply(200, offer.document(), charges.METADATA_WRITE)

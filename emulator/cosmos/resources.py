"""Databases, containers, physical partitions and offers: what holds the items, and the names it all goes by."""

import base64
from bisect import bisect_left, bisect_right, insort
from typing import Any, Final

import msgspec

from emulator.cosmos.epk import Key, split_ranges
from emulator.cosmos.errors import bad_request
from emulator.cosmos.history import Change, History
from emulator.cosmos.indexing import IndexingPolicy, completed, parse_policy
from emulator.cosmos.items import Item, Partition, Path, unique_value
from emulator.cosmos.partitionkey import Definition, parse_definition
from emulator.cosmos.values import parse_path

ID_BYTES_MAX: Final = 1023
NAME_CHARACTERS_MAX: Final = 255
TTL_S_MAX: Final = 2_147_483_647
THROUGHPUT_DEFAULT: Final = 400
RANGE_THROUGHPUT: Final = 10_000
"""RU/s that one physical partition serves: https://learn.microsoft.com/azure/cosmos-db/partitioning-overview."""
RANGES_MAX: Final = 100

FORBIDDEN_IN_IDS: Final = frozenset("/\\?#")


def rid(*parts: tuple[int, int]) -> str:
    """A resource id: numbers with their widths in bytes, in the service's flavour of base64."""
    octets = b"".join(number.to_bytes(width, "big") for number, width in parts)
    return base64.b64encode(octets).decode().replace("/", "-")


def check_id(value: Any) -> str:
    """An item's id.

    Raises:
        CosmosError: 400 for what the service refuses: empty, over 1,023 bytes, or with a slash of either kind, `?`
            or `#`.
    """
    if type(value) is not str or not value:
        raise bad_request("The input content is invalid because the required properties - 'id; ' - are missing")
    if not FORBIDDEN_IN_IDS.isdisjoint(value):
        raise bad_request("The id contains an illegal character: '/', '\\', '?' and '#' are not allowed.")
    if len(value) > ID_BYTES_MAX // 4 and len(value.encode("utf-8", "surrogatepass")) > ID_BYTES_MAX:
        raise bad_request(f"The id is longer than {ID_BYTES_MAX} bytes.")
    return str(value)


def check_name(value: Any) -> str:
    """The id of a database or container: as an item's, but at most 255 characters and no space at its end."""
    name = check_id(value)
    if len(name) > NAME_CHARACTERS_MAX or name.endswith(" "):
        raise bad_request(f"The id must be at most {NAME_CHARACTERS_MAX} characters and not end with a space.")
    return name


def check_ttl(value: Any, what: str) -> int | None:
    """A time to live in seconds: None, -1 (never) or 1 to 2^31 - 1."""
    if value is None:
        return None
    if type(value) is int and (value == -1 or 0 < value <= TTL_S_MAX):
        return int(value)
    raise bad_request(
        f"The input {what} '{value}' is invalid. Ensure to provide a nonzero positive integer less than or equal"
        f" to {TTL_S_MAX}, or -1 which means never expire."
    )


class Offer(msgspec.Struct):
    """Throughput of a database or container."""

    number: int
    resource_self: str
    resource_rid: str
    throughput: int
    autoscale_max: int | None
    etag: str
    ts: int

    def document(self) -> dict[str, Any]:
        """The offer as the service answers it."""
        offer_rid = rid((self.number, 4))
        content: dict[str, Any] = {"offerThroughput": self.throughput}
        if self.autoscale_max is not None:
            content["offerAutopilotSettings"] = {"maxThroughput": self.autoscale_max}
        return {
            "resource": self.resource_self,
            "offerType": "Invalid",
            "offerResourceId": self.resource_rid,
            "offerVersion": "V2",
            "content": content,
            "id": offer_rid,
            "_rid": offer_rid,
            "_self": f"offers/{offer_rid}/",
            "_etag": self.etag,
            "_ts": self.ts,
        }


class Range:
    """One physical partition: a range of effective partition keys with its own log sequence numbers."""

    def __init__(self, index: int, low: str, high: str) -> None:
        self.id = str(index)
        self.index = index
        self.low = low
        self.high = high
        self.lsn = 0
        self.next_number = 1
        self.order: list[tuple[str, Key]] = []
        """Logical partitions by effective partition key (kept sorted by the first member)."""
        self.feed: list[tuple[int, int]] | None = None
        """(lsn, item number) of latest versions for the change feed, once somebody has asked for it."""
        self.feed_items: dict[int, tuple[Partition, Item]] = {}
        self.history = History()

    def record(self, partition: Partition, old: Item | None, new: Item | None) -> None:
        """Keep history and the change feed's order up to date: `old` is no longer the latest version, `new` is."""
        if (either := new or old) is not None:
            self.history.note(Change(self.lsn, partition.key, either.id, old))
        if self.feed is None:
            return
        if old is not None and self.feed_items.pop(old.number, None) is not None:
            del self.feed[bisect_left(self.feed, (old.lsn, old.number))]
        if new is not None:
            insort(self.feed, (new.lsn, new.number))
            self.feed_items[new.number] = (partition, new)

    def session_token(self) -> str:
        """The token that a client must send back to read its own writes."""
        return f"{self.id}:-1#{self.lsn}"


class Container:
    """A container with its items."""

    def __init__(self, *, number: int, database_number: int, properties: dict[str, Any], ranges: int) -> None:
        self.number = number
        self.properties = properties
        self.id: str = properties["id"]
        self.rid: str = properties["_rid"]
        self.self_link: str = properties["_self"]
        self.database_number = database_number
        self.definition: Definition = parse_definition(properties["partitionKey"])
        bounds = split_ranges(ranges, self.definition.kind, self.definition.version)
        self.ranges = [Range(index, low, high) for index, (low, high) in enumerate(bounds)]
        self._lows = [low for low, _ in bounds]
        self.partitions: dict[Key, Partition] = {}
        self.is_rewound = False
        """While it shows what it was before: then it is read and not changed, not even by expiry."""
        self.unique_keys: tuple[tuple[Path, ...], ...] = parse_unique_keys(properties.get("uniqueKeyPolicy"))
        self.default_ttl_s: int | None = None
        self.indexing: IndexingPolicy = parse_policy({})
        self.adopt(properties)

    def adopt(self, properties: dict[str, Any]) -> None:
        """Take over new properties: what a replace of the container may change."""
        self.properties = properties
        self.default_ttl_s = check_ttl(properties.get("defaultTtl"), "defaultTtl")
        self.indexing = parse_policy(properties["indexingPolicy"])

    def range_for(self, epk: str) -> Range:
        """The physical partition that holds an effective partition key."""
        return self.ranges[bisect_right(self._lows, epk) - 1]

    def partition_or_new(self, key: Key) -> Partition:
        """The logical partition of a key, or an empty one that is not part of the container yet."""
        partition = self.partitions.get(key)
        if partition is None:
            epk = self.definition.epk(key)
            partition = Partition(key, epk, self.range_for(epk).index, len(self.unique_keys))
        return partition

    def attach(self, partition: Partition) -> None:
        """Make a partition part of the container."""
        if partition.key not in self.partitions:
            self.partitions[partition.key] = partition
            order = self.ranges[partition.range_index].order
            insort(order, (partition.epk, partition.key), key=lambda entry: entry[0])

    def detach_if_empty(self, partition: Partition) -> None:
        """Forget a partition without items, so that memory follows the items."""
        if partition.items or partition.key not in self.partitions:
            return
        del self.partitions[partition.key]
        order = self.ranges[partition.range_index].order
        place = bisect_left(order, partition.epk, key=lambda entry: entry[0])
        while order[place][1] != partition.key:
            place += 1
        del order[place]

    def expires_s(self, item: Item) -> float | None:
        """When an item goes away by its time to live; None for never."""
        if self.default_ttl_s is None:
            return None
        ttl_s = self.default_ttl_s if item.ttl_s is None else item.ttl_s
        return None if ttl_s < 0 else float(item.ts + ttl_s)

    def is_alive(self, item: Item, now_s: float) -> bool:
        """Whether an item has not expired."""
        if self.default_ttl_s is None:
            return True
        expires_s = self.expires_s(item)
        return expires_s is None or now_s < expires_s

    def unique_values(self, document: dict[str, Any]) -> tuple[bytes, ...]:
        """The values of the container's unique keys in a document."""
        return tuple(unique_value(document, paths) for paths in self.unique_keys)


class Database:
    """A database with its containers by id."""

    def __init__(self, number: int, properties: dict[str, Any]) -> None:
        self.number = number
        self.properties = properties
        self.id: str = properties["id"]
        self.rid: str = properties["_rid"]
        self.self_link: str = properties["_self"]
        self.containers: dict[str, Container] = {}


def parse_unique_keys(raw: Any) -> tuple[tuple[Path, ...], ...]:
    """The unique keys of a container.

    Raises:
        CosmosError: 400 where the policy is malformed.
    """
    if raw is None:
        return ()
    keys = raw.get("uniqueKeys") if type(raw) is dict else None
    if type(keys) is not list:
        raise bad_request("'uniqueKeyPolicy' must be an object with a list 'uniqueKeys'.")
    parsed = []
    for key in keys:
        paths = key.get("paths") if type(key) is dict else None
        if type(paths) is not list or not paths or not all(type(path) is str for path in paths):
            raise bad_request("Each unique key must have a list of 'paths'.")
        parsed.append(tuple(parse_path(path) for path in paths))
    return tuple(parsed)


def container_properties(body: dict[str, Any]) -> dict[str, Any]:
    """What a create or replace of a container may carry, completed and checked, without system properties."""
    name = check_name(body.get("id"))
    parse_definition(body.get("partitionKey"))
    parse_unique_keys(body.get("uniqueKeyPolicy"))
    check_ttl(body.get("defaultTtl"), "defaultTtl")
    policy = body.get("indexingPolicy")
    if policy is not None and type(policy) is not dict:
        raise bad_request("'indexingPolicy' must be an object.")
    completed_policy = completed(policy)
    parse_policy(completed_policy)
    properties = {member: value for member, value in body.items() if not member.startswith("_") and value is not None}
    properties["id"] = name
    properties["indexingPolicy"] = completed_policy
    properties.setdefault("conflictResolutionPolicy", {"mode": "LastWriterWins", "conflictResolutionPath": "/_ts"})
    return properties

"""Requests on the wire: from method, path and headers to the operation and what it addresses."""

from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, unquote

import msgspec

from emulator.cosmos import partitionkey
from emulator.cosmos.errors import CosmosError

ACTIVITY_ID: Final = "x-ms-activity-id"
CONTINUATION: Final = "x-ms-continuation"
PARTITION_KEY: Final = "x-ms-documentdb-partitionkey"
RANGE_ID: Final = "x-ms-documentdb-partitionkeyrangeid"
SESSION_TOKEN: Final = "x-ms-session-token"  # noqa: S105 - the name of a header

QUERY_JSON: Final = "application/query+json"

_UNCOVERED: Final = frozenset(
    {"sprocs", "triggers", "udfs", "users", "permissions", "conflicts", "attachments", "operations",
     "clientencryptionkeys", "schemas"}
)  # fmt: skip


class Target(msgspec.Struct, frozen=True):
    """What a request is for.

    `operation` is the name that fault rules and counters use; `resource_type` and `link` are what clients sign.
    """

    operation: str
    resource_type: str
    link: str
    database: str | None = None
    container: str | None = None
    item: str | None = None

    @property
    def alternate_path(self) -> str:
        """The names of database and container, for the `x-ms-alt-content-path` header."""
        if self.container is None:
            return quote(f"dbs/{self.database}", safe="/ ") if self.database is not None else ""
        return quote(f"dbs/{self.database}/colls/{self.container}", safe="/ ")


def is_true(value: str | None) -> bool:
    """Header values of clients differ in case."""
    return value is not None and value.lower() == "true"


def target_of(method: str, raw_path: str, headers: Mapping[str, str]) -> Target:
    """What a request is for; operation `unknown` where the path or the method leads nowhere."""
    segments = [unquote(segment, errors="surrogateescape") for segment in raw_path.split("/") if segment]
    link = "/".join(segments)
    match segments:
        case []:
            return Target("read-account" if method == "GET" else "unknown", "", "")
        case ["offers", *rest] if len(rest) <= 1:
            return _offers(method, rest, headers)
        case ["dbs", *rest]:
            return _database_path(method, rest, link, headers)
        case _:
            return Target("unknown", "", link)


def _offers(method: str, rest: list[str], headers: Mapping[str, str]) -> Target:
    if rest:
        operation = {"GET": "read-offer", "PUT": "replace-offer"}.get(method, "unknown")
        return Target(operation, "offers", rest[0], item=rest[0])
    if method == "POST" and _is_query(headers):
        return Target("query-offers", "offers", "")
    return Target("list-offers" if method == "GET" else "unknown", "offers", "")


def _database_path(method: str, rest: list[str], link: str, headers: Mapping[str, str]) -> Target:
    parent = link.rpartition("/")[0]
    match rest:
        case []:
            return Target(_feed_operation(method, headers, "database"), "dbs", "")
        case [database]:
            operation = {"GET": "read-database", "DELETE": "delete-database"}.get(method, "unknown")
            return Target(operation, "dbs", link, database)
        case [database, "colls"]:
            return Target(_feed_operation(method, headers, "container"), "colls", parent, database)
        case [database, "colls", container]:
            operation = {"GET": "read-container", "PUT": "replace-container", "DELETE": "delete-container"}.get(
                method, "unknown"
            )
            return Target(operation, "colls", link, database, container)
        case [database, "colls", container, "pkranges"]:
            operation = "read-partition-key-ranges" if method == "GET" else "unknown"
            return Target(operation, "pkranges", parent, database, container)
        case [database, "colls", container, "docs"]:
            return Target(_items_operation(method, headers), "docs", parent, database, container)
        case [database, "colls", container, "docs", item]:
            operations = {"GET": "read-item", "PUT": "replace-item", "PATCH": "patch-item", "DELETE": "delete-item"}
            return Target(operations.get(method, "unknown"), "docs", link, database, container, item)
        case _:
            return _uncovered(rest, link)


def _uncovered(rest: list[str], link: str) -> Target:
    """What the service has and the emulator has not; or nothing at all."""
    parent = link.rpartition("/")[0]
    match rest:
        case [_, "colls", _, "operations", _]:
            return Target("not-covered", "colls", link.rpartition("/operations/")[0], item="operations")
        case [_, "colls", _, kind, *member] if kind in _UNCOVERED:
            return Target("not-covered", kind, link if member else parent, item=kind)
        case [_, kind, *member] if kind in _UNCOVERED:
            return Target("not-covered", kind, link if member else parent, item=kind)
        case _:
            return Target("unknown", "", link)


def _is_query(headers: Mapping[str, str]) -> bool:
    return is_true(headers.get("x-ms-documentdb-isquery")) or headers.get("content-type", "").startswith(QUERY_JSON)


def _feed_operation(method: str, headers: Mapping[str, str], what: str) -> str:
    if method == "POST":
        return f"query-{what}s" if _is_query(headers) else f"create-{what}"
    return f"list-{what}s" if method == "GET" else "unknown"


def _items_operation(method: str, headers: Mapping[str, str]) -> str:
    if method == "GET":
        return "change-feed" if "a-im" in headers else "read-feed"
    if method != "POST":
        return "unknown"
    if is_true(headers.get("x-ms-cosmos-is-query-plan-request")):
        return "query-plan"
    if is_true(headers.get("x-ms-cosmos-is-batch-request")):
        return "batch"
    if _is_query(headers):
        return "query"
    return "upsert-item" if is_true(headers.get("x-ms-documentdb-is-upsert")) else "create-item"


def facts_of(target: Target, headers: Mapping[str, str]) -> dict[str, str]:
    """What fault rules can compare: database, container, id and partition_key, where the request names them."""
    facts = {}
    if target.database is not None:
        facts["database"] = target.database
    if target.container is not None:
        facts["container"] = target.container
        if target.item is not None:
            facts["id"] = target.item
    key_header = headers.get(PARTITION_KEY)
    if key_header is not None:
        try:
            facts["partition_key"] = partitionkey.fact(partitionkey.parse_header(key_header))
        except CosmosError:
            facts["partition_key"] = key_header  # malformed: refused later, after the fault rules
    return facts

"""Replies: status, headers and body as clients read them."""

from typing import Any

import msgspec

from emulator.cosmos import charges
from emulator.cosmos.batch import BatchResult
from emulator.cosmos.inputs import Request, spec_of, wants_minimal
from emulator.cosmos.query import run_over
from emulator.cosmos.resources import Container, Range
from emulator.cosmos.transaction import Outcome
from emulator.cosmos.values import encode
from emulator.cosmos.wire import (
    SESSION_TOKEN,
    Target,
)


class Reply(msgspec.Struct):
    """What goes back."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = {}


def charged(charge: float) -> dict[str, str]:
    """The header that says what a request cost."""
    return {"x-ms-request-charge": f"{charge:.2f}"}


def item_headers(target: Target, partition_range: Range) -> dict[str, str]:
    """What every answer about items carries: session token, log sequence number, physical partition, names."""
    lsn = str(partition_range.lsn)
    return {
        SESSION_TOKEN: partition_range.session_token(),
        "lsn": lsn,
        "x-ms-item-lsn": lsn,
        "x-ms-documentdb-partitionkeyrangeid": partition_range.id,
        "x-ms-alt-content-path": target.alternate_path,
    }


def point_reply(request: Request, partition_range: Range, outcome: Outcome, kind: str) -> Reply:
    """The answer to an operation on one item."""
    headers = item_headers(request.target, partition_range) | charged(outcome.charge)
    if outcome.etag is not None:
        headers["etag"] = outcome.etag
    body = outcome.body or b""
    if kind != "read" and wants_minimal(request):
        body = b""
    return Reply(outcome.status, body, headers)


def batch_body(result: BatchResult, kinds: list[str], *, minimal: bool) -> bytes:
    """The results as JSON, with the encoded items put in as they are."""
    parts = []
    for outcome, kind in zip(result.results, kinds, strict=True):
        head = b'{"statusCode":%d,"requestCharge":%.2f' % (outcome.status, outcome.charge)
        if outcome.sub_status:
            head += b',"subStatusCode":%d' % outcome.sub_status
        if outcome.etag is not None:
            head += b',"eTag":' + encode(outcome.etag)
        if outcome.body is not None and (kind == "read" or not minimal):
            head += b',"resourceBody":' + outcome.body
        parts.append(head + b"}")
    return b"[" + b",".join(parts) + b"]"


def documents(container: Container, rows: list[bytes]) -> bytes:
    """A page of items, which are JSON already, as a body."""
    head = b'{"_rid":"' + container.rid.encode() + b'","Documents":['
    return head + b",".join(rows) + b'],"_count":%d}' % len(rows)


def json_reply(status: int, value: dict[str, Any], charge: float) -> Reply:
    """A body made of Python values."""
    return Reply(status, encode(value), charged(charge))


def resource_reply(status: int, properties: dict[str, Any], charge: float, target: Target | None = None) -> Reply:
    """A database, container or offer with its ETag."""
    reply = json_reply(status, properties, charge)
    reply.headers["etag"] = properties["_etag"]
    if target is not None:
        reply.headers["x-ms-alt-content-path"] = target.alternate_path
    return reply


def resource_read_reply(request: Request, properties: dict[str, Any]) -> Reply:
    """The same for a read, which may be conditional."""
    if request.headers.get("if-none-match") in ("*", properties["_etag"]):
        return Reply(304, headers=charged(charges.METADATA_READ) | {"etag": properties["_etag"]})
    return resource_reply(200, properties, charges.METADATA_READ, request.target)


def metadata_feed(request: Request, member: str, owner_rid: str, documents: list[dict[str, Any]]) -> Reply:
    """All of an account's databases, containers or offers, or those that a query selects, on one page."""
    if request.target.operation.startswith("query-"):
        spec = spec_of(request)
        rows = run_over(documents, spec.text, spec.parameters)
    else:
        rows = [encode(document) for document in documents]
    head = encode({"_rid": owner_rid})[:-1] + b',"' + member.encode() + b'":['
    body = head + b",".join(rows) + b'],"_count":%d}' % len(rows)
    return Reply(200, body, charged(charges.METADATA_READ) | {"x-ms-item-count": str(len(rows))})

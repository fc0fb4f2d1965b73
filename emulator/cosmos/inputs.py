"""What a request says in its headers and its body, parsed."""

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from emulator.cosmos import partitionkey
from emulator.cosmos.changefeed import FeedStart
from emulator.cosmos.engine import CosmosEngine, Place, QuerySpec
from emulator.cosmos.errors import SUB_COLLECTION_RID_MISMATCH, bad_request
from emulator.cosmos.resources import Container, Range
from emulator.cosmos.selection import PAGE_ITEMS_DEFAULT, PAGE_ITEMS_MAX
from emulator.cosmos.throughput import Throughput
from emulator.cosmos.values import parse_object
from emulator.cosmos.wire import (
    PARTITION_KEY,
    RANGE_ID,
    Target,
)


class Request(msgspec.Struct, frozen=True):
    """A request after the socket: header names are case-insensitive."""

    target: Target
    headers: Mapping[str, str]
    body: bytes


def key_of(request: Request) -> tuple[Any, ...] | None:
    """The partition key that a request names, complete or not; None where it names none."""
    header = request.headers.get(PARTITION_KEY)
    return None if header is None else partitionkey.parse_header(header)


def place_of(request: Request) -> Place:
    """Where a request wants to read."""
    headers = request.headers
    return Place(
        key=key_of(request), range_id=headers.get(RANGE_ID), low=headers.get("x-ms-start-epk"),
        high=headers.get("x-ms-end-epk"),
    )  # fmt: skip


def spec_of(request: Request) -> QuerySpec:
    """The query in a body `{"query": …, "parameters": [{"name", "value"}]}`."""
    body = parse_object(request.body)
    text, parameters = body.get("query"), body.get("parameters")
    if parameters is None:
        parameters = []
    if type(text) is not str:
        raise bad_request("The request body must be an object with the text of a 'query'.")
    if type(parameters) is not list:
        raise bad_request("The 'parameters' of a query must be a list of {name, value}.")
    values = {}
    for parameter in parameters:
        name = parameter.get("name") if type(parameter) is dict else None
        if type(name) is not str or not name.startswith("@"):
            raise bad_request("Each parameter of a query needs a 'name' that begins with '@'.")
        values[name] = parameter.get("value")
    return QuerySpec(text, values)


def page_items_of(request: Request) -> int:
    """How many items a page may hold.

    Raises:
        CosmosError: 400 for anything but -1 and whole numbers from 1 on.
    """
    text = request.headers.get("x-ms-max-item-count")
    if text is None:
        return PAGE_ITEMS_DEFAULT
    try:
        count = int(text)
    except ValueError:
        count = 0
    if count == 0 or count < -1:
        raise bad_request("x-ms-max-item-count must be -1 or a whole number from 1 on.")
    return PAGE_ITEMS_MAX if count == -1 else min(count, PAGE_ITEMS_MAX)


def feed_start(request: Request, partition_range: Range) -> FeedStart:
    """Where a change feed request begins: If-None-Match names what was seen, `*` everything up to now."""
    seen = request.headers.get("if-none-match")
    since_text = request.headers.get("if-modified-since")
    since_s = 0.0
    if since_text is not None:
        try:
            since_s = parsedate_to_datetime(since_text).timestamp()
        except (ValueError, OverflowError) as error:
            raise bad_request("The If-Modified-Since header is not a valid date.") from error
    if seen is None:
        return FeedStart(0, since_s)
    if seen == "*":
        return FeedStart(partition_range.lsn, since_s)
    digits = seen.strip('"')
    if not digits.isdecimal() or len(digits) > 20:  # noqa: PLR2004 - the digits of a 64-bit number
        raise bad_request("The If-None-Match header of a change feed request is not valid.")
    return FeedStart(int(digits), since_s)


def throughput_of(request: Request) -> Throughput:
    """The throughput that a create asks for.

    Raises:
        CosmosError: 400 where a header is malformed.
    """
    manual_text = request.headers.get("x-ms-offer-throughput")
    settings_text = request.headers.get("x-ms-cosmos-offer-autopilot-settings")
    manual = autoscale_max = None
    if manual_text is not None:
        if not manual_text.isdecimal():
            raise bad_request("x-ms-offer-throughput must be a whole number.")
        manual = int(manual_text)
    if settings_text is not None:
        most = parse_object(settings_text.encode()).get("maxThroughput")
        if type(most) is not int:
            raise bad_request("The autoscale settings need a whole 'maxThroughput'.")
        autoscale_max = most
    return Throughput(manual, autoscale_max)


def wants_minimal(request: Request) -> bool:
    """Whether writes are to be answered without the item."""
    return request.headers.get("prefer", "").replace(" ", "").lower() == "return=minimal"


def container_of(engine: CosmosEngine, request: Request, *, owner: bool = True) -> Container:
    """The container, if it is the one that the client means."""
    target = request.target
    container = engine.account.container(str(target.database), str(target.container), owner=owner)
    intended = request.headers.get("x-ms-cosmos-intended-collection-rid")
    if intended is not None and intended != container.rid:
        raise bad_request(
            "Collection rid in the request does not match the container: it was created anew.",
            SUB_COLLECTION_RID_MISMATCH,
        )
    return container

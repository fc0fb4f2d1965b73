"""`brook-worker brooks list`: the brooks of the container by their heads."""

import base64
import binascii
from collections.abc import AsyncIterator
from typing import Final, Literal

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from worker.clients import brooks_container, cosmos_client, store_retries
from worker.commands.console import print_json
from worker.operations.brooks import BrookFilter, BrookListing, BrookPage, BrookRow, ContinuationError
from worker.settings import Settings

Sort = Literal["stored", "name"]

_PAGE_ROWS: Final = 1000
"""Of a request. The service ends a page where it has enough of it, too."""


class BrooksShown(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`brooks list --json`. `continuation` is null at the end; `request_charge` is what this page cost, in RU."""

    container: str
    brooks: list[BrookRow]
    continuation: str | None
    request_charge: float


class Continuation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a listing goes on, after a name or by a token of the service, and which listing it is."""

    sort: Sort
    prefix: str
    pending_only: bool
    place: str


async def list_brooks(
    settings: Settings,
    which: BrookFilter,
    *,
    sort: Sort,
    limit: int,
    continuation: str | None,
    as_json: bool,
    console: Console,
) -> None:
    """Print one page of the listing. Raises ContinuationError, StartError, StoreError."""
    place = None if continuation is None else decoded(continuation, sort, which)
    async with cosmos_client(settings) as client:
        listing = BrookListing(brooks_container(client, settings), store_retries(settings), which)
        if sort == "name":
            found = await first_by_name(listing.pages(_PAGE_ROWS), limit, after=place)
        else:
            found = await first_as_stored(listing, limit, place)
    following = None if found.continuation is None else encoded(found.continuation, sort, which)
    if as_json:
        shown = BrooksShown(
            container=settings.cosmos_container,
            brooks=found.rows,
            continuation=following,
            request_charge=round(found.charge_ru, 2),
        )
        print_json(console, shown)
        return
    console.print(_table(found.rows, settings.cosmos_container))
    console.print(f"{len(found.rows):,} brooks; {found.charge_ru:,.2f} RU", highlight=False)
    if following is not None:
        console.print(Text(f"There are more: go on with --continuation {following}"), soft_wrap=True)


async def first_as_stored(listing: BrookListing, limit: int, token: str | None) -> BrookPage:
    """The next `limit` rows in the container's order, by as many requests as it takes."""
    rows: list[BrookRow] = []
    charge_ru = 0.0
    while True:
        page = await listing.page(min(limit - len(rows), _PAGE_ROWS), token)
        rows += page.rows
        charge_ru += page.charge_ru
        token = page.continuation
        if token is None or len(rows) >= limit:
            return BrookPage(rows=rows, continuation=token, charge_ru=charge_ru)


async def first_by_name(pages: AsyncIterator[BrookPage], limit: int, *, after: str | None) -> BrookPage:
    """The first `limit` rows by name after a name. Looks at all rows, and holds twice `limit` and a page of them."""
    kept: list[BrookRow] = []
    charge_ru = 0.0
    more = False
    async for page in pages:
        charge_ru += page.charge_ru
        kept += [row for row in page.rows if after is None or row.brook > after]
        if len(kept) > 2 * limit:
            kept = sorted(kept, key=_by_name)[:limit]
            more = True
    kept.sort(key=_by_name)
    more |= len(kept) > limit
    kept = kept[:limit]
    return BrookPage(rows=kept, continuation=kept[-1].brook if more else None, charge_ru=charge_ru)


def _by_name(row: BrookRow) -> str:
    return row.brook


def encoded(place: str, sort: Sort, which: BrookFilter) -> str:
    """A place as a token for the command line."""
    token = msgspec.json.encode(Continuation(sort, which.prefix, which.pending_only, place))
    return base64.urlsafe_b64encode(token).decode("ascii").rstrip("=")


def decoded(text: str, sort: Sort, which: BrookFilter) -> str:
    """The place in a token. Raises ContinuationError for what no listing of this order and filter has printed."""
    try:
        padded = text + "=" * (-len(text) % 4)
        found = msgspec.json.decode(base64.b64decode(padded, altchars=b"-_", validate=True), type=Continuation)
    except (ValueError, binascii.Error, msgspec.MsgspecError) as error:
        raise ContinuationError from error
    if found != Continuation(sort, which.prefix, which.pending_only, found.place):
        raise ContinuationError
    return found.place


def _table(rows: list[BrookRow], container: str) -> Table:
    table = Table(title=Text(f"brooks of {container}"), title_justify="left")
    table.add_column("brook", overflow="fold")
    table.add_column("head", justify="right")
    table.add_column("large append under way", overflow="fold")
    table.add_column("last modified")
    for row in rows:
        position = "not readable" if row.position is None else f"{row.position:,}"
        modified = (row.last_modified or "").replace("+00:00", "Z")
        table.add_row(*map(Text, (row.brook, position, row.pending or "", modified)))
    return table

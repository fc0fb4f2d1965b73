"""Listing the brooks of a container: a query over the heads of all partitions, page by page."""

from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from azure.cosmos import exceptions as cosmos_errors
from azure.cosmos.aio import ContainerProxy

from worker.errors import WorkerError
from worker.storage.retries import RetryOptions, retrying, translated

_HEADS: Final = 'SELECT c.brookPartitionKey AS brook, c.position, c.pending, c._ts FROM c WHERE c.type = "head"'
_COUNT: Final = 'SELECT VALUE COUNT(1) FROM c WHERE c.type = "head"'
_PREFIX: Final = " AND STARTSWITH(c.brookPartitionKey, @prefix)"
_PENDING: Final = " AND IS_DEFINED(c.pending) AND NOT IS_NULL(c.pending)"
_CHARGE: Final = "x-ms-request-charge"
_BAD_REQUEST: Final = 400

_EVERYTHING: Final = {"Range": {"min": "", "max": "FF", "isMinInclusive": True, "isMaxInclusive": False}}
"""All partition keys, in the client's form of a feed range. For a query of a feed range the client goes through the
physical partitions one after the other and gives a token to go on from; for one across partitions it gives none."""


class ContinuationError(WorkerError):
    """The continuation is not one that this listing can go on from."""

    def __init__(self) -> None:
        super().__init__(
            "--continuation: is not of a listing with the same options of this container; give the one that was"
            " printed last, with the same options, or leave it out to begin again"
        )


class BrookRow(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A brook by its head. `position` is null where the head has none that can be read: inspect it.

    `pending` is the command id of a large append under way, or left. `last_modified` is to the second, in UTC.
    """

    brook: str
    position: int | None
    pending: str | None
    last_modified: str | None


class BrookFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Brooks whose key begins with `prefix`; only those with a large append under way if `pending_only`."""

    prefix: str = ""
    pending_only: bool = False


class BrookPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some rows, what they cost, and the token to go on from; None at the end."""

    rows: list[BrookRow]
    continuation: str | None
    charge_ru: float


class BrookCount(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How many brooks there are, and what it cost in RU to count them."""

    count: int
    request_charge: float


async def count_brooks(container: ContainerProxy, retry: RetryOptions) -> BrookCount:
    """Count the heads of all partitions. Raises what the store raises."""
    async for attempt in retrying(retry):
        with attempt:
            charge_ru = 0.0

            def note(headers: Mapping[str, Any], _: object) -> None:
                nonlocal charge_ru
                charge_ru += float(headers.get(_CHARGE, 0))

            with translated():
                pager = container.query_items(_COUNT, response_hook=note, timeout=retry.time_max_s)
                counts = [part async for part in pager]
            return BrookCount(count=sum(counts), request_charge=round(charge_ru, 2))  # type: ignore[arg-type]
    raise AssertionError("retrying returns or raises")


class BrookListing:
    """The brooks of one container, in the order in which it has them: always the same, but of no meaning.

    Not guaranteed: that brooks made or deleted meanwhile are in it or not. After a partition was split, some may come
    twice.
    """

    def __init__(self, container: ContainerProxy, retry: RetryOptions, which: BrookFilter) -> None:
        self._container = container
        self._retry = retry
        self._query = _HEADS + (_PREFIX if which.prefix else "") + (_PENDING if which.pending_only else "")
        self._parameters: list[dict[str, object]] = [{"name": "@prefix", "value": which.prefix}] if which.prefix else []

    async def page(self, count_max: int, continuation: str | None) -> BrookPage:
        """At most `count_max` rows, none maybe. Raises ContinuationError and what the store raises."""
        async for attempt in retrying(self._retry):
            with attempt, translated():
                return await self._page_once(count_max, continuation)
        raise AssertionError("retrying returns or raises")

    async def pages(self, page_rows: int, continuation: str | None = None) -> AsyncIterator[BrookPage]:
        """Page after page to the end."""
        while True:
            page = await self.page(page_rows, continuation)
            yield page
            if (continuation := page.continuation) is None:
                return

    async def _page_once(self, count_max: int, continuation: str | None) -> BrookPage:
        charge_ru = 0.0

        def note(headers: Mapping[str, Any], _: object) -> None:
            nonlocal charge_ru
            charge_ru += float(headers.get(_CHARGE, 0))

        try:
            pager = self._container.query_items(
                self._query,
                parameters=self._parameters,
                feed_range=_EVERYTHING,
                max_item_count=count_max,
                response_hook=note,
                timeout=self._retry.time_max_s,
            ).by_page(continuation)
            page = await anext(pager, None)
            rows = [] if page is None else [_row(document) async for document in page]
        except cosmos_errors.CosmosHttpResponseError as error:
            if error.status_code == _BAD_REQUEST and continuation is not None:
                raise ContinuationError from error
            raise
        except ValueError as error:  # what the client says of a token that is not its own
            if continuation is not None:
                raise ContinuationError from error
            raise
        following: str | None = getattr(pager, "continuation_token", None) or None
        return BrookPage(rows=rows, continuation=following, charge_ru=charge_ru)


def _row(document: Mapping[str, Any]) -> BrookRow:
    """A row, whatever stands in the head: an operator has to see a bad one too."""
    position, pending, modified_s = (document.get(name) for name in ("position", "pending", "_ts"))
    is_position = isinstance(position, int) and not isinstance(position, bool)
    return BrookRow(
        brook=str(document.get("brook", "")),
        position=position if is_position else None,
        pending=None if pending is None else str(pending),
        last_modified=datetime.fromtimestamp(modified_s, UTC).isoformat() if isinstance(modified_s, int) else None,
    )

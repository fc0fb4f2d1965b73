"""Listing brooks: bounded pages, in either order, and continuations that cannot be mixed up."""

import random
from collections.abc import AsyncIterator

import pytest

from worker.commands.brooks import decoded, encoded, first_by_name
from worker.operations.brooks import BrookFilter, BrookPage, BrookRow, ContinuationError

pytestmark = pytest.mark.anyio


async def pages(names: list[str], page_rows: int) -> AsyncIterator[BrookPage]:
    for start in range(0, len(names), page_rows):
        rows = [
            BrookRow(brook=name, position=0, pending=None, last_modified=None) for name in names[start:][:page_rows]
        ]
        yield BrookPage(rows=rows, continuation=None, charge_ru=2.5)


async def all_by_name(names: list[str], *, page_rows: int, limit: int) -> list[str]:
    """Page after page, as an operator would go through."""
    found: list[str] = []
    after = None
    while True:
        page = await first_by_name(pages(names, page_rows), limit, after=after)
        assert len(page.rows) <= limit
        assert page.charge_ru == 2.5 * -(-len(names) // page_rows)
        found += [row.brook for row in page.rows]
        if (after := page.continuation) is None:
            return found


@pytest.mark.parametrize("limit", [1, 2, 7, 50, 51, 1000])
@pytest.mark.parametrize("page_rows", [1, 10, 100])
async def test_pages_by_name_are_all_brooks_once_in_order(limit: int, page_rows: int) -> None:
    names = [f"order|{number}" for number in range(51)]
    random.Random(limit * page_rows).shuffle(names)
    assert await all_by_name(names, page_rows=page_rows, limit=limit) == sorted(names)


async def test_an_empty_container_is_one_empty_page() -> None:
    page = await first_by_name(pages([], 10), 10, after=None)
    assert (page.rows, page.continuation) == ([], None)


def test_a_continuation_is_read_back_and_anything_else_refused() -> None:
    which = BrookFilter(prefix="order|")
    token = encoded("order|größe", "name", which)
    assert decoded(token, "name", which) == "order|größe"
    for wrong in ("", "x", "!!!", token[:-3], "e30", "bnVsbA"):
        with pytest.raises(ContinuationError):
            decoded(wrong, "name", which)
    with pytest.raises(ContinuationError):
        decoded(token, "stored", which)
    for other in (BrookFilter(), BrookFilter(prefix="order|", pending_only=True)):
        with pytest.raises(ContinuationError):
            decoded(token, "name", other)

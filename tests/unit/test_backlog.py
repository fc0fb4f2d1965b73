"""The queue between two stages of a session."""

import anyio
import pytest

from worker.sessions.backlog import Backlog

pytestmark = pytest.mark.anyio


async def test_all_that_waits_is_taken_in_order_up_to_the_limit() -> None:
    backlog = Backlog[int](10)
    backlog.put([1, 2])
    backlog.put([3, 4, 5])
    assert await backlog.take(4) == [1, 2, 3, 4]
    backlog.close()
    assert await backlog.take(4) == [5]
    assert await backlog.take(4) == []


async def test_whoever_needs_room_for_many_waits_until_there_is() -> None:
    backlog = Backlog[int](10)
    backlog.put(range(8))
    assert await backlog.room() == 2
    rooms: list[int] = []

    async def wait() -> None:
        rooms.append(await backlog.room(least=5))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        await backlog.take(2)
        await anyio.wait_all_tasks_blocked()
        assert rooms == [], "room for four only"
        await backlog.take(1)
    assert rooms == [5]


async def test_room_that_there_never_is_and_items_without_room_are_bugs() -> None:
    backlog = Backlog[int](2)
    with pytest.raises(AssertionError, match="never"):
        await backlog.room(least=3)
    with pytest.raises(AssertionError, match="ask for room"):
        backlog.put([1, 2, 3])

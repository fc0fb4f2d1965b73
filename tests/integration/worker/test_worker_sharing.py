"""More than one writer: a worker, and writers that nobody told of its queue."""

import anyio
import pytest

from emulator.faults import ReadBehind, Rule
from schemas.keys import BrookKey
from schemas.replies import Appended, ConcurrencyConflict
from schemas.types import CommandId, Position
from tests.support.brooks import command, prepared
from tests.support.site import Place
from worker.handlers.append import AppendHandler
from worker.handlers.brook import BrookState
from worker.protocol.model import Limits
from worker.protocol.verdicts import Accepted

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def outside_append(place: Place, key: BrookKey, command_id: str) -> None:
    """By a writer with neither queue nor lease."""
    handler = AppendHandler(place.store, Limits(), replans_max=1_000)
    result = await handler.append(BrookState(key), [prepared(command_id=command_id, key=key)])
    assert all(isinstance(verdict, Accepted) for verdict in result.verdicts)


async def test_a_head_that_another_writer_moved_is_a_replan_or_a_clean_conflict(place: Place) -> None:
    key = BrookKey("moved", "1")
    async with place.ready_worker(session_idle_s="20") as worker, place.client() as (client, replies):
        await client.append(key, command().events, command_id="first")
        await outside_append(place, key, "outside-1")
        (replanned,) = [await client.append(key, command().events, command_id="second")]
        await outside_append(place, key, "outside-2")
        conflict = await client.append(key, command().events, expected=2, command_id="third")
        plans = {name: replies.by_command[CommandId(name)][0].facts["plans"] for name in ("first", "second", "third")}
        assert worker.lines("session.ended") == []
    assert replanned == Appended(command_id=CommandId("second"), first_position=Position(2), last_position=Position(2))
    assert conflict == ConcurrencyConflict(command_id=CommandId("third"), expected=2, actual=Position(3))
    assert plans == {"first": 1, "second": 2, "third": 2}, "the head was still in the worker's memory"
    assert [event.command_id for event in await place.events(key)] == ["first", "outside-1", "second", "outside-2"]


async def test_writers_outside_the_queue_and_the_worker_lose_none_of_their_events(place: Place) -> None:
    key = BrookKey("contended", "1")
    commands = [command(command_id=f"inside-{number}", key=key) for number in range(60)]
    outside = [f"outside-{number}" for number in range(30)]
    async with place.ready_worker(group_commands_max="5") as worker, place.client() as (client, replies):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.send_many, commands)
            for command_id in outside:
                await outside_append(place, key, command_id)
        await replies.to_each(commands)
        assert worker.returncode is None
    found = [str(event.command_id) for event in await place.events(key)]
    assert [one for one in found if one.startswith("inside")] == [one.command_id for one in commands]
    assert [one for one in found if one.startswith("outside")] == outside
    positions = [replies.by_command[one.command_id][0].reply for one in commands]
    assert [found[reply.first_position] for reply in positions if isinstance(reply, Appended)] == [
        one.command_id for one in commands
    ]


async def test_replicas_that_are_behind_change_no_reply_and_append_nothing_twice(place: Place) -> None:
    """A worker that has just started may read what is long past, and here it gets commands that were sent before."""
    key = BrookKey("behind", "1")
    window = {"recent_commands_max": "2", "group_commands_max": "2"}
    commands = [command(command_id=f"c{number}", key=key) for number in range(8)]

    async def send_all() -> list[object]:
        return [await client.append(key, one.events, command_id=one.command_id) for one in commands]

    async with place.client() as (client, _):
        async with place.ready_worker(**window):
            first = await send_all()
        rule = Rule(
            service="cosmos", operation="query", effect=ReadBehind(transactions=100), where={"partition_key": str(key)}
        )
        async with place.rule(rule) as fired, place.ready_worker(**window):
            again = await send_all()
            await outside_append(place, key, "outside")
            last = await client.append(key, command().events, expected=8, command_id="last")
            assert await fired() >= 1
    assert again == first
    assert last == Appended(command_id=CommandId("last"), first_position=Position(9), last_position=Position(9))
    found = [event.command_id for event in await place.events(key)]
    assert found == [*(one.command_id for one in commands), "outside", "last"]

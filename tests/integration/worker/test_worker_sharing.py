"""More than one writer: worker processes that share a queue, and writers that nobody told of the queue."""

import itertools

import anyio
import pytest

from schemas.keys import BrookKey
from schemas.replies import Appended, ConcurrencyConflict
from schemas.types import CommandId, Position
from tests.support.brooks import command, prepared
from tests.support.site import Place
from tests.support.worker_process import WorkerProcess
from worker.handlers.append import AppendHandler
from worker.handlers.brook import BrookState
from worker.protocol.model import Limits
from worker.protocol.verdicts import Accepted

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

BROOKS = 12
WAVES = 3
EACH = 8


def brooks_of(worker: WorkerProcess) -> set[str]:
    return {line["brook"] for line in worker.lines("append.committed")}


async def test_two_workers_share_the_sessions_and_keep_the_order_of_each_brook(place: Place) -> None:
    keys = [BrookKey("shared", str(number)) for number in range(BROOKS)]
    sent = {key: [command(command_id=f"{key}-{n}", events=2, key=key) for n in range(WAVES * EACH)] for key in keys}
    async with place.ready_worker() as one, place.ready_worker() as other, place.client() as (client, replies):
        for wave in range(WAVES):
            # Brook by brook in turn, so that each has a backlog and sessions go from hand to hand between waves.
            rows = [sent[key][wave * EACH : (wave + 1) * EACH] for key in keys]
            group = list(itertools.chain.from_iterable(zip(*rows, strict=True)))
            await client.send_many(group)
            await replies.to_each(group)
        committed = (brooks_of(one), brooks_of(other))
    assert all(committed), "both took part"
    assert committed[0] | committed[1] == {str(key) for key in keys}
    for key, commands in sent.items():
        expected = [event.event_id for one_command in commands for event in one_command.events]
        assert [event.event_id for event in await place.events(key)] == expected
        for number, one_command in enumerate(commands):
            (reply,) = replies.by_command[one_command.command_id]
            assert reply.reply == Appended(
                command_id=one_command.command_id,
                first_position=Position(2 * number),
                last_position=Position(2 * number + 1),
            )


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

"""Workers that come, go and die, on any stack: nothing lost, nothing twice, nothing held for ever."""

import itertools
import signal
from collections.abc import Sequence

import pytest
from azure.storage.blob.aio import BlobLeaseClient

from schemas.commands import AppendCommand
from schemas.keys import BrookKey, session_id_for
from schemas.replies import Appended
from schemas.types import Position
from tests.support.brooks import command
from tests.support.places import Replies
from tests.support.stacks.stack import Stack, StackPlace
from tests.support.waiting import wait_until
from tests.support.worker_process import WorkerProcess
from worker.locking.names import blob_name

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

LEASE_S = 60


def brooks_of(worker: WorkerProcess) -> set[str]:
    return {line["brook"] for line in worker.lines("append.committed")}


def in_turn(keys: Sequence[BrookKey], each: int) -> list[AppendCommand]:
    """Commands brook by brook in turn, so that each has a backlog."""
    return [command(command_id=f"{key}-{n}", events=2, key=key) for n in range(each) for key in keys]


async def check_all_took_effect_once(place: StackPlace, replies: Replies, commands: Sequence[AppendCommand]) -> None:
    """Each brook has the events of its commands in order, and each command's replies, all alike, say where."""
    for key, group in itertools.groupby(sorted(commands, key=lambda one: str(one.brook)), lambda one: one.brook):
        mine = list(group)
        expected = [event.event_id for one in mine for event in one.events]
        assert [event.event_id for event in await place.events(key)] == expected
        for number, one in enumerate(mine):
            assert {reply.reply for reply in replies.by_command[one.command_id]} == {
                Appended(
                    command_id=one.command_id,
                    first_position=Position(2 * number),
                    last_position=Position(2 * number + 1),
                )
            }


async def test_two_workers_share_the_sessions_and_keep_the_order_of_each_brook(place: StackPlace) -> None:
    brooks, waves, each = 12, 3, 8
    keys = [BrookKey("shared", str(number)) for number in range(brooks)]
    commands = in_turn(keys, waves * each)
    size = brooks * each
    async with place.ready_worker() as one, place.ready_worker() as other, place.client() as (client, replies):
        for wave in range(waves):  # sessions go from hand to hand between waves
            group = commands[wave * size : (wave + 1) * size]
            await client.send_many(group)
            await replies.to_each(group, place.patience_s * 2)
        committed = (brooks_of(one), brooks_of(other))
    assert all(committed), "both took part"
    assert committed[0] | committed[1] == {str(key) for key in keys}
    await check_all_took_effect_once(place, replies, commands)
    assert {len(found) for found in replies.by_command.values()} == {1}


async def test_a_signal_under_load_loses_nothing_and_leaves_nothing_held(place: StackPlace) -> None:
    commands = in_turn([BrookKey("drained", str(number)) for number in range(8)], 10)
    async with place.client() as (client, replies):
        async with place.ready_worker(group_commands_max="2") as worker:
            await client.send_many(commands)
            await wait_until(lambda: replies.count >= 10, "the worker is busy", place.patience_s)
            worker.send_signal(signal.SIGTERM)
            assert await worker.ended() == 0, worker.text()[-3000:]
        assert await place.held_leases() == []
        assert [worker.lines(event) for event in ("session.ended", "worker.ended-at-once")] == [[], []]
        assert not await place.nothing_left(), "it stopped in the midst of its work"
        async with place.ready_worker() as successor:
            await replies.to_each(commands, place.patience_s * 2)
            successor.send_signal(signal.SIGTERM)
            assert await successor.ended() == 0
    await check_all_took_effect_once(place, replies, commands)
    assert {len(found) for found in replies.by_command.values()} == {1}, "what was replied to was completed too"
    assert await place.nothing_left()


async def test_after_a_kill_another_worker_takes_over_and_nothing_is_lost_or_doubled(place: StackPlace) -> None:
    keys = [BrookKey("killed", str(number)) for number in range(6)]
    commands = in_turn(keys, 20)
    async with place.client() as (client, replies):
        async with place.ready_worker(group_commands_max="2") as worker:
            await client.send_many(commands)
            await wait_until(lambda: replies.count >= 10, "the worker is busy", place.patience_s)
            await worker.kill()
        for key in keys:
            await place.end_lease(session_id_for(key))
        async with place.ready_worker():
            await replies.to_each(commands, place.patience_s * 2)
    await check_all_took_effect_once(place, replies, commands)


async def test_a_brook_whose_lease_another_holds_waits_and_others_go_on(stack: Stack, place: StackPlace) -> None:
    held, free = BrookKey("leased", "held"), BrookKey("leased", "free")
    async with place.client() as (client, replies), place.ready_worker(lease_acquire_timeout_s="0.2") as worker:
        blob = stack.services.blobs.get_blob_client(place.lease_container, blob_name(session_id_for(held)))
        await blob.upload_blob(b"")
        lease = BlobLeaseClient(blob)
        await lease.acquire(lease_duration=LEASE_S)
        waiting = command(command_id="waiting", key=held)
        await client.send(waiting)
        await worker.logged("session.ended", timeout_s=place.patience_s)
        reply = await client.append(free, command().events, timeout_s=place.patience_s)
        assert isinstance(reply, Appended)
        assert replies.by_command[waiting.command_id] == []
        await lease.release()
        (answer,) = await replies.number(1, waiting.command_id, place.patience_s)
    assert {line["error"] for line in worker.lines("session.ended")} == {"LeaseTimeoutError"}
    assert (type(answer.reply), answer.facts["deliveryCount"]) == (Appended, 0)


@pytest.mark.needs("connections")
async def test_many_sessions_are_worked_on_at_once(place: StackPlace) -> None:
    commands = in_turn([BrookKey("many", str(number)) for number in range(24)], 4)
    async with place.ready_worker(max_concurrent_sessions="16") as worker, place.client() as (client, replies):
        await client.send_many(commands)
        await replies.to_each(commands, place.patience_s * 2)
        assert worker.returncode is None
    await check_all_took_effect_once(place, replies, commands)

"""The end of a worker: nothing lost, nothing held, in time."""

import signal

import anyio
import pytest

from emulator.faults import Rule
from schemas.keys import BrookKey
from tests.support.brooks import command
from tests.support.site import Place
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

BROOKS = 16
EACH = 15
GRACE_S = 15.0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_under_load_loses_nothing_and_leaves_nothing_held(place: Place, number: signal.Signals) -> None:
    keys = [BrookKey("drained", str(index)) for index in range(BROOKS)]
    commands = [command(command_id=f"{key}-{n}", key=key) for n in range(EACH) for key in keys]
    slow = Rule(service="cosmos", operation="batch", latency_s=0.02, latency_jitter_s=0.03)
    async with place.client() as (client, replies):
        async with (
            place.rule(slow),
            place.ready_worker(group_commands_max="5", drain_grace_s=str(GRACE_S)) as worker,
        ):
            await client.send_many(commands)
            await wait_until(lambda: replies.count >= len(commands) // 6, "the worker is busy")
            worker.send_signal(number)
            told_s = anyio.current_time()
            assert await worker.ended() == 0, worker.text()[-3000:]
            assert anyio.current_time() - told_s < GRACE_S
        counts = (await place.control.entities())[place.command_queue]
        assert counts.locked == 0
        assert 0 < counts.active < len(commands), "it stopped in the midst of its work"
        assert await place.held_leases() == []
        assert [worker.lines(event) for event in ("session.ended", "worker.ended-at-once")] == [[], []]
        async with place.ready_worker():
            await replies.to_each(commands)
        await wait_until(place.is_drained, "every command settled")
    twice = [one.command_id for one in commands if len(replies.by_command[one.command_id]) != 1]
    assert twice == [], "what was replied to was completed too"
    assert all(found[0].facts["deliveryCount"] == 0 for found in replies.by_command.values())
    for key in keys:
        assert [event.command_id for event in await place.events(key)] == [f"{key}-{n}" for n in range(EACH)]


async def test_a_signal_while_idle_ends_it_soon(place: Place) -> None:
    async with place.ready_worker(session_accept_wait_s="30") as worker:
        worker.send_signal(signal.SIGTERM)
        with anyio.fail_after(8):
            assert await worker.ended() == 0


async def test_a_second_signal_ends_it_at_once_and_nothing_is_lost(place: Place) -> None:
    key = BrookKey("drained", "twice")
    one = command(command_id="patient", key=key)
    held = Rule(service="cosmos", operation="batch", latency_s=600)
    async with place.client() as (client, replies):
        async with (
            place.rule(held) as fired,
            place.ready_worker(cosmos_timeout_s="60", store_time_max_s="60", drain_grace_s="60") as worker,
        ):
            await client.send(one)
            await wait_until(lambda: _acted(fired), "a write is under way")
            worker.send_signal(signal.SIGTERM)
            await worker.logged("worker.draining")
            worker.send_signal(signal.SIGTERM)
            told_s = anyio.current_time()
            await worker.ended(timeout_s=30)
            assert anyio.current_time() - told_s < 3
            assert len(worker.lines("worker.ended-at-once")) == 1
            assert worker.returncode not in (None, 0)
        if await place.held_leases():
            await place.end_lease(str(key))
        async with place.ready_worker():
            await replies.to_each([one])
    assert [event.command_id for event in await place.events(key)] == [one.command_id]


async def test_the_end_of_the_grace_period_ends_it(place: Place) -> None:
    key = BrookKey("drained", "too-slow")
    held = Rule(service="cosmos", operation="batch", latency_s=600)
    async with (
        place.client() as (client, _),
        place.rule(held) as fired,
        place.ready_worker(
            cosmos_timeout_s="60", store_time_max_s="60", drain_grace_s="1", reply_send_timeout_s="1"
        ) as worker,
    ):
        await client.send(command(key=key))
        await wait_until(lambda: _acted(fired), "a write is under way")
        worker.send_signal(signal.SIGTERM)
        told_s = anyio.current_time()
        await worker.ended(timeout_s=30)
        assert anyio.current_time() - told_s < 4


async def _acted(fired: object) -> bool:
    assert callable(fired)
    return bool(await fired() >= 1)

"""A session and its lease: commands arrive while it is awaited, and whatever becomes of it, none of them suffers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import msgspec
import pytest
from anyio import CancelScope

from schemas.codec import encode_command
from schemas.guards import Guards
from schemas.keys import session_id_for
from tests.support.brooks import KEY, command
from tests.support.sessions import QUICK
from tests.support.waiting import wait_until
from worker.handlers.append import AppendHandler
from worker.locking.memory import MemoryLease, MemoryLeaseManager, MemoryLeaseService
from worker.locking.options import LeaseOptions
from worker.protocol.model import Limits
from worker.sessions.group import GroupProcessor
from worker.sessions.intake import Intake
from worker.sessions.memory import MemoryBroker, MemoryReplies
from worker.sessions.serve import SessionServer
from worker.sessions.stopping import Stopping
from worker.storage.memory import MemoryBrookStore
from worker.telemetry.instruments import LOSSES

pytestmark = pytest.mark.anyio

COMMANDS = 5
SESSION = session_id_for(KEY)
OPTIONS = msgspec.structs.replace(QUICK, max_concurrent_sessions=1, session_pause_max_s=0.02, lease_renew_after_s=0.005)


class SlowToRelease(MemoryLeaseManager):
    """Gives out leases whose release is answered late."""

    async def acquire(self, key: str) -> MemoryLease:
        lease = await super().acquire(key)
        released = lease.release

        async def release() -> None:
            await released()
            await anyio.sleep(10 * OPTIONS.lease_renew_after_s)

        lease.release = release  # type: ignore[method-assign]  # as when the service is slow
        return lease


class World:
    """A worker whose only session's lease another one may hold."""

    def __init__(self, acquire_timeout_s: float = 10.0) -> None:
        self.broker = MemoryBroker()
        self.replies = MemoryReplies()
        self.store = MemoryBrookStore()
        self.service = MemoryLeaseService()
        options = LeaseOptions(acquire_timeout_s=acquire_timeout_s, backoff_initial_s=0.01, backoff_max_s=0.02)
        self.leases: MemoryLeaseManager = MemoryLeaseManager(self.service, options)
        self.stopping = Stopping()
        for number in range(COMMANDS):
            one = command(command_id=f"c{number}")
            self.broker.send(encode_command(one), session_id=SESSION, message_id=one.command_id)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[CancelScope]:
        handler = AppendHandler(self.store, Limits(), replans_max=5)
        groups = GroupProcessor(Intake(Guards(), frozenset()), handler, self.replies)
        server = SessionServer(self.broker, self.leases, groups, OPTIONS)
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(server.run, self.stopping)
                yield tasks.cancel_scope
                self.stopping.set()

    async def asked(self, times: int = 1) -> None:
        """Wait until the lease was asked for so often once more."""
        goal = self.service.requests + times
        await wait_until(lambda: self.service.requests >= goal, "the lease was asked for")

    async def all_done_once(self, *, delivered_before: int = 0) -> None:
        await wait_until(lambda: self.broker.pending() == 0, "every message settled")
        written = [str(one.command_id) async for one in self.store.read_forward(KEY)]
        assert written == [f"c{number}" for number in range(COMMANDS)]
        assert [sent.correlation_id for sent in self.replies.sent] == written
        assert {one.delivery_count for one in self.broker.completed} == {delivered_before}


async def test_commands_that_came_before_the_lease_are_worked_on_though_no_more_came_meanwhile() -> None:
    world = World()
    held = await world.leases.acquire(SESSION)
    async with world.running():
        await world.asked(5)
        with anyio.move_on_after(3 * OPTIONS.session_idle_s):
            await anyio.sleep_forever()
        assert world.store.documents(KEY) == {}
        await held.release()
        await world.all_done_once()


async def test_a_lease_that_is_given_back_is_not_taken_for_lost() -> None:
    world = World()
    world.leases = SlowToRelease(world.service, LeaseOptions())
    losses = LOSSES.get("lease")
    async with world.running():
        await world.all_done_once()
        await wait_until(lambda: world.broker.held() == [], "the session given back")
    assert LOSSES.get("lease") == losses


async def test_a_lease_that_does_not_come_leaves_the_commands_uncounted() -> None:
    world = World(acquire_timeout_s=0.05)
    held = await world.leases.acquire(SESSION)
    async with world.running():
        await world.asked(20)
        assert world.store.documents(KEY) == {}
        assert world.replies.sent == []
        await held.release()
        await world.all_done_once()


async def test_a_lease_service_that_fails_leaves_the_commands_uncounted() -> None:
    world = World(acquire_timeout_s=0.05)
    world.service.unavailable = True
    async with world.running():
        await world.asked(20)
        assert world.store.documents(KEY) == {}
        world.service.unavailable = False
        await world.all_done_once()


async def test_stopping_while_the_lease_is_awaited_ends_at_once_and_gives_all_back() -> None:
    world = World(acquire_timeout_s=100.0)
    held = await world.leases.acquire(SESSION)
    async with world.running():
        await world.asked(5)
    assert world.broker.held() == []
    assert world.broker.pending() == COMMANDS
    await held.release()
    world.stopping = Stopping()
    async with world.running():
        await world.all_done_once()


async def test_a_worker_that_is_ended_at_once_gives_its_session_back() -> None:
    world = World(acquire_timeout_s=100.0)
    held = await world.leases.acquire(SESSION)
    async with world.running() as worker:
        await world.asked(5)
        worker.cancel()
    assert world.broker.held() == []
    assert world.broker.pending() == COMMANDS
    await held.release()


async def test_a_session_that_is_lost_while_the_lease_is_awaited_leaves_no_lease_behind() -> None:
    world = World()
    world.service.fail_next("lost-answer", "lost-answer", "lost-answer")  # taken, for all we know
    async with world.running():
        await world.asked()
        world.broker.take_lock(SESSION)
        await world.all_done_once(delivered_before=1)
    await world.leases.acquire(SESSION)


async def test_commands_that_come_while_the_lease_is_awaited_come_in_order() -> None:
    world = World()
    held = await world.leases.acquire(SESSION)
    async with world.running():
        await world.asked(2)
        for number in range(COMMANDS, 300):
            one = command(command_id=f"c{number}")
            world.broker.send(encode_command(one), session_id=SESSION, message_id=one.command_id)
        await world.asked(3)
        await held.release()
        await wait_until(lambda: world.broker.pending() == 0, "every message settled")
    written = [str(one.command_id) async for one in world.store.read_forward(KEY)]
    assert written == [f"c{number}" for number in range(300)]

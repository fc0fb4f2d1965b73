"""A conflict that was told, and whose command comes again after much else was decided, is told again as it was."""

from collections.abc import Sequence

import anyio
import msgspec
import pytest

from schemas.codec import encode_command
from schemas.guards import Guards
from schemas.keys import session_id_for
from tests.support.brooks import KEY, command
from tests.support.sessions import QUICK
from tests.support.waiting import wait_until
from worker.handlers.append import AppendHandler
from worker.handlers.lookup import Lookup
from worker.locking.memory import MemoryLeaseManager, MemoryLeaseService
from worker.locking.options import LeaseOptions
from worker.protocol.model import Limits
from worker.sessions.base import BrokerUnavailableError, OutgoingReply
from worker.sessions.group import GroupProcessor
from worker.sessions.intake import Intake
from worker.sessions.memory import MemoryBroker, MemoryReplies
from worker.sessions.serve import SessionServer
from worker.sessions.stopping import Stopping
from worker.storage.memory import MemoryBrookStore

pytestmark = pytest.mark.anyio

COMMANDS = 40


class SlowReplies(MemoryReplies):
    """The first replies are with the broker, but its answer takes until the session is lost."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__()
        self._broker = broker
        self._slow = True

    async def send(self, replies: Sequence[OutgoingReply]) -> None:
        await super().send(replies)
        if self._slow:
            self._slow = False
            await anyio.wait_all_tasks_blocked()
            self._broker.take_lock(session_id_for(KEY))
            await anyio.sleep_forever()


@pytest.mark.parametrize("others", ["accepted", "conflicts"])
@pytest.mark.parametrize(("group_commands_max", "remembered"), [(4, 5), (1, 1)])
async def test_a_conflict_outlives_all_that_is_decided_before_its_command_is_settled(
    others: str, group_commands_max: int, remembered: int
) -> None:
    broker = MemoryBroker()
    replies = SlowReplies(broker)
    store = MemoryBrookStore()
    handler = AppendHandler(store, Limits(recent_commands_max=remembered), replans_max=3)
    groups = GroupProcessor(Intake(Guards(), frozenset()), handler, replies)
    leases = MemoryLeaseManager(MemoryLeaseService(), LeaseOptions())
    first = command(command_id="first", expected=0)
    rest = [command(expected="any" if others == "accepted" or n == 0 else 99) for n in range(COMMANDS)]
    for one in (first, *rest):
        broker.send(encode_command(one), session_id=session_id_for(KEY), message_id=one.command_id)
    stopping = Stopping()
    options = msgspec.structs.replace(QUICK, max_concurrent_sessions=1, group_commands_max=group_commands_max)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(SessionServer(broker, leases, groups, options).run, stopping)
        await wait_until(lambda: broker.pending() == 0, "every message settled")
        stopping.set()
    bodies: dict[str, set[bytes]] = {}
    for sent in replies.sent:
        bodies.setdefault(sent.correlation_id, set()).add(sent.body)
    assert len(bodies) == COMMANDS + 1
    assert [found for found in bodies.values() if len(found) != 1] == []


class RefusedReplies(MemoryReplies):
    """The broker takes none of the first replies, and says so when as much was decided behind them as ever is."""

    def __init__(self) -> None:
        super().__init__()
        self._refuses = True

    async def send(self, replies: Sequence[OutgoingReply]) -> None:
        if self._refuses:
            self._refuses = False
            await anyio.wait_all_tasks_blocked()
            raise BrokerUnavailableError("not sent")
        await super().send(replies)


async def test_what_was_decided_and_comes_again_uncounted_is_looked_up_though_the_window_has_gone_past_it() -> None:
    """Also where only what may have been decided before is looked up: a session given back counts no delivery."""
    broker, replies, store = MemoryBroker(), RefusedReplies(), MemoryBrookStore()
    limits = Limits(recent_commands_max=2)
    handler = AppendHandler(store, limits, replans_max=3, lookup=Lookup.REDELIVERED)
    groups = GroupProcessor(Intake(Guards(), frozenset()), handler, replies)
    leases = MemoryLeaseManager(MemoryLeaseService(), LeaseOptions())
    ids = [f"c{number}" for number in range(COMMANDS)]
    for command_id in ids:
        one = command(command_id=command_id)
        broker.send(encode_command(one), session_id=session_id_for(KEY), message_id=one.command_id)
    stopping = Stopping()
    options = msgspec.structs.replace(QUICK, max_concurrent_sessions=1, group_commands_max=2)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(SessionServer(broker, leases, groups, options).run, stopping)
        await wait_until(lambda: broker.pending() == 0, "every message settled")
        stopping.set()
    assert {one.delivery_count for one in broker.completed} == {0}
    assert [one.command_id async for one in store.read_forward(KEY)] == ids
    assert [sent.correlation_id for sent in replies.sent] == ids

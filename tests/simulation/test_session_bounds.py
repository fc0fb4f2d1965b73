"""What a session may hold in memory, and how often the worker asks, when things go badly."""

import tracemalloc
from collections.abc import Sequence
from typing import Any

import anyio
import msgspec
import pytest

from schemas.codec import MSGPACK, encode_command
from schemas.guards import Guards
from schemas.keys import BrookKey, session_id_for
from tests.support.brooks import KEY, command, event
from tests.support.sessions import QUICK, Passing
from tests.support.waiting import wait_until
from worker.handlers.append import AppendHandler
from worker.locking.memory import MemoryLeaseManager, MemoryLeaseService
from worker.locking.options import LeaseOptions
from worker.protocol.model import Limits
from worker.sessions.base import CommandSession, Delivery, SessionLostError, Settlement
from worker.sessions.brooks import Brooks
from worker.sessions.group import GroupProcessor
from worker.sessions.intake import Intake, Taken
from worker.sessions.memory import MemoryBroker, MemoryReplies, MemorySession
from worker.sessions.pipeline import UNSETTLED_GROUPS_MAX
from worker.sessions.serve import SessionServer
from worker.sessions.stopping import Stopping
from worker.storage.base import LoadedBrook
from worker.storage.memory import MemoryBrookStore

pytestmark = pytest.mark.anyio

BODY_BYTES = 10_000
GROUP_COMMANDS_MAX = 100
OPTIONS = msgspec.structs.replace(
    QUICK,
    session_pause_initial_s=0.05,
    session_pause_max_s=0.1,
    group_commands_max=GROUP_COMMANDS_MAX,
    group_bytes_max=10 * BODY_BYTES,
)


class Watched(Passing):
    """A session that adds up what it gave out and has not been told the end of."""

    def __init__(self, session: MemorySession, totals: "Source") -> None:
        super().__init__(session)
        self._totals = totals

    async def receive(self, count_max: int, wait_s: float) -> Sequence[Delivery]:
        deliveries = await super().receive(count_max, wait_s)
        self._totals.hold(sum(len(one.body or b"") for one in deliveries))
        return deliveries

    async def settle(self, settlements: Sequence[tuple[Delivery, Settlement]]) -> None:
        await super().settle(settlements)
        self._totals.hold(-sum(len(one.body or b"") for one, _ in settlements))


class Source:
    """Sessions of the in-memory broker, watched."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self.bytes_in_hand = 0
        self.bytes_in_hand_max = 0

    async def accept(self) -> CommandSession | None:
        session = await self._broker.accept()
        return None if session is None else Watched(session, self)

    def hold(self, more_bytes: int) -> None:
        self.bytes_in_hand += more_bytes
        self.bytes_in_hand_max = max(self.bytes_in_hand_max, self.bytes_in_hand)


class GatedStore(MemoryBrookStore):
    """Answers nothing until its gate opens."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = anyio.Event()

    async def load(self, key: BrookKey) -> LoadedBrook:
        await self.gate.wait()
        return await super().load(key)


def server(source: Any, store: MemoryBrookStore, leases: Any = None, replies: Any = None) -> SessionServer:
    groups = GroupProcessor(
        Intake(Guards(), frozenset()), AppendHandler(store, Limits(), replans_max=5), replies or MemoryReplies()
    )
    manager = leases or MemoryLeaseManager(MemoryLeaseService(), LeaseOptions())
    return SessionServer(source, manager, groups, OPTIONS)


def send(broker: MemoryBroker, name: str, size_bytes: int) -> None:
    one = command(command_id=name, events=(event(data=b"x" * (size_bytes * 2 // 3)),))
    broker.send(encode_command(one), session_id=session_id_for(KEY), message_id=name)


async def test_large_commands_that_wait_behind_a_slow_store_take_a_bounded_part_of_memory() -> None:
    broker, store, stopping = MemoryBroker(), GatedStore(), Stopping()
    source = Source(broker)
    for number in range(400):
        send(broker, f"c{number}", BODY_BYTES)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server(source, store).run, stopping)
        await wait_until(lambda: source.bytes_in_hand > 0, "something received")
        await anyio.wait_all_tasks_blocked()
        store.gate.set()
        await wait_until(lambda: broker.pending() == 0, "every message settled")
        stopping.set()
    assert len(broker.completed) == 400
    assert source.bytes_in_hand == 0
    assert source.bytes_in_hand_max <= UNSETTLED_GROUPS_MAX * OPTIONS.group_bytes_max


def small_values(number: int, count: int) -> bytes:
    """A command whose message is almost nothing but empty lists: a byte each here, seventy in memory."""
    (one,) = command(events=1).events
    marked = msgspec.structs.replace(one, metadata={"a": "HERE"})
    before, after = encode_command(command(command_id=f"c{number}", events=(marked,)), MSGPACK).split(b"\xa4HERE")
    return before + b"\xdd" + count.to_bytes(4, "big") + b"\x90" * count + after


async def test_commands_that_take_far_more_memory_than_bytes_are_decided_a_few_at_a_time() -> None:
    broker, store, replies = MemoryBroker(), MemoryBrookStore(), MemoryReplies()
    for number in range(6):
        broker.send(
            small_values(number, 80_000),
            session_id=session_id_for(KEY),
            message_id=f"c{number}",
            content_type=MSGPACK,
        )
    session = await broker.accept()
    assert session is not None
    waiting = list(await session.receive(6, 1))
    groups = GroupProcessor(Intake(Guards(), frozenset()), AppendHandler(store, Limits(), replans_max=5), replies)
    brooks, together = Brooks(10), []
    while waiting:
        decided = await groups.decide(brooks, waiting, doubtful=False)
        assert [one.delivery for one in decided] == waiting[: len(decided)]
        together.append(len(decided))
        waiting = waiting[len(decided) :]
        await groups.finish(session, decided)
    assert together == [2] * 3, "two of them take about as much as may be together"
    assert [msgspec.msgpack.decode(one.body)["lastPosition"] for one in replies.sent] == list(range(6))


async def test_what_a_command_takes_in_memory_is_not_underrated() -> None:
    for body in (small_values(0, 80_000), encode_command(command(command_id="c0", events=5_000), MSGPACK)):
        broker = MemoryBroker()
        broker.send(body, session_id=session_id_for(KEY), message_id="c0", content_type=MSGPACK)
        session = await broker.accept()
        assert session is not None
        (delivery,) = await session.receive(1, 1)
        tracemalloc.start()
        taken = Intake(Guards(), frozenset()).take(delivery)
        used_bytes = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert isinstance(taken, Taken)
        assert used_bytes <= taken.memory_bytes <= 3 * used_bytes


class Doomed:
    """A session that is lost as soon as anything is asked of it."""

    session_id = "doomed"

    async def receive(self, count_max: int, wait_s: float) -> Sequence[Delivery]:
        await anyio.lowlevel.checkpoint()
        raise SessionLostError("gone at once", "connection")

    async def settle(self, settlements: Sequence[tuple[Delivery, Settlement]]) -> None:
        raise AssertionError("there is nothing to settle")

    async def keep_locked(self) -> None:
        await anyio.sleep_forever()

    async def close(self) -> None:
        await anyio.lowlevel.checkpoint()


class DoomedSource:
    def __init__(self) -> None:
        self.accepted = 0

    async def accept(self) -> CommandSession | None:
        await anyio.lowlevel.checkpoint()
        self.accepted += 1
        return Doomed()


async def test_sessions_that_are_lost_at_once_again_and_again_do_not_keep_the_worker_busy() -> None:
    source, stopping = DoomedSource(), Stopping()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server(source, MemoryBrookStore()).run, stopping)
        await wait_until(lambda: source.accepted > 2, "sessions")
        with anyio.move_on_after(4 * OPTIONS.session_pause_initial_s):
            await anyio.sleep_forever()
        stopping.set()
    most = OPTIONS.max_concurrent_sessions * (4 / 0.5 + 2)
    assert source.accepted <= most

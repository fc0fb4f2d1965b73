"""The session server over in-memory references: settle rules, failures, draining."""

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import pytest

from schemas.codec import JSON, MSGPACK, decode_reply, encode_command
from schemas.commands import AppendCommand
from schemas.guards import Guards
from schemas.keys import BrookKey, reply_message_id, session_id_for
from schemas.replies import Appended, ConcurrencyConflict, Rejected, RejectionCode, Reply
from schemas.types import CommandId, Position
from tests.support.brooks import KEY, command, event, prepared
from tests.support.sessions import QUICK, serving
from tests.support.waiting import wait_until
from worker.handlers.append import AppendHandler, GroupResult
from worker.handlers.brook import BrookState
from worker.locking.memory import MemoryLeaseManager, MemoryLeaseService
from worker.locking.options import LeaseOptions
from worker.protocol.model import Limits
from worker.protocol.prepare import PreparedCommand
from worker.protocol.writes import Create, Operation
from worker.sessions.base import BrokerUnavailableError, CommandSession, OutgoingReply
from worker.sessions.group import GroupProcessor
from worker.sessions.intake import Intake
from worker.sessions.memory import MemoryBroker, MemoryReplies
from worker.sessions.serve import SessionOptions, SessionServer
from worker.sessions.stopping import Stopping
from worker.storage.base import LoadedBrook, StoreUnavailableError, WriteResult
from worker.storage.memory import MemoryBrookStore

pytestmark = pytest.mark.anyio

OPTIONS = msgspec.structs.replace(QUICK, max_concurrent_sessions=4)


BUCKETS = 3


class World:
    """A worker over references that a test can break."""

    def __init__(self, *, delivery_count_max: int = 10) -> None:
        self.broker = MemoryBroker(delivery_count_max=delivery_count_max)
        self.replies = FlakyReplies()
        self.store = FlakyStore()
        self.handler = BuggyHandler(self.store)
        self.leases = MemoryLeaseManager(MemoryLeaseService(), LeaseOptions())
        self.stopping = Stopping()

    def send(self, one: AppendCommand, *, content_type: str = JSON, buckets: int | None = None, **fields: Any) -> None:
        self.broker.send(
            encode_command(one, content_type),
            session_id=session_id_for(one.brook, buckets),
            message_id=one.command_id,
            content_type=content_type,
            **fields,
        )

    def outcomes(self) -> dict[str, Reply]:
        return {sent.correlation_id: decode_reply(sent.body, sent.content_type) for sent in self.replies.sent}

    @asynccontextmanager
    async def running(self, options: SessionOptions = OPTIONS) -> AsyncIterator[None]:
        intake = Intake(Guards(), frozenset({"elsewhere"}), session_buckets=BUCKETS)
        groups = GroupProcessor(intake, self.handler, self.replies)
        async with serving(SessionServer(self.broker, self.leases, groups, options), self.stopping):
            yield

    async def settled(self) -> None:
        async with self.running():
            await wait_until(lambda: self.broker.pending() == 0, "every message settled")


class FlakyStore(MemoryBrookStore):
    def __init__(self) -> None:
        super().__init__()
        self.failing = 0
        self.failed_writes = 0

    async def write(self, key: BrookKey, operations: Sequence[Operation]) -> WriteResult:
        if self.failing:
            self.failing -= 1
            self.failed_writes += 1
            raise StoreUnavailableError("out of order")
        return await super().write(key, operations)


class FlakyReplies(MemoryReplies):
    def __init__(self) -> None:
        super().__init__()
        self.failing = 0

    async def send(self, replies: Sequence[OutgoingReply]) -> None:
        await super().send(replies)
        if self.failing:
            self.failing -= 1
            raise BrokerUnavailableError("sent, but the answer was lost")


class BuggyHandler(AppendHandler):
    """Meets a bug in some commands."""

    def __init__(self, store: MemoryBrookStore) -> None:
        super().__init__(store, Limits(), replans_max=5)
        self.buggy: set[str] = set()

    async def append(
        self, brook: BrookState, commands: Sequence[PreparedCommand], redelivered: frozenset[CommandId] = frozenset()
    ) -> GroupResult:
        if any(one.command_id in self.buggy for one in commands):
            raise ZeroDivisionError
        return await super().append(brook, commands, redelivered)


async def test_each_command_gets_one_reply_in_order_and_is_completed() -> None:
    world = World()
    for index in range(30):
        world.send(command(command_id=f"c{index}"))
    world.send(command(command_id="late", expected=3))
    await world.settled()
    assert [sent.correlation_id for sent in world.replies.sent] == [*(f"c{index}" for index in range(30)), "late"]
    outcomes = world.outcomes()
    assert outcomes["c29"] == Appended(command_id="c29", first_position=29, last_position=29)  # type: ignore[arg-type]
    assert outcomes["late"] == ConcurrencyConflict(command_id="late", expected=3, actual=29)  # type: ignore[arg-type]
    assert len(world.broker.completed) == 31
    assert not world.broker.dead_letters


async def test_a_reply_goes_where_the_sender_asked_in_the_form_that_it_used() -> None:
    world = World()
    world.send(command(command_id="a"), content_type=MSGPACK, reply_to_session_id="mine", reply_to="Elsewhere")
    world.send(command(command_id="b"))
    await world.settled()
    first, second = world.replies.sent
    assert (first.session_id, first.content_type, first.address) == ("mine", MSGPACK, "Elsewhere")
    assert (second.session_id, second.content_type, second.address) == (session_id_for(KEY), JSON, None)
    assert first.message_id == reply_message_id(CommandId("a"), "mine")
    assert second.message_id == "r:b"
    assert first.properties["batchCommands"] == 2


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"body": b"{}"}, RejectionCode.UNDECODABLE),
        ({"body": None}, RejectionCode.UNDECODABLE),
        ({"body": b'{"schemaVersion":9}'}, RejectionCode.UNKNOWN_VERSION),
        ({"content_type": "text/plain"}, RejectionCode.UNSUPPORTED_CONTENT_TYPE),
        ({"session_id": "another"}, RejectionCode.WRONG_SESSION),
    ],
)
async def test_what_is_no_command_of_ours_is_dead_lettered_and_answered(
    fields: dict[str, object], code: RejectionCode
) -> None:
    world = World()
    message = {"body": encode_command(command(command_id="x")), "session_id": session_id_for(KEY), "message_id": "x"}
    world.broker.send(**(message | fields))  # type: ignore[arg-type]
    world.send(command(command_id="good"))
    await world.settled()
    ((dead, why),) = world.broker.dead_letters
    assert dead.message_id == "x"
    assert why.reason == code
    assert why.description
    rejection = world.outcomes()["x"]
    assert isinstance(rejection, Rejected)
    assert rejection.code == code
    assert isinstance(world.outcomes()["good"], Appended)


async def test_a_message_without_a_session_is_dead_lettered_without_a_reply() -> None:
    world = World()
    world.broker.send(encode_command(command()), session_id=None)
    await world.settled()
    ((_, why),) = world.broker.dead_letters
    assert why.reason == RejectionCode.NO_SESSION
    assert world.replies.sent == []


@pytest.mark.parametrize(
    ("one", "fields", "code"),
    [
        (command(command_id="x", events=()), {}, RejectionCode.NO_EVENTS),
        (command(command_id="x", key=BrookKey("a|b", "c")), {}, RejectionCode.INVALID_BROOK_KEY),
        (command(command_id="x"), {"message_id": "y"}, RejectionCode.INVALID_COMMAND_ID),
        (command(command_id="x"), {"reply_to": "stranger"}, RejectionCode.REPLY_ADDRESS_NOT_ALLOWED),
    ],
)
async def test_a_command_that_can_never_take_effect_is_rejected_and_completed(
    one: AppendCommand, fields: dict[str, str], code: RejectionCode
) -> None:
    world = World()
    message: dict[str, Any] = {"session_id": session_id_for(one.brook), "message_id": "x", **fields}
    world.broker.send(encode_command(one), **message)
    await world.settled()
    (sent,) = world.replies.sent
    rejection = decode_reply(sent.body)
    assert isinstance(rejection, Rejected)
    assert rejection.code == code
    assert rejection.message
    assert sent.address is None
    assert len(world.broker.completed) == 1


@pytest.mark.parametrize("reply_session", ["", "mine"])
async def test_each_answer_under_a_command_id_passes_duplicate_detection_and_none_passes_twice(
    reply_session: str,
) -> None:
    """A command that was rejected, mended and sent again; and another one under its id. Each is delivered twice."""
    world = World()
    for _ in range(2):
        for events in (0, 1, 2):
            one = command(command_id="x", events=tuple(event(f"e{n}") for n in range(events)))
            world.send(one, reply_to_session_id=reply_session)
    await world.settled()
    outcomes = [type(decode_reply(sent.body)) for sent in world.replies.sent]
    assert outcomes == [Rejected, Appended, Rejected] * 2
    message_ids = [sent.message_id for sent in world.replies.sent]
    assert len(set(message_ids)) == 3
    assert message_ids[:3] == message_ids[3:]


@pytest.mark.parametrize("body", [encode_command(command(command_id="x")), b"no command"])
async def test_a_reply_session_that_no_message_can_have_is_told_of_in_the_brooks_own(body: bytes) -> None:
    world = World()
    world.broker.send(body, session_id=session_id_for(KEY), message_id="x", reply_to_session_id="s" * 129)
    world.send(command(command_id="good"))
    await world.settled()
    rejection = world.outcomes()["x"]
    assert isinstance(rejection, Rejected)
    assert rejection.code in (RejectionCode.REPLY_ADDRESS_NOT_ALLOWED, RejectionCode.UNDECODABLE)
    assert [sent.session_id for sent in world.replies.sent] == [session_id_for(KEY)] * 2
    assert isinstance(world.outcomes()["good"], Appended)


async def test_a_store_outage_settles_nothing_counts_no_delivery_and_loses_nothing() -> None:
    world = World(delivery_count_max=2)
    world.store.failing = 7
    for index in range(3):
        world.send(command(command_id=f"c{index}"))
    await world.settled()
    assert world.store.failing == 0
    assert [delivery.delivery_count for delivery in world.broker.completed] == [0, 0, 0]
    assert [sent.correlation_id for sent in world.replies.sent] == ["c0", "c1", "c2"]


async def test_a_worker_with_nothing_to_do_is_ready_again_after_the_broker_was_away() -> None:
    """It stayed unready until the next command came, however late: an alert at night, and no scaling in."""
    world = World()
    source = ReturningBroker(world.broker)
    server = SessionServer(
        source, world.leases, GroupProcessor(Intake(Guards(), frozenset()), world.handler, world.replies), OPTIONS
    )
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, world.stopping)
        await wait_until(lambda: server.trouble is not None, "the outage shows")
        source.is_away = False
        await wait_until(lambda: server.trouble is None, "the worker is ready again")
        world.stopping.set()


class ReturningBroker:
    """A broker that is away until `is_away` is unset, and then has no session for anybody."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self.is_away = True

    async def accept(self) -> CommandSession | None:
        await anyio.lowlevel.checkpoint()
        if self.is_away:
            raise BrokerUnavailableError("accept a session: no answer")
        return await self._broker.accept()


async def test_a_reply_whose_sending_failed_is_sent_again_with_the_same_bytes() -> None:
    world = World()
    world.replies.failing = 2
    world.send(command(command_id="a", events=3))
    world.send(command(command_id="b", expected=7))
    await world.settled()
    for command_id in ("a", "b"):
        bodies = [sent.body for sent in world.replies.sent if sent.correlation_id == command_id]
        assert len(bodies) == 3
        assert len(set(bodies)) == 1
    assert len(world.store.documents(KEY)) == 4


async def test_a_bug_in_one_command_of_a_group_is_that_commands_alone() -> None:
    world = World(delivery_count_max=3)
    world.handler.buggy = {"bad"}
    for name in ("a", "bad", "b", "c"):
        world.send(command(command_id=name))
    await world.settled()
    assert [sent.correlation_id for sent in world.replies.sent] == ["a", "b", "c"]
    ((dead, _),) = world.broker.dead_letters
    assert (dead.message_id, dead.delivery_count) == ("bad", 3)


async def test_a_contradiction_is_dead_lettered_with_its_remedy_and_other_brooks_go_on() -> None:
    world = World()
    await world.store.write(KEY, [Create({"id": "head", "type": "head", "position": -5})])
    world.send(command(command_id="x"))
    other = BrookKey("orders", "2")
    world.send(command(command_id="y", key=other))
    await world.settled()
    ((dead, why),) = world.broker.dead_letters
    assert dead.message_id == "x"
    assert "repair" in why.description
    assert isinstance(world.outcomes()["y"], Appended)
    assert set(world.store.documents(KEY)) == {"head"}


async def test_what_took_effect_before_a_contradiction_was_met_is_not_told_to_be_rejected() -> None:
    """The first batch of the group takes effect, the second meets an event that no head tells of."""
    world = World()
    stray = prepared(command_id="stray").event_document(0, Position(99))
    await world.store.write(KEY, [Create(stray)])
    for index in range(130):
        world.send(command(command_id=f"c{index}"))
    await world.settled()
    outcomes = world.outcomes()
    assert [isinstance(outcomes[f"c{index}"], Appended) for index in range(130)] == [index < 99 for index in range(130)]
    assert [dead.message_id for dead, _ in world.broker.dead_letters] == [f"c{index}" for index in range(99, 130)]
    assert [one.command_id async for one in world.store.read_forward(KEY)] == [f"c{index}" for index in range(99)]
    assert len(world.replies.sent) == 130


async def test_a_lost_session_is_left_alone_and_its_commands_come_again() -> None:
    world = World()
    lost = Trigger(lambda: world.broker.take_lock(session_id_for(KEY)))
    world.replies.send = lost.around(world.replies.send)  # type: ignore[method-assign]
    world.send(command(command_id="a"))
    await world.settled()
    assert [sent.body for sent in world.replies.sent] == [world.replies.sent[0].body] * 2
    assert len(world.store.documents(KEY)) == 2
    (completed,) = world.broker.completed
    assert completed.delivery_count == 1


class Trigger:
    """Does something once, after the first call of what it is put around."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act: Callable[[], None] | None = act

    def around(self, call: Callable[[Sequence[OutgoingReply]], Awaitable[None]]) -> Any:
        async def wrapped(replies: Sequence[OutgoingReply]) -> None:
            await call(replies)
            if self._act is not None:
                self._act()
                self._act = None

        return wrapped


async def test_stopping_finishes_the_group_in_hand_and_gives_everything_back() -> None:
    world = World()
    for index in range(500):
        world.send(command(command_id=f"c{index}", key=BrookKey("orders", str(index % 7))))
    async with world.running():
        await wait_until(lambda: len(world.replies.sent) > 0, "the first replies")
    assert world.broker.held() == []
    answered = {sent.correlation_id for sent in world.replies.sent}
    assert {delivery.message_id for delivery in world.broker.completed} == answered
    assert world.broker.pending() == 500 - len(answered)


async def test_two_workers_share_the_sessions_and_keep_the_order_in_each() -> None:
    world = World()
    brooks = [BrookKey("orders", str(number)) for number in range(12)]
    for index in range(600):
        world.send(command(command_id=f"c{index}", key=brooks[index % 12]))
    async with world.running(), world.running():
        await wait_until(lambda: world.broker.pending() == 0, "every message settled")
    for number, key in enumerate(brooks):
        written = [str(event.command_id) async for event in world.store.read_forward(key)]
        assert written == [f"c{index}" for index in range(number, 600, 12)]


async def test_a_bucket_carries_many_brooks_and_keeps_the_order_of_each() -> None:
    world = World()
    brooks = [BrookKey("orders", str(number)) for number in range(40)]
    for index in range(400):
        world.send(command(command_id=f"c{index}", key=brooks[index % 40]), buckets=BUCKETS)
    assert len({session_id_for(key, BUCKETS) for key in brooks}) == BUCKETS
    await world.settled()
    for number, key in enumerate(brooks):
        written = [str(event.command_id) async for event in world.store.read_forward(key)]
        assert written == [f"c{index}" for index in range(number, 400, 40)]
    assert sorted(sent.correlation_id for sent in world.replies.sent) == sorted(f"c{index}" for index in range(400))


async def test_a_bucket_of_another_number_of_buckets_is_the_wrong_session() -> None:
    world = World()
    world.send(command(command_id="x"), buckets=BUCKETS + 1)
    await world.settled()
    ((_, why),) = world.broker.dead_letters
    assert why.reason == RejectionCode.WRONG_SESSION
    assert f"session_id_for(brook, {BUCKETS})" in why.description


async def test_while_the_store_is_out_of_order_one_session_probes_and_the_others_wait() -> None:
    world = World(delivery_count_max=2)
    world.store.failing = 6
    for index in range(40):
        world.send(command(command_id=f"c{index}", key=BrookKey("orders", str(index % 8))))
    await world.settled()
    assert world.store.failing == 0
    assert len(world.replies.sent) == 40
    assert {delivery.delivery_count for delivery in world.broker.completed} == {0}
    assert world.store.failed_writes <= 6


async def test_a_brook_whose_partition_does_not_answer_holds_up_no_other() -> None:
    class OneBad(FlakyStore):
        asked = 0

        async def load(self, key: BrookKey) -> LoadedBrook:
            if key.entity_id == "bad":
                self.asked += 1
                raise StoreUnavailableError("this partition is throttled")
            return await super().load(key)

    world = World()
    world.store = store = OneBad()
    world.handler = BuggyHandler(store)
    world.send(command(command_id="bad", key=BrookKey("orders", "bad")))
    async with world.running(msgspec.structs.replace(OPTIONS, session_pause_max_s=100)):
        await wait_until(lambda: store.asked >= 15, "the bad brook was tried again and again")
        world.send(command(command_id="good", key=BrookKey("orders", "good")))
        await wait_until(lambda: "good" in world.outcomes(), "the reply of the other brook")
        world.stopping.set()
    assert [delivery.message_id for delivery in world.broker.completed] == ["good"]


async def test_idle_sessions_give_their_slots_to_those_that_wait() -> None:
    world = World()
    for number in range(40):
        world.send(command(command_id=f"c{number}", key=BrookKey("many", str(number))))
    options = msgspec.structs.replace(OPTIONS, max_concurrent_sessions=2, session_idle_s=60, session_hold_max_s=60)
    async with world.running(options):
        await wait_until(
            lambda: len(world.outcomes()) == 40, "the replies of all, though idle sessions may stay a minute"
        )
        world.stopping.set()


async def test_an_idle_session_is_kept_where_nobody_waits_though_all_slots_are_busy() -> None:
    world = World()
    brooks = [BrookKey("few", str(number)) for number in range(2)]
    options = msgspec.structs.replace(OPTIONS, max_concurrent_sessions=2, session_idle_s=60, session_hold_max_s=60)
    async with world.running(options):
        for turn in range(5):
            for brook in brooks:
                world.send(command(command_id=f"{brook}-{turn}", key=brook))
            await wait_until(lambda: world.broker.pending() == 0, "every message settled")
        # At first both came at once, as if more were waiting; that they came again showed that none is.
        for _ in range(50):
            await anyio.lowlevel.checkpoint()
        assert len(world.broker.held()) == 2
        world.stopping.set()


async def test_a_hot_brook_gives_its_slot_to_others_after_its_turn() -> None:
    world = World()
    options = msgspec.structs.replace(OPTIONS, max_concurrent_sessions=1, session_hold_max_s=0.05, group_commands_max=5)
    hot, quiet = BrookKey("hot", "1"), BrookKey("quiet", "1")
    sent = itertools.count()

    def keep_hot() -> None:
        while world.broker.pending() < 50:
            world.send(command(command_id=f"hot{next(sent)}", key=hot))

    keep_hot()
    async with world.running(options):
        await wait_until(lambda: bool(world.replies.sent), "the hot brook's first reply")
        world.send(command(command_id="quiet", key=quiet))

        def quiet_is_answered() -> bool:
            keep_hot()
            return "quiet" in world.outcomes()

        await wait_until(quiet_is_answered, "the quiet brook's reply while the hot one never runs dry")
        world.stopping.set()

"""What a session server over in-memory references tells: outcomes, sessions, and that observing changes nothing."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager

import anyio
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from schemas.codec import encode_command
from schemas.commands import Command
from schemas.guards import Guards
from schemas.keys import BrookKey, session_id_for
from schemas.types import CommandId
from tests.support.brooks import KEY, command
from tests.support.claims import claimed
from tests.support.sessions import QUICK, serving
from tests.support.waiting import wait_until
from worker.handlers.append import AppendHandler, GroupResult
from worker.handlers.brook import BrookState
from worker.locking.memory import MemoryLeaseManager, MemoryLeaseService
from worker.locking.options import LeaseOptions
from worker.protocol.model import Limits
from worker.protocol.prepare import PreparedCommand
from worker.sessions.base import BrokerRefusedError, BrokerUnavailableError, CommandSession, OutgoingReply
from worker.sessions.group import GroupProcessor
from worker.sessions.intake import Intake
from worker.sessions.memory import MemoryBroker, MemoryReplies
from worker.sessions.observed import ObservedLeases, ObservedReplies, ObservedSource
from worker.sessions.serve import SessionServer
from worker.sessions.stopping import Stopping
from worker.storage.memory import MemoryBrookStore
from worker.telemetry.export import sampler
from worker.telemetry.instruments import (
    ACCEPT_DURATION,
    COMMANDS,
    IN_HAND,
    LATENCY_FROM_ENQUEUE,
    LATENCY_FROM_RECEIVE,
    LEASE_WAIT,
    LOSSES,
    REQUESTS,
    RETRIES,
    SESSION_FAILURES,
    SESSIONS_ACTIVE,
    SLOTS_BUSY,
    STAGE_DURATION,
)
from worker.telemetry.scaling import ScalingSignal
from worker.telemetry.tracing import properties_of, tracing

pytestmark = pytest.mark.anyio


class Failing(MemoryBroker):
    """Does not answer as often as it is told to."""

    def __init__(self) -> None:
        super().__init__(delivery_count_max=3)
        self.failing = 0

    async def accept(self) -> CommandSession | None:  # type: ignore[override]  # wider than the reference's
        if self.failing:
            self.failing -= 1
            raise BrokerUnavailableError("no answer")
        return await super().accept()


class Buggy(AppendHandler):
    """Meets a bug in some commands, and can be held."""

    def __init__(self) -> None:
        super().__init__(MemoryBrookStore(), Limits(), replans_max=5)
        self.buggy: set[str] = set()
        self.going = anyio.Event()
        self.going.set()

    async def append(
        self, brook: BrookState, commands: Sequence[PreparedCommand], redelivered: frozenset[CommandId] = frozenset()
    ) -> GroupResult:
        await self.going.wait()
        if any(one.command_id in self.buggy for one in commands):
            raise ZeroDivisionError
        return await super().append(brook, commands, redelivered)


class Refusing(MemoryReplies):
    """Refuses for good as long as it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.refuses = False

    async def send(self, replies: Sequence[OutgoingReply]) -> None:
        if self.refuses:
            raise BrokerRefusedError("send replies: the entity is gone")
        await super().send(replies)


class BuggyLeases(MemoryLeaseService):
    """Meets a bug as long as it is told to."""

    is_buggy = True

    def take(self, key: str, lease_id: str, duration_s: float) -> bool:
        if self.is_buggy:
            raise ZeroDivisionError
        return super().take(key, lease_id, duration_s)


class World:
    def __init__(self) -> None:
        self.broker = Failing()
        self.replies = Refusing()
        self.handler = Buggy()
        self.service = MemoryLeaseService()
        self.signal = ScalingSignal(2)

    def send(self, one: Command) -> None:
        self.broker.send(encode_command(one), session_id=session_id_for(one.brook), message_id=one.command_id)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        leases = MemoryLeaseManager(self.service, LeaseOptions(acquire_timeout_s=0.01, backoff_initial_s=0.001))
        groups = GroupProcessor(Intake(Guards(), frozenset()), self.handler, ObservedReplies(self.replies))
        server = SessionServer(ObservedSource(self.broker, self.signal), ObservedLeases(leases), groups, QUICK)
        async with serving(server, Stopping()):
            yield

    async def settled(self) -> None:
        async with self.running():
            await wait_until(lambda: self.broker.pending() == 0, "every message settled")


@asynccontextmanager
async def grows(count: Callable[[], float], by: float = 1) -> AsyncIterator[None]:
    before = count()
    yield
    await wait_until(lambda: count() >= before + by, f"grown by {by}")
    assert count() == before + by


async def test_each_command_is_counted_once_by_what_became_of_it() -> None:
    world = World()
    twice = command(command_id="a")
    world.send(twice)
    world.send(twice)
    world.send(command(command_id="late", expected=7))
    world.send(command(command_id="empty", events=0))
    async with (
        grows(lambda: COMMANDS.get("appended", "first")),
        grows(lambda: COMMANDS.get("appended", "repeated")),
        grows(lambda: COMMANDS.get("conflict", "first")),
        grows(lambda: COMMANDS.get("rejected", "first")),
        grows(LATENCY_FROM_ENQUEUE.count, 4),
        grows(LATENCY_FROM_RECEIVE.count, 4),
    ):
        await world.settled()


async def test_a_command_that_meets_a_bug_is_abandoned_until_the_broker_ends_it_and_delays_no_other() -> None:
    world = World()
    world.handler.buggy.add("bug")
    world.send(command(command_id="bug"))
    world.send(command(command_id="good"))
    async with (
        grows(lambda: COMMANDS.get("abandoned", "first")),
        grows(lambda: COMMANDS.get("abandoned", "repeated"), 2),
        grows(lambda: COMMANDS.get("appended", "first")),
    ):
        await world.settled()


async def test_sessions_are_counted_while_they_are_there_and_waits_by_how_they_end() -> None:
    world = World()
    world.handler.going = anyio.Event()
    world.broker.failing = 1
    waits = (lambda: ACCEPT_DURATION.count("accepted"), lambda: ACCEPT_DURATION.count("failed"))
    for number in range(2):
        world.send(command(key=BrookKey("observed", str(number))))
    async with grows(waits[0], 2), grows(waits[1]), world.running():
        for gauge in (SLOTS_BUSY, SESSIONS_ACTIVE, IN_HAND):
            await wait_until(lambda gauge=gauge: gauge.get() == 2, f"{gauge.name} is 2")
        assert world.signal.read().busy == 2
        timed_out = ACCEPT_DURATION.count("timeout")
        world.handler.going.set()
        await wait_until(lambda: world.broker.pending() == 0, "every message settled")
        await wait_until(lambda: ACCEPT_DURATION.count("timeout") > timed_out, "slots wait in vain")
    assert [gauge.get() for gauge in (SLOTS_BUSY, SESSIONS_ACTIVE, IN_HAND)] == [0, 0, 0]


async def test_a_session_that_is_taken_away_leaves_nothing_in_hand() -> None:
    world = World()
    world.handler.going = anyio.Event()
    world.send(command(command_id="lost"))
    async with grows(lambda: LOSSES.get("lock")), world.running():
        await wait_until(lambda: IN_HAND.get() == 1, "it is in hand")
        world.broker.take_lock(session_id_for(KEY))
        await wait_until(lambda: LOSSES.get("lock") > 0, "the loss is told")
        world.handler.going.set()
        await wait_until(lambda: world.broker.pending() == 0, "it came again")
    assert [gauge.get() for gauge in (SLOTS_BUSY, SESSIONS_ACTIVE, IN_HAND)] == [0, 0, 0]


async def test_waits_for_leases_and_their_retries_are_told_by_how_they_end() -> None:
    world = World()
    for key, prepare, count in (
        ("held", lambda: world.service.take(session_id_for(BrookKey("leases", "held")), "another", 60), "timeout"),
        ("away", lambda: setattr(world.service, "unavailable", True), "unavailable"),
    ):
        prepare()
        world.send(command(command_id=key, key=BrookKey("leases", key)))
        waits, retries = LEASE_WAIT.count(count), RETRIES.get("blob", "unavailable")
        async with world.running():
            await wait_until(lambda count=count, waits=waits: LEASE_WAIT.count(count) > waits, f"{count} is told")
        if count == "unavailable":
            assert RETRIES.get("blob", "unavailable") > retries


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    """Every group is recorded."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler=sampler(1.0))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.install(provider)
    yield exporter
    tracing.install(None)
    provider.shutdown()


async def test_a_command_whose_producer_does_not_trace_is_a_part_of_its_recorded_group(
    spans: InMemorySpanExporter,
) -> None:
    world = World()
    world.send(command())
    await world.settled()
    found = {span.name: span for span in spans.get_finished_spans()}
    one, group = found["append command"], found["append group"]
    assert one.parent == group.get_span_context()
    assert not one.links, "its group is its parent already"
    (reply,) = world.replies.sent
    context = one.get_span_context()
    assert context is not None
    assert reply.properties.items() >= properties_of(context).items()


async def test_the_span_of_a_group_tells_of_the_commands_decided_together_though_more_were_received(
    spans: InMemorySpanExporter,
) -> None:
    """A command with a claim is decided on alone."""
    world = World()
    sent, _ = claimed(command())
    for one in (command(), command(), sent, command()):
        world.send(one)
    await world.settled()
    groups = [span.attributes or {} for span in spans.get_finished_spans() if span.name == "append group"]
    assert [attributes["messaging.batch.message_count"] for attributes in groups] == [2, 1, 1]


async def test_a_session_that_is_lost_before_its_commands_are_settled_ends_their_spans_in_error(
    spans: InMemorySpanExporter,
) -> None:
    world = World()
    one = command()
    world.send(one)
    settled = world.replies.send

    async def lose(replies: Sequence[OutgoingReply]) -> None:
        await settled(replies)
        if len(world.replies.sent) == 1:
            world.broker.take_lock(session_id_for(one.brook))

    world.replies.send = lose  # type: ignore[method-assign]  # the moment in which a lock may be lost
    async with grows(lambda: COMMANDS.get("appended", "repeated")):
        await world.settled()
    first, second = [span for span in spans.get_finished_spans() if span.name == "append command"]
    assert (first.status.status_code, first.status.description) == (StatusCode.ERROR, "SessionLostError")
    assert second.status.status_code is StatusCode.UNSET
    assert (second.attributes or {})["brook.attempt"] == "repeated"


async def test_a_reply_entity_that_refuses_is_told_as_a_refusal() -> None:
    """An alert waits for it: the reply queue of a running worker was deleted, say."""
    world = World()
    world.replies.refuses = True
    before = REQUESTS.get("servicebus", "send", "refused"), SESSION_FAILURES.get("broker")
    world.send(command())
    async with world.running():
        await wait_until(lambda: REQUESTS.get("servicebus", "send", "refused") > before[0], "the refusal is told")
        await wait_until(lambda: SESSION_FAILURES.get("broker") > before[1], "the session's end is told")
        world.replies.refuses = False
        await wait_until(lambda: world.broker.pending() == 0, "the command is done once it is back")


async def test_a_session_that_fails_by_a_bug_in_no_command_is_told() -> None:
    world = World()
    world.service = leases = BuggyLeases()
    before = SESSION_FAILURES.get("bug")
    world.send(command())
    async with world.running():
        await wait_until(lambda: SESSION_FAILURES.get("bug") > before, "it is told")
        leases.is_buggy = False
        await wait_until(lambda: world.broker.pending() == 0, "the command is done once it is mended")


async def test_every_stage_and_each_request_to_the_broker_is_told() -> None:
    world = World()
    world.send(command())
    stages = {stage: STAGE_DURATION.count(stage) for stage in ("decide", "reply", "settle")}
    requests = {name: REQUESTS.get("servicebus", name, "ok") for name in ("accept", "send", "settle")}
    await world.settled()
    assert {stage: STAGE_DURATION.count(stage) - before for stage, before in stages.items()} == dict.fromkeys(stages, 1)
    assert {
        name: REQUESTS.get("servicebus", name, "ok") - before for name, before in requests.items()
    } == dict.fromkeys(requests, 1)

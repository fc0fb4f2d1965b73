"""Replies of topics, blocking calls, and sends that the queue does not confirm, over the real SDK."""

import gc
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.to_thread
import pytest
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient
from opentelemetry import trace
from opentelemetry.trace import SpanContext, TraceFlags

from brook_client import (
    BrookClient,
    BrookClientError,
    ConnectServiceBus,
    ReplyTimeoutError,
    SendError,
    sync,
    with_connection_string,
)
from emulator.app import Emulator
from emulator.config import (
    CorrelationFilter,
    QueueConfig,
    RuleConfig,
    ServiceBusConfig,
    SubscriptionConfig,
    TopicConfig,
)
from emulator.faults import Answer, ApplyThenDrop, DropBefore, Effect, Rule
from emulator.handle import EmulatorHandle
from schemas.codec import encode_reply
from schemas.commands import AppendCommand, NewEvent
from schemas.events import RecordedEvent
from schemas.keys import BrookKey
from schemas.replies import Appended
from schemas.types import START, CommandId, Position
from tests.support.brooks import command
from tests.support.responder import Responder
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio

TOPIC = "reply-events"
CONFIG = ServiceBusConfig(
    queues=(
        QueueConfig(name="brook-commands"),
        QueueConfig(name="brook-replies", requires_session=True, requires_duplicate_detection=True),
    ),
    topics=(
        TopicConfig(
            name=TOPIC,
            subscriptions=(
                SubscriptionConfig(name="by-session", requires_session=True),
                SubscriptionConfig(
                    name="for-billing",
                    rules=(RuleConfig(name="mine", filter=CorrelationFilter(session_id="billing")),),
                ),
            ),
        ),
    ),
)


@pytest.fixture(scope="module")
async def azure() -> AsyncIterator[Emulator]:
    async with Emulator(config=CONFIG) as emulator:
        yield emulator


@pytest.fixture(scope="module")
async def control(azure: Emulator) -> AsyncIterator[EmulatorHandle]:
    async with EmulatorHandle(azure.control_endpoint) as handle:
        yield handle


@pytest.fixture(scope="module")
def connect(azure: Emulator) -> ConnectServiceBus:
    return with_connection_string(azure.servicebus_connection_string)


@pytest.fixture(scope="module")
async def responder(azure: Emulator) -> AsyncIterator[Responder]:
    async with Responder(azure.servicebus_connection_string).running() as running:
        yield running


def commands(prefix: str, count: int) -> list[AppendCommand]:
    return [command(command_id=f"{prefix}-{number}") for number in range(count)]


# --- replies of a topic ---


async def test_clients_share_a_subscription_by_their_sessions(connect: ConnectServiceBus, responder: Responder) -> None:
    async with (
        BrookClient(connect, reply_topic=TOPIC, subscription="by-session") as one,
        BrookClient(connect, reply_topic=TOPIC, subscription="by-session") as other,
        anyio.create_task_group() as tasks,
    ):
        found: dict[str, list[str]] = {}

        async def ask(client: BrookClient, name: str) -> None:
            found[name] = [reply.command_id for reply in await client.request_many(commands(name, 20))]

        tasks.start_soon(ask, one, "one")
        tasks.start_soon(ask, other, "other")
    assert found == {name: [f"{name}-{number}" for number in range(20)] for name in ("one", "other")}
    assert responder.reply_counts[TOPIC] == 40


async def test_a_subscription_without_sessions_serves_the_client_that_its_filter_names(
    connect: ConnectServiceBus, responder: Responder, control: EmulatorHandle
) -> None:
    async with BrookClient(
        connect,
        reply_topic=TOPIC,
        subscription="for-billing",
        subscription_sessions=False,
        reply_session_id="billing",
    ) as client:
        assert (await client.request(command(command_id="bill"))).command_id == "bill"
        await wait_until(lambda: is_empty(control, f"{TOPIC}/subscriptions/for-billing"), "the reply is completed")


def test_a_reply_topic_needs_a_subscription(connect: ConnectServiceBus) -> None:
    with pytest.raises(ValueError, match="give both reply_topic and subscription"):
        BrookClient(connect, reply_topic=TOPIC)


async def is_empty(control: EmulatorHandle, entity: str) -> bool:
    counts = {name.lower(): counts for name, counts in (await control.entities()).items()}
    return counts[entity.lower()].active == 0


# --- what nobody waits for ---


async def test_replies_that_nobody_waits_for_are_taken_out_and_forgotten(
    connect: ConnectServiceBus, azure: Emulator, responder: Responder, control: EmulatorHandle
) -> None:
    async with (
        BrookClient(connect) as client,
        ServiceBusClient.from_connection_string(azure.servicebus_connection_string) as other,
    ):
        async with other.get_queue_sender("brook-replies") as sender:
            for number in range(50):
                reply = Appended(
                    command_id=CommandId(f"stray-{number}"), first_position=Position(0), last_position=Position(0)
                )
                message = ServiceBusMessage(
                    encode_reply(reply), correlation_id=reply.command_id, session_id=client._reply_session_id
                )
                await sender.send_messages(message)
        await client.request(command(command_id="awaited"))
        await wait_until(lambda: is_empty(control, "brook-replies"), "all are completed")
        assert list(client._dispatcher._asked) == ["awaited"]


async def test_a_wait_that_is_cancelled_leaves_nothing_behind(connect: ConnectServiceBus, azure: Emulator) -> None:
    async with BrookClient(connect, command_queue="brook-replies", reply_session_id="nobody") as client:
        # Its command is answered by nobody: it waits for itself.
        with anyio.move_on_after(0.5) as scope:
            await client.request(command(command_id="cancelled"), timeout_s=60)
        assert scope.cancelled_caught
        assert client._dispatcher.wanted == 0
        assert not client._sender._waiting


# --- sends that are not confirmed ---


@pytest.fixture
def leftovers_collected() -> Iterator[None]:
    yield
    gc.collect()


# azure-servicebus 7.15 leaves the socket of a connection that was cut to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "effect",
    [ApplyThenDrop(), DropBefore(), Answer(condition="com.microsoft:server-busy")],
    ids=["applied and not confirmed", "lost", "refused as busy"],
)
async def test_a_send_that_fails_is_repeated_under_the_same_id_until_it_is_confirmed(
    leftovers_collected: None, connect: ConnectServiceBus, azure: Emulator, responder: Responder, effect: Effect
) -> None:
    name = f"again-{type(effect).__name__}"
    azure.faults.add(
        Rule(service="servicebus", operation="send", where={"entity": "brook-commands"}, times=2, effect=effect)
    )
    async with BrookClient(connect) as client:
        assert (await client.request(command(command_id=name))).command_id == name
    seen = [one.command_id for each in responder.seen.values() for one in each]
    assert seen.count(CommandId(name)) == 1


async def test_a_wrong_queue_is_told_at_once_with_what_to_do(connect: ConnectServiceBus, azure: Emulator) -> None:
    async with BrookClient(connect, command_queue="nowhere") as client:
        with anyio.fail_after(5), pytest.raises(SendError, match=r"'nowhere'.*check the queue's name") as caught:
            await client.send(command())
    assert caught.value.is_refusal


async def test_the_trace_of_the_caller_travels_with_each_command(
    connect: ConnectServiceBus, azure: Emulator, responder: Responder
) -> None:
    context = SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=TraceFlags(1))
    responder.properties.clear()
    async with BrookClient(connect) as client:
        with trace.use_span(trace.NonRecordingSpan(context)):
            await client.request_many(commands("traced", 3))
        await client.request(command(command_id="not-traced"))
    expected = {b"traceparent": f"00-{0xABC:032x}-{0xDEF:016x}-01".encode()}
    assert responder.properties == [expected] * 3 + [{}]


# --- blocking calls ---


async def test_many_threads_use_one_blocking_client(
    connect: ConnectServiceBus, azure: Emulator, responder: Responder
) -> None:
    event = NewEvent(event_id="e", event_type="Opened", data=b"")

    def use() -> list[str]:
        with sync.BrookClient(connect) as client, ThreadPoolExecutor(8) as pool:
            single = pool.map(
                lambda n: client.append("order|1", [event], command_id=f"thread-{n}").command_id, range(40)
            )
            together = client.request_many(commands("blocking", 40))
            client.send(command(command_id="unawaited"))
            assert client.send_many(commands("sent", 5)) == 5
            return [*map(str, single), *(reply.command_id for reply in together)]

    before = threading.active_count()
    found = await anyio.to_thread.run_sync(use)
    assert found == [f"thread-{n}" for n in range(40)] + [f"blocking-{n}" for n in range(40)]
    await wait_until(lambda: threading.active_count() <= before + 1, "its threads are gone")


async def test_closing_ends_the_calls_of_other_threads_soon(connect: ConnectServiceBus, azure: Emulator) -> None:
    def use() -> tuple[BaseException | None, float]:
        client = sync.BrookClient(connect, command_queue="brook-replies", reply_session_id="nobody")
        with ThreadPoolExecutor(1) as pool:
            with client:
                waiting = pool.submit(client.request, command(), timeout_s=60)
                deadline_s = time.monotonic() + 10
                while not client._client._dispatcher.wanted and time.monotonic() < deadline_s:
                    time.sleep(0.01)
                began_s = time.monotonic()
            error = waiting.exception(timeout=10)
            with pytest.raises(BrookClientError, match="inside its `with` block"):
                client.send(command())
            return error, time.monotonic() - began_s

    error, took_s = await anyio.to_thread.run_sync(use)
    assert isinstance(error, BrookClientError)
    assert "the client was closed" in str(error)
    assert took_s < 8


async def test_an_interrupted_call_is_cancelled(
    connect: ConnectServiceBus, azure: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by Ctrl-C, which comes to the thread while it waits."""

    def use() -> int:
        with sync.BrookClient(connect, command_queue="brook-replies", reply_session_id="nobody") as client:
            assert client._portal is not None
            start: Any = client._portal.start_task_soon

            class Interrupted:
                def __init__(self, *args: object) -> None:
                    self._future = start(*args)

                def result(self) -> object:
                    while not client._client._dispatcher.wanted:
                        time.sleep(0.01)
                    raise KeyboardInterrupt

                def cancel(self) -> bool:
                    return bool(self._future.cancel())

            monkeypatch.setattr(client._portal, "start_task_soon", Interrupted)
            with pytest.raises(KeyboardInterrupt):
                client.request(command(), timeout_s=60)
            deadline_s = time.monotonic() + 10
            while client._client._dispatcher.wanted and time.monotonic() < deadline_s:
                time.sleep(0.01)
            wanted = client._client._dispatcher.wanted
            monkeypatch.undo()
            return wanted

    assert await anyio.to_thread.run_sync(use) == 0


class Reader:
    """A brook of 450 events."""

    def __init__(self) -> None:
        self.given = 0

    async def head_position(self, key: BrookKey) -> Position:
        return Position(449)

    async def read_forward(
        self, key: BrookKey, from_position: Position = START, *, page_events: int = 100
    ) -> AsyncIterator[RecordedEvent]:
        for position in range(from_position, 450):
            await anyio.lowlevel.checkpoint()
            self.given += 1
            yield event_at(position)

    async def read_backward(
        self, key: BrookKey, from_position: Position | None = None, *, page_events: int = 100
    ) -> AsyncIterator[RecordedEvent]:
        for position in range(449 if from_position is None else from_position, -1, -1):
            await anyio.lowlevel.checkpoint()
            yield event_at(position)


def event_at(position: int) -> RecordedEvent:
    return RecordedEvent(position=Position(position), event_id="e", event_type="t", data=b"", time="t")


def test_brooks_are_read_in_blocking_calls_and_left_when_enough_is_read(connect: ConnectServiceBus) -> None:
    reader = Reader()
    opened: list[str] = []

    @asynccontextmanager
    async def open_reader() -> AsyncIterator[Reader]:
        opened.append("opened")
        yield reader
        opened.append("closed")

    with sync.BrookClient(connect, open_reader=open_reader) as client:
        assert [event.position for event in client.read("order|1")] == list(range(450))
        assert [event.position for event in client.read("order|1", from_position=9, backward=True)] == [
            *range(9, -1, -1)
        ]
        reader.given = 0
        assert next(iter(client.read("order|1", from_position=3))).position == 3
        assert reader.given <= 200, "not more than is handed over at once"
        left = client.read("order|1")
        next(left)
    assert opened == ["opened", "closed"]
    with pytest.raises(BrookClientError, match="inside its `with` block"):
        list(left)
    with sync.BrookClient(connect) as without, pytest.raises(RuntimeError, match="make it with `reader`"):
        list(without.read("order|1"))


def test_a_blocking_client_that_cannot_be_opened_leaves_no_thread(connect: ConnectServiceBus) -> None:
    before = threading.active_count()

    @asynccontextmanager
    async def open_reader() -> AsyncIterator[Reader]:
        raise ConnectionError("no such account")
        yield

    with pytest.raises(ConnectionError, match="no such account"), sync.BrookClient(connect, open_reader=open_reader):
        pass
    assert threading.active_count() == before


async def test_a_command_asked_for_twice_in_one_call_is_answered_twice(
    connect: ConnectServiceBus, responder: Responder
) -> None:
    first, second = commands("twice", 2)
    async with BrookClient(connect) as client:
        asked = [first, second, first]
        assert [reply.command_id for reply in await client.request_many(asked)] == [one.command_id for one in asked]
        before = responder.reply_counts["brook-replies"]
        assert len(await client.request_many(asked)) == 3
        assert responder.reply_counts["brook-replies"] == before, "answered from memory"
        assert await client.request_many([]) == []


async def test_one_missing_reply_of_many_is_told_and_the_others_are_kept(
    connect: ConnectServiceBus, azure: Emulator
) -> None:
    """Sent into the replies of nobody, where they are answered by hand, but for one."""
    answered, missing = commands("missing", 2)
    async with BrookClient(connect, command_queue="brook-replies", reply_session_id="by-hand") as client:
        reply = Appended(command_id=answered.command_id, first_position=Position(0), last_position=Position(0))
        async with (
            ServiceBusClient.from_connection_string(azure.servicebus_connection_string) as other,
            other.get_queue_sender("brook-replies") as sender,
        ):
            message = ServiceBusMessage(encode_reply(reply), correlation_id=answered.command_id, session_id="by-hand")
            await sender.send_messages(message)
            with pytest.raises(ReplyTimeoutError, match=missing.command_id):
                await client.request_many([answered, missing], timeout_s=2)
        assert client._dispatcher.recall(answered) is not None
        assert client._dispatcher.wanted == 0


def test_the_blocking_client_takes_the_options_of_the_other() -> None:
    names = set(sync.Options.__annotations__) | {"connect", "reader", "claims"}
    assert names == set(BrookClient.__init__.__annotations__) - {"return"}

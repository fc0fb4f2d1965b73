"""The client over the real SDK on both ends: a small responder answers in the place of a worker."""

import gc
import re
import time
from collections.abc import AsyncIterator, Iterator

import anyio
import pytest
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient

from brook_client import (
    BrookClient,
    CommandTooLargeError,
    ReplyTimeoutError,
    ReplyUnavailableError,
    SendError,
    with_connection_string,
)
from emulator.app import Emulator
from emulator.config import QueueConfig, ServiceBusConfig
from emulator.handle import EmulatorHandle
from schemas.codec import MSGPACK, encode_command, encode_reply
from schemas.commands import AppendCommand, NewEvent
from schemas.keys import BrookKey
from schemas.replies import Appended, ConcurrencyConflict
from schemas.types import CommandId, Position
from tests.support.proxy import Proxy
from tests.support.responder import Responder
from tests.support.waiting import wait_until
from worker.commands.failures import CommandError
from worker.commands.send import send_lines

pytestmark = pytest.mark.anyio

# Without sessions the responder needs one receiver only, which is quick; what the messages carry is the same.
QUEUES = (
    QueueConfig(name="brook-commands"),
    QueueConfig(name="brook-replies", requires_session=True, requires_duplicate_detection=True),
)


@pytest.fixture
async def azure() -> AsyncIterator[Emulator]:
    async with Emulator(config=ServiceBusConfig(queues=QUEUES)) as emulator:
        yield emulator


@pytest.fixture
async def responder(azure: Emulator) -> AsyncIterator[Responder]:
    async with Responder(azure.servicebus_connection_string).running() as running:
        yield running


@pytest.fixture
async def client(azure: Emulator) -> AsyncIterator[BrookClient]:
    async with BrookClient(with_connection_string(azure.servicebus_connection_string)) as made:
        yield made


def event(event_id: str = "e", data: bytes = b"") -> NewEvent:
    return NewEvent(event_id=event_id, event_type="Opened", data=data)


def command(command_id: str, entity_id: str = "1", data: bytes = b"") -> AppendCommand:
    return AppendCommand(
        command_id=CommandId(command_id),
        brook=BrookKey("order", entity_id),
        expected="any",
        events=(event(data=data),),
    )


def line(one: AppendCommand) -> bytes:
    return encode_command(one) + b"\n"


async def test_a_client_that_sent_nothing_for_ten_minutes_goes_on(azure: Emulator, client: BrookClient) -> None:
    for number in range(3):
        async with Responder(azure.servicebus_connection_string).running():
            reply = await client.append("order|1", [event()], expected="any", command_id=f"c{number}")
            assert reply.command_id == f"c{number}"
        azure.clock.jump_s(601)  # links that nobody uses are detached, and locks end


async def test_an_append_is_answered_with_its_reply(responder: Responder, client: BrookClient) -> None:
    reply = await client.append("order|1", [event()], expected="empty", command_id="c1", correlation_id="case")
    assert reply == Appended(command_id=CommandId("c1"), first_position=Position(0), last_position=Position(0))
    [sent] = responder.seen["order|1"]
    assert (sent.expected, sent.correlation_id, sent.events) == ("empty", "case", (event(),))


async def test_facts_that_came_along_are_plain_values(responder: Responder, client: BrookClient) -> None:
    received = await client.request(command("c1"))
    assert received.facts == {"requestCharge": 5.5, "batchCommands": 1, "note": "größe"}
    assert received.body == encode_reply(received.reply)


async def test_many_tasks_that_begin_at_once_each_get_their_own_reply(
    responder: Responder, client: BrookClient
) -> None:
    replies: dict[str, object] = {}

    async def append(name: str) -> None:
        replies[name] = (await client.append(f"order|{name[-1]}", [event()], command_id=name)).command_id

    async with anyio.create_task_group() as tasks:
        for number in range(60):
            tasks.start_soon(append, f"c{number}")
    assert replies == {f"c{number}": f"c{number}" for number in range(60)}


async def test_commands_and_replies_travel_as_messagepack_when_asked(azure: Emulator, responder: Responder) -> None:
    connect = with_connection_string(azure.servicebus_connection_string)
    async with BrookClient(connect, content_type=MSGPACK) as client:
        received = await client.request(command("c1", data=bytes(range(256))))
    assert responder.content_types == {MSGPACK}
    assert received.body == encode_reply(received.reply, MSGPACK)


async def test_sending_many_keeps_the_order_of_each_brook_over_several_batches(
    responder: Responder, client: BrookClient
) -> None:
    commands = [command(f"c{number}", entity_id=str(number % 3), data=b"x" * 20_000) for number in range(60)]
    confirmed: list[int] = []
    assert await client.send_many(commands, on_sent=confirmed.append) == 60
    assert sum(confirmed) == 60
    assert len(confirmed) > 3, "they do not fit one batch"
    await wait_until(lambda: responder.count == 60, "all commands have arrived")
    for entity_id in "012":
        assert responder.seen[f"order|{entity_id}"] == [one for one in commands if one.brook.entity_id == entity_id]


async def test_a_listener_hears_the_reply_to_each_command_sent(responder: Responder, client: BrookClient) -> None:
    heard: list[CommandId] = []
    with client.listen(lambda reply: heard.append(reply.command_id)):
        await client.send_many([command(f"c{number}", entity_id=str(number % 5)) for number in range(50)])
        await wait_until(lambda: len(heard) == 50, "all replies have come")
    assert sorted(heard) == sorted(f"c{number}" for number in range(50))
    assert responder.count == 50


async def test_a_command_larger_than_a_message_is_refused_and_those_before_it_are_sent(
    responder: Responder, client: BrookClient
) -> None:
    commands = iter([command("small"), command("huge", data=b"x" * 300_000), command("after")])
    with pytest.raises(CommandTooLargeError, match="'huge'"):
        await client.send_many(commands)
    await client.send_many(commands)
    await wait_until(lambda: responder.count == 2, "the others have arrived")
    assert [one.command_id for one in responder.seen["order|1"]] == ["small", "after"]


async def test_without_a_reply_the_wait_ends_in_time_and_the_same_id_can_be_sent_again(
    azure: Emulator, client: BrookClient
) -> None:
    began_s = time.monotonic()
    with pytest.raises(ReplyTimeoutError, match="may still take effect"):
        await client.request(command("c1"), timeout_s=1)
    assert time.monotonic() - began_s < 5
    async with Responder(azure.servicebus_connection_string).running() as responder:
        assert (await client.request(command("c1"))).command_id == "c1"
    assert responder.count == 1, "the reply queue drops a second reply to the command, and none was needed"


async def test_a_wait_outlives_the_loss_of_the_reply_session(azure: Emulator, client: BrookClient) -> None:
    async with EmulatorHandle(azure.control_endpoint) as control, anyio.create_task_group() as tasks:
        received: list[CommandId] = []

        async def ask() -> None:
            received.append((await client.request(command("c1"), timeout_s=60)).command_id)

        tasks.start_soon(ask)
        await wait_until(lambda: opened_reply_session(client), "the reply session is open")
        await control.take_session_lock("brook-replies", client._reply_session_id)
        async with Responder(azure.servicebus_connection_string).running():
            await wait_until(lambda: received == ["c1"], "the reply has come through a new receiver", timeout_s=30)


def opened_reply_session(client: BrookClient) -> bool:
    return any(handler._running for handler in client._receiving._handlers)


@pytest.fixture
def leftovers_collected() -> Iterator[None]:
    yield
    gc.collect()


# azure-servicebus 7.15 leaves the socket of a connection that was cut to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_wait_outlives_the_loss_of_the_connection(leftovers_collected: None, azure: Emulator) -> None:
    port = int(re.findall(r":(\d+)", azure.servicebus_connection_string)[0])
    async with Proxy(port).running() as proxy, anyio.create_task_group() as tasks:
        through_proxy = azure.servicebus_connection_string.replace(f":{port}", f":{proxy.port}")
        async with BrookClient(with_connection_string(through_proxy)) as client:
            received: list[CommandId] = []

            async def ask() -> None:
                received.append((await client.request(command("c1"), timeout_s=60)).command_id)

            tasks.start_soon(ask)
            await wait_until(lambda: opened_reply_session(client), "the reply session is open")
            await proxy.refuse()  # cuts the connections; none is refused meanwhile
            await proxy.refuse(refusing=False)
            async with Responder(azure.servicebus_connection_string).running():
                await wait_until(lambda: received == ["c1"], "the reply has come on a new connection", timeout_s=30)


async def test_a_missing_reply_queue_is_told_at_once(azure: Emulator) -> None:
    connect = with_connection_string(azure.servicebus_connection_string)
    async with BrookClient(connect, reply_queue="no-such-queue") as client:
        with (
            anyio.fail_after(10),
            pytest.raises(ReplyUnavailableError, match=r"replies cannot be read.*right to listen"),
        ):
            await client.request(command("c1"), timeout_s=60)


async def test_a_missing_command_queue_is_a_clear_error(azure: Emulator) -> None:
    connect = with_connection_string(azure.servicebus_connection_string)
    async with BrookClient(connect, command_queue="no-such-queue") as client:
        with anyio.fail_after(60), pytest.raises(SendError, match="'no-such-queue'"):
            await client.send(command("c1"))


async def test_a_client_without_a_reply_queue_can_send_only(azure: Emulator, responder: Responder) -> None:
    connect = with_connection_string(azure.servicebus_connection_string)
    async with BrookClient(connect, reply_queue=None) as client:
        with pytest.raises(ReplyUnavailableError, match="has no reply queue"):
            await client.request(command("c1"))
        with pytest.raises(RuntimeError, match="make it with `reader`"):
            client.read("order|1")


async def test_closing_ends_the_waits_and_frees_the_session_soon(azure: Emulator) -> None:
    connect = with_connection_string(azure.servicebus_connection_string)
    async with anyio.create_task_group() as tasks:
        client = BrookClient(connect)
        ended: list[str] = []

        async def ask() -> None:
            with pytest.raises(ReplyUnavailableError, match="the client was closed"):
                await client.request(command("c1"), timeout_s=60)
            ended.append("c1")

        async with client:
            tasks.start_soon(ask)
            await wait_until(lambda: opened_reply_session(client), "the reply session is open")
            began_s = time.monotonic()
        assert time.monotonic() - began_s < 5
        await wait_until(lambda: ended == ["c1"], "the wait has ended")
    async with (
        ServiceBusClient.from_connection_string(azure.servicebus_connection_string, retry_total=0) as other,
        other.get_queue_receiver("brook-replies", session_id=client._reply_session_id, max_wait_time=1),
    ):
        pass


async def test_lines_are_sent_and_their_replies_printed_and_bad_ones_told(
    responder: Responder, client: BrookClient
) -> None:
    good = [command(f"c{number}", entity_id=str(number % 2)) for number in range(20)]

    async def source() -> AsyncIterator[bytes]:
        for number, one in enumerate(good):
            yield line(one)
            if number == 9:
                yield b'{"nonsense": 1}\n'
        yield line(command("huge", data=b"x" * 300_000))
        yield line(good[0])

    replies: list[CommandId] = []
    problems: list[str] = []
    summary = await send_lines(
        client,
        source(),
        await_replies=True,
        quiet_s=10,
        on_reply=lambda reply: replies.append(reply.command_id),
        on_problem=problems.append,
    )
    assert (summary.sent, summary.bad_lines) == (21, 2)
    assert problems[0].startswith("line 11: ")
    assert "'huge'" in problems[1]
    assert sorted(set(replies)) == sorted(one.command_id for one in good)
    assert responder.count == 20


async def test_replies_that_never_come_are_named(azure: Emulator, client: BrookClient) -> None:
    async def source() -> AsyncIterator[bytes]:
        yield line(command("lost"))

    with pytest.raises(CommandError, match="1 missing: lost; they may still take effect"):
        await send_lines(
            client,
            source(),
            await_replies=True,
            quiet_s=0.5,
            on_reply=lambda _: None,
            on_problem=lambda _: None,
        )


async def test_a_conflict_is_a_reply_like_any_other(azure: Emulator, client: BrookClient) -> None:
    conflict = ConcurrencyConflict(command_id=CommandId("c1"), expected="empty", actual=Position(4))
    async with (
        ServiceBusClient.from_connection_string(azure.servicebus_connection_string) as other,
        other.get_queue_sender("brook-replies") as sender,
    ):
        await sender.send_messages(
            ServiceBusMessage(
                encode_reply(conflict),
                message_id="r:c1",
                correlation_id="c1",
                session_id=client._reply_session_id,
            )
        )
        assert (await client.request(command("c1"))).reply == conflict


async def test_a_reply_that_cannot_be_read_ends_its_wait_and_no_other(azure: Emulator, client: BrookClient) -> None:
    async with (
        ServiceBusClient.from_connection_string(azure.servicebus_connection_string) as other,
        other.get_queue_sender("brook-replies") as sender,
    ):
        for body, correlation_id in ((b"nonsense", None), (b"nonsense", "c1")):
            message = ServiceBusMessage(body, session_id=client._reply_session_id, correlation_id=correlation_id)
            await sender.send_messages(message)
    with pytest.raises(ReplyUnavailableError, match="not a reply"):
        await client.request(command("c1"))
    async with Responder(azure.servicebus_connection_string).running():
        assert (await client.request(command("c2"))).command_id == "c2"

"""What every broker guarantees to the worker, shown on each backend that is there."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Protocol

import anyio
import pytest
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient

from emulator.config import QueueConfig
from emulator.servicebus import ServiceBusServer
from tests.support.servicebus import client_of, running
from tests.support.waiting import wait_until
from worker.sessions.base import (
    Abandon,
    CommandSession,
    Complete,
    DeadLetter,
    Delivery,
    OutgoingReply,
    Replies,
    SessionLostError,
    SessionSource,
)
from worker.sessions.memory import MemoryBroker, MemoryReplies
from worker.sessions.replies import ServiceBusReplies
from worker.sessions.servicebus import ServiceBusSessionSource

pytestmark = pytest.mark.anyio

WAIT_S = 2.0
SHORT_S = 0.2


class Backend(Protocol):
    """A session queue and a reply queue from outside."""

    @property
    def source(self) -> SessionSource: ...
    @property
    def replies(self) -> Replies: ...

    async def send(self, session_id: str, *message_ids: str) -> None: ...
    def take_lock(self, session_id: str) -> None: ...
    def dead_letters(self) -> list[tuple[str | None, str]]: ...
    def replied(self) -> list[str | None]: ...


class Memory:
    """The reference."""

    def __init__(self) -> None:
        self.broker = MemoryBroker(delivery_count_max=3, accept_wait_s=SHORT_S)
        self.source = self.broker
        self.replies = MemoryReplies()

    async def send(self, session_id: str, *message_ids: str) -> None:
        for message_id in message_ids:
            self.broker.send(b"body", session_id=session_id, message_id=message_id, content_type="text/plain")

    def take_lock(self, session_id: str) -> None:
        self.broker.take_lock(session_id)

    def dead_letters(self) -> list[tuple[str | None, str]]:
        return [(delivery.message_id, why.reason) for delivery, why in self.broker.dead_letters]

    def replied(self) -> list[str | None]:
        return [reply.message_id for reply in self.replies.sent]


class Embedded:
    """The embedded Service Bus with the real client."""

    def __init__(self, server: ServiceBusServer, client: ServiceBusClient) -> None:
        self._server = server
        self._client = client
        self.source = ServiceBusSessionSource(client, "commands", accept_wait_s=1.0)
        self.replies = ServiceBusReplies(client, "replies", timeout_s=5)

    async def send(self, session_id: str, *message_ids: str) -> None:
        async with self._client.get_queue_sender("commands") as sender:
            await sender.send_messages(
                [
                    ServiceBusMessage(b"body", session_id=session_id, message_id=message_id, content_type="text/plain")
                    for message_id in message_ids
                ]
            )

    def take_lock(self, session_id: str) -> None:
        self._server.engine.take_session_lock("commands", session_id)

    def dead_letters(self) -> list[tuple[str | None, str]]:
        found = self._server.engine.messages("commands/$DeadLetterQueue")
        return [(message.message_id, str(message.properties["DeadLetterReason"])) for message in found]

    def replied(self) -> list[str | None]:
        return [message.message_id for message in self._server.engine.messages("replies")]


@asynccontextmanager
async def embedded() -> AsyncIterator[Embedded]:
    commands = QueueConfig(name="commands", requires_session=True, max_delivery_count=3, lock_duration_s=10)
    async with (
        running(commands, QueueConfig(name="replies", requires_session=True)) as server,
        client_of(server) as client,
    ):
        backend = Embedded(server, client)
        try:
            yield backend
        finally:
            await backend.replies.close()


@pytest.fixture(params=["memory", "embedded"])
async def backend(request: pytest.FixtureRequest) -> AsyncIterator[Backend]:
    if request.param == "memory":
        yield Memory()
        return
    async with embedded() as backend:
        yield backend


async def accepted(backend: Backend) -> CommandSession:
    session = await backend.source.accept()
    assert session is not None, "there is a session to accept"
    return session


async def received(session: CommandSession, count: int) -> list[Delivery]:
    deliveries: list[Delivery] = []
    with anyio.fail_after(10):
        while len(deliveries) < count:
            deliveries += await session.receive(count - len(deliveries), WAIT_S)
    return deliveries


def ids(deliveries: Iterable[Delivery]) -> list[str | None]:
    return [delivery.message_id for delivery in deliveries]


async def test_no_session_is_no_error(backend: Backend) -> None:
    assert await backend.source.accept() is None


async def test_deliveries_come_in_order_and_tell_what_was_sent(backend: Backend) -> None:
    await backend.send("s", *map(str, range(25)))
    session = await accepted(backend)
    assert session.session_id == "s"
    deliveries = await received(session, 10) + await received(session, 15)
    assert ids(deliveries) == list(map(str, range(25)))
    first = deliveries[0]
    assert (first.body, first.content_type, first.session_id) == (b"body", "text/plain", "s")
    assert first.delivery_count == 0
    assert first.enqueued_at is not None
    assert await session.receive(10, SHORT_S) == []
    await session.close()


async def test_a_session_is_one_holders_alone(backend: Backend) -> None:
    await backend.send("a", "1")
    await backend.send("b", "2")
    first, second = await accepted(backend), await accepted(backend)
    assert {first.session_id, second.session_id} == {"a", "b"}
    assert await backend.source.accept() is None
    await first.close()
    await second.close()


async def test_what_is_completed_does_not_come_again(backend: Backend) -> None:
    await backend.send("s", *map(str, range(30)))
    session = await accepted(backend)
    deliveries = await received(session, 20)
    await session.settle([(delivery, Complete()) for delivery in deliveries])
    await session.close()
    session = await accepted(backend)
    assert ids(await received(session, 10)) == list(map(str, range(20, 30)))
    await session.close()


async def test_what_is_unsettled_at_the_close_comes_again_in_order_and_was_not_counted(backend: Backend) -> None:
    await backend.send("s", "1", "2", "3")
    for _ in range(5):
        session = await accepted(backend)
        deliveries = await received(session, 3)
        assert ids(deliveries) == ["1", "2", "3"]
        assert [delivery.delivery_count for delivery in deliveries] == [0, 0, 0]
        await session.close()
    assert backend.dead_letters() == []


async def test_what_is_abandoned_is_counted_and_ends_as_a_dead_letter(backend: Backend) -> None:
    await backend.send("s", "poison", "fine")
    session = await accepted(backend)
    for count in range(3):
        (delivery,) = await received(session, 1)
        assert (delivery.message_id, delivery.delivery_count) == ("poison", count)
        await session.settle([(delivery, Abandon())])
    (delivery,) = await received(session, 1)
    assert delivery.message_id == "fine"
    await session.settle([(delivery, Complete())])
    await session.close()
    assert backend.dead_letters() == [("poison", "MaxDeliveryCountExceeded")]


async def test_settlements_of_all_kinds_go_together(backend: Backend) -> None:
    await backend.send("s", "1", "2", "3", "4")
    session = await accepted(backend)
    first, second, third, fourth = await received(session, 4)
    await session.settle(
        [
            (first, Complete()),
            (second, DeadLetter("undecodable", "body: is not readable")),
            (third, Abandon()),
            (fourth, Complete()),
        ]
    )
    (again,) = await received(session, 1)
    assert (again.message_id, again.delivery_count) == ("3", 1)
    await session.close()
    assert backend.dead_letters() == [("2", "undecodable")]


async def test_a_lost_lock_ends_the_session_and_the_messages_come_to_another(backend: Backend) -> None:
    await backend.send("s", "1", "2")
    session = await accepted(backend)
    deliveries = await received(session, 2)
    backend.take_lock("s")
    with pytest.raises(SessionLostError):
        await session.settle([(delivery, Complete()) for delivery in deliveries])
    with pytest.raises(SessionLostError):
        await session.receive(1, SHORT_S)
    await session.close()
    other = await accepted(backend)
    assert ids(await received(other, 2)) == ["1", "2"]
    await other.close()


async def test_keeping_the_lock_ends_when_it_is_lost(backend: Backend) -> None:
    await backend.send("s", "1")
    session = await accepted(backend)
    lost = anyio.Event()

    async def keep() -> None:
        with pytest.raises(SessionLostError):
            await session.keep_locked()
        lost.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keep)
        await anyio.lowlevel.checkpoint()
        backend.take_lock("s")
        with anyio.fail_after(30):  # a third of the lock's duration, and a request
            await lost.wait()
    await session.close()


async def test_a_message_that_comes_while_waiting_ends_the_wait(backend: Backend) -> None:
    await backend.send("s", "1")
    session = await accepted(backend)
    await received(session, 1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(backend.send, "s", "2")
        with anyio.fail_after(10):
            assert ids(await session.receive(10, 60)) == ["2"]
    await session.close()


def reply(number: int) -> OutgoingReply:
    return OutgoingReply(
        address=None,
        body=b"x" * 1000,
        content_type="application/json",
        message_id=f"r:{number}",
        correlation_id=str(number),
        session_id="replies",
        properties={"attempts": 1, "requestCharge": 1.5},
    )


async def test_replies_are_with_the_broker_in_order_when_sending_returns(backend: Backend) -> None:
    await backend.replies.send([reply(number) for number in range(700)])
    assert backend.replied() == [f"r:{number}" for number in range(700)]


async def test_many_senders_at_once_send_each_reply_once(backend: Backend) -> None:
    async with anyio.create_task_group() as tasks:
        for start in range(0, 400, 20):
            tasks.start_soon(backend.replies.send, [reply(number) for number in range(start, start + 20)])
    await wait_until(lambda: len(backend.replied()) >= 400, "all replies sent")
    assert sorted(map(str, backend.replied())) == sorted(f"r:{number}" for number in range(400))

"""The senders of replies over the embedded Service Bus."""

from collections.abc import AsyncIterator

import anyio
import pytest

from emulator.clock import SystemClock
from emulator.config import QueueConfig
from emulator.servicebus import ServiceBusServer
from tests.support.servicebus import client_of, receive, running
from tests.support.waiting import wait_until
from worker.sessions.base import BrokerUnavailableError, OutgoingReply
from worker.sessions.replies import ServiceBusReplies

pytestmark = pytest.mark.anyio


IDLE_S = 601.0


@pytest.fixture
def clock() -> SystemClock:
    return SystemClock()


@pytest.fixture
async def server(clock: SystemClock) -> AsyncIterator[ServiceBusServer]:
    async with running(QueueConfig(name="replies", requires_session=True), clock=clock) as it:
        yield it


def reply(number: int, address: str | None = None) -> OutgoingReply:
    return OutgoingReply(
        address=address,
        body=b"{}",
        content_type="application/json",
        message_id=f"r:{number}",
        correlation_id=str(number),
        session_id="one",
        properties={},
    )


async def test_an_address_is_one_entity_in_whatever_case_it_is_written(server: ServiceBusServer) -> None:
    async with client_of(server) as client:
        replies = ServiceBusReplies(client, "replies", timeout_s=5)
        for number, address in enumerate([None, "replies", "Replies", "REPLIES", "rEpLiEs"]):
            await replies.send([reply(number, address)])
        assert server.connection_count == 1
        await replies.close()
    assert len(server.engine.messages("replies")) == 5


async def test_replies_go_out_after_the_service_has_detached_every_idle_sender(
    server: ServiceBusServer, clock: SystemClock
) -> None:
    async with client_of(server) as client:
        replies = ServiceBusReplies(client, "replies", timeout_s=5)
        async with anyio.create_task_group() as tasks:
            for number in range(4):
                tasks.start_soon(replies.send, [reply(number)])
        for number, nobody_for_s in ((4, IDLE_S), (5, 2 * IDLE_S)):  # the second time the connections are gone as well
            clock.jump_s(nobody_for_s)
            await replies.send([reply(number)])
        await replies.close()
    assert sorted(view.message_id or "" for view in server.engine.messages("replies")) == [f"r:{n}" for n in range(6)]


async def test_senders_that_were_idle_for_long_are_closed_and_not_used(server: ServiceBusServer) -> None:
    async with client_of(server) as client:
        replies = ServiceBusReplies(client, "replies", timeout_s=5, sender_idle_max_s=0)
        async with anyio.create_task_group() as tasks:
            for number in range(4):
                tasks.start_soon(replies.send, [reply(number)])
        await replies.send([reply(4)])
        await wait_until(lambda: server.connection_count == 1, "the old senders' connections closed")
        await replies.close()
    assert sorted(view.message_id or "" for view in server.engine.messages("replies")) == [f"r:{n}" for n in range(5)]


async def test_a_reply_queue_that_nobody_reads_says_so_and_takes_replies_again_once_it_is_read() -> None:
    """What the worker cannot reply to it does not settle: nothing is lost while the queue is full."""
    full = QueueConfig(name="replies", requires_session=True, max_size_bytes=2_000)
    async with running(full) as server, client_of(server) as client:
        replies = ServiceBusReplies(client, "replies", timeout_s=10)
        sent = 0
        while server.engine.queue("replies").size_bytes < 2_000:
            await replies.send([reply(sent)])
            sent += 1
        with pytest.raises(BrokerUnavailableError, match="ServiceBusQuotaExceededError"):
            await replies.send([reply(sent)])
        async with client.get_queue_receiver("replies", session_id="one") as receiver:
            for message in await receive(receiver, sent):
                await receiver.complete_message(message)
        await replies.send([reply(sent)])
        await replies.close()
    assert [view.message_id for view in server.engine.messages("replies")] == [f"r:{sent}"]

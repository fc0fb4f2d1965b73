"""The senders of replies over the embedded Service Bus."""

from collections.abc import AsyncIterator

import pytest

from emulator.config import QueueConfig
from emulator.servicebus import ServiceBusServer
from tests.support.servicebus import client_of, running
from worker.sessions.base import OutgoingReply
from worker.sessions.replies import ServiceBusReplies

pytestmark = pytest.mark.anyio


@pytest.fixture
async def server() -> AsyncIterator[ServiceBusServer]:
    async with running(QueueConfig(name="replies", requires_session=True)) as it:
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

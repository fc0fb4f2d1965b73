"""The pool of reply senders, over a client whose connections a test can cut."""

from typing import Any, Self, cast

import anyio
import pytest
from azure.servicebus import ServiceBusMessageBatch
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.exceptions import ServiceBusConnectionError

from worker.sessions.base import OutgoingReply
from worker.sessions.replies import SENDERS_MAX_DEFAULT, ServiceBusReplies

pytestmark = pytest.mark.anyio


class Sender:
    """Opens, sends and closes as the client's senders do."""

    def __init__(self, client: "Client") -> None:
        self._client = client
        self._connected = False

    async def __aenter__(self) -> Self:
        self._client.open.add(self)
        self._connected = True
        return self

    async def create_message_batch(self) -> ServiceBusMessageBatch:
        return ServiceBusMessageBatch(max_size_in_bytes=100_000)

    async def send_messages(self, batch: ServiceBusMessageBatch, *, timeout: float) -> None:  # noqa: ASYNC109 - as there
        assert timeout > 0
        await anyio.lowlevel.checkpoint()
        if not self._connected:
            raise ServiceBusConnectionError(message="the connection is gone")
        self._client.sent += len(batch)

    async def close(self) -> None:
        await anyio.lowlevel.checkpoint()
        self._client.open.discard(self)

    def cut(self) -> None:
        self._connected = False


class Client:
    """Makes senders."""

    def __init__(self) -> None:
        self.open: set[Sender] = set()
        self.sent = 0

    def get_queue_sender(self, name: str) -> Sender:
        assert name
        return Sender(self)


def reply(number: int) -> OutgoingReply:
    properties: dict[str, Any] = {}
    return OutgoingReply(
        address=None,
        body=b"{}",
        content_type="application/json",
        message_id=f"r:{number}",
        correlation_id=str(number),
        session_id="one",
        properties=properties,
    )


async def test_one_reply_goes_out_though_every_sender_left_idle_has_lost_its_connection() -> None:
    """As after a broker's restart, or ten minutes without a reply: Service Bus closes links that nothing goes over."""
    client = Client()
    replies = ServiceBusReplies(cast("ServiceBusClient", client), "replies", timeout_s=5)
    async with anyio.create_task_group() as tasks:
        for number in range(SENDERS_MAX_DEFAULT):
            tasks.start_soon(replies.send, [reply(number)])
    assert len(client.open) == SENDERS_MAX_DEFAULT
    for sender in client.open:
        sender.cut()
    await replies.send([reply(9)])
    assert client.sent == SENDERS_MAX_DEFAULT + 1
    assert len(client.open) == 1, "those that were cut are closed"
    await replies.close()
    assert not client.open

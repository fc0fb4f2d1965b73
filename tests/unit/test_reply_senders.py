"""The pool of reply senders, over a client whose connections a test can cut."""

from typing import Any, Self, cast

import anyio
import pytest
from azure.servicebus import ServiceBusMessageBatch
from azure.servicebus._pyamqp._encode import encode_payload
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.exceptions import MessageSizeExceededError, ServiceBusConnectionError

from worker.sessions.base import OutgoingReply
from worker.sessions.replies import SENDERS_MAX_DEFAULT, ServiceBusReplies

pytestmark = pytest.mark.anyio


BATCH_BYTES_MAX = 100_000


class Sender:
    """Opens, sends and closes as the client's senders do."""

    def __init__(self, client: "Client") -> None:
        self._client = client
        self._handler = None  # no connection, and so no task that keeps one alive
        self._connected = False

    async def __aenter__(self) -> Self:
        self._client.open.add(self)
        self._connected = True
        return self

    async def create_message_batch(self, max_size_in_bytes: int | None = None) -> ServiceBusMessageBatch:
        assert (max_size_in_bytes or 1) <= BATCH_BYTES_MAX
        return ServiceBusMessageBatch(max_size_in_bytes=max_size_in_bytes or BATCH_BYTES_MAX)

    async def send_messages(self, batch: ServiceBusMessageBatch, *, timeout: float) -> None:  # noqa: ASYNC109 - as there
        assert timeout > 0
        await anyio.lowlevel.checkpoint()
        if not self._connected:
            raise ServiceBusConnectionError(message="the connection is gone")
        if len(encode_payload(bytearray(), batch._message)) > BATCH_BYTES_MAX:
            raise MessageSizeExceededError(message="the entity refuses a batch over its size")
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


def reply(number: int, *, body: bytes = b"{}", session: str = "one") -> OutgoingReply:
    properties: dict[str, Any] = {}
    return OutgoingReply(
        address=None,
        body=body,
        content_type="application/json",
        message_id=f"r:{number}",
        correlation_id=str(number),
        session_id=session,
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


async def test_replies_that_fill_a_batch_to_its_last_bytes_are_taken() -> None:
    """The library leaves out of its sum what it copies from the first reply onto the batch: such a group would never
    be replied to."""
    client = Client()
    replies = ServiceBusReplies(cast("ServiceBusClient", client), "replies", timeout_s=5)
    session = "\N{CJK UNIFIED IDEOGRAPH-6C34}" * 128
    for left in range(0, 1_000, 25):
        half = b"x" * ((BATCH_BYTES_MAX - left) // 2 - 200)
        await replies.send([reply(1, session=session), reply(2, body=half), reply(3, body=half)])
    assert client.sent == 3 * 40
    await replies.close()

"""An embedded Service Bus for one test, and short words for what tests do with the real client."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from azure.servicebus import NEXT_AVAILABLE_SESSION, ServiceBusMessage, ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver

from emulator.clock import Clock, SystemClock
from emulator.config import QueueConfig, ServiceBusConfig, SubscriptionConfig, TopicConfig
from emulator.faults import Faults
from emulator.identity import TokenAuthority
from emulator.journal import Journal, MemoryJournal
from emulator.servicebus import Limits, ServiceBusServer

WAIT_S = 5.0
SHORT_WAIT_S = 0.3


@asynccontextmanager
async def running(
    *queues: QueueConfig,
    topics: Sequence[TopicConfig] = (),
    clock: Clock | None = None,
    journal: Journal | None = None,
    faults: Faults | None = None,
    limits: Limits | None = None,
    authority: TokenAuthority | None = None,
) -> AsyncIterator[ServiceBusServer]:
    """A server with these entities; afterwards it has left no connection and no timer."""
    server = ServiceBusServer(
        config=ServiceBusConfig(queues=queues, topics=tuple(topics)),
        clock=clock or SystemClock(),
        journal=journal or MemoryJournal(),
        faults=faults or Faults(),
        limits=limits,
        authority=authority,
    )
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
        assert server.connection_count == 0
        assert not server.timers


@asynccontextmanager
async def client_of(server: ServiceBusServer, *, retry_total: int = 0) -> AsyncIterator[ServiceBusClient]:
    """The real client, without retries, so that each refusal shows; its short socket waits make tests quick."""
    async with ServiceBusClient.from_connection_string(
        server.connection_string, retry_total=retry_total, socket_timeout=0.02
    ) as client:
        yield client


async def send(client: ServiceBusClient, entity: str, *messages: ServiceBusMessage) -> None:
    """Send messages in one batch, to a queue or a topic."""
    async with client.get_queue_sender(entity) as sender:
        await sender.send_messages(list(messages))


def message(body: str, session_id: str | None = None, message_id: str | None = None) -> ServiceBusMessage:
    """A message with a text as its body."""
    return ServiceBusMessage(body, session_id=session_id, message_id=message_id)


def body_of(received: ServiceBusReceivedMessage) -> str:
    """The text of a message."""
    return b"".join(received.body).decode()


def next_session(
    client: ServiceBusClient, queue: str, wait_s: float = WAIT_S, *, prefetch_count: int = 0
) -> ServiceBusReceiver:
    """A receiver of the next available session."""
    return client.get_queue_receiver(
        queue, session_id=NEXT_AVAILABLE_SESSION, max_wait_time=wait_s, prefetch_count=prefetch_count
    )


async def receive(receiver: ServiceBusReceiver, count: int, wait_s: float = WAIT_S) -> list[ServiceBusReceivedMessage]:
    """Exactly `count` messages, however many pieces they come in."""
    received: list[ServiceBusReceivedMessage] = []
    while len(received) < count:
        more = await receiver.receive_messages(count - len(received), max_wait_time=wait_s)
        assert more, f"only {len(received)} of {count} messages came within {wait_s} s"
        received += more
    return received


async def nothing(receiver: ServiceBusReceiver) -> bool:
    """Whether nothing comes for a short while."""
    return not await receiver.receive_messages(1, max_wait_time=SHORT_WAIT_S)


__all__ = ["QueueConfig", "SubscriptionConfig", "TopicConfig"]

"""Order within a session, by the real client, while messages keep coming in between receives."""

import anyio
import pytest
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusSender

from emulator.config import QueueConfig
from tests.support.servicebus import client_of, running
from worker.sessions.base import Complete
from worker.sessions.servicebus import ServiceBusSessionSource

pytestmark = pytest.mark.anyio

ROUNDS = 40
BURST = 7


async def send_burst(sender: ServiceBusSender, start: int) -> None:
    for number in range(start, start + BURST):
        await sender.send_messages(ServiceBusMessage(b"x", session_id="s", message_id=str(number)))


async def test_what_arrives_between_receives_is_not_overtaken() -> None:
    """Left to itself, the client gives such messages back, and the broker has sent the next ones already."""
    received: list[str | None] = []
    async with (
        running(QueueConfig(name="commands", requires_session=True)) as server,
        client_of(server) as client,
        client.get_queue_sender("commands") as sender,
    ):
        await send_burst(sender, 0)
        session = await ServiceBusSessionSource(client, "commands", accept_wait_s=5).accept()
        assert session is not None
        with anyio.fail_after(60):
            for number in range(1, ROUNDS):
                deliveries = await session.receive(100, 1.0)
                received += [delivery.message_id for delivery in deliveries]
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(send_burst, sender, number * BURST)
                    await session.settle([(delivery, Complete()) for delivery in deliveries])
            while len(received) < ROUNDS * BURST:
                deliveries = await session.receive(100, 1.0)
                received += [delivery.message_id for delivery in deliveries]
                await session.settle([(delivery, Complete()) for delivery in deliveries])
        await session.close()
    assert received == [str(number) for number in range(ROUNDS * BURST)]

"""Sessions are opened and closed without the client's sleeps: many in a row, within bounds that the sleeps exceed."""

import time

import anyio
import pytest
from azure.servicebus import ServiceBusMessage

from emulator.config import QueueConfig
from tests.support.quick_closing import close_at_its_own_pace
from tests.support.servicebus import client_of, running
from worker.sessions.base import Complete
from worker.sessions.servicebus import ServiceBusSessionSource

pytestmark = pytest.mark.anyio

SESSIONS = 40
BOUND_S = 15
"""The client's sleeps alone would take 18 s for opening so many, and as much as 40 s for closing them."""


async def test_many_sessions_are_opened_and_closed_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    close_at_its_own_pace(monkeypatch)
    opened: list[str] = []
    opening_s = closing_s = 0.0
    async with (
        running(QueueConfig(name="commands", requires_session=True)) as server,
        client_of(server) as client,
        client.get_queue_sender("commands") as sender,
    ):
        await sender.send_messages([ServiceBusMessage(b"x", session_id=str(number)) for number in range(SESSIONS)])
        source = ServiceBusSessionSource(client, "commands", accept_wait_s=5)
        with anyio.fail_after(60):
            while len(opened) < SESSIONS:
                at_s = time.perf_counter()
                session = await source.accept()
                opening_s += time.perf_counter() - at_s
                assert session is not None, "each of them waits"
                await session.settle([(delivery, Complete()) for delivery in await session.receive(10, 5)])
                opened.append(session.session_id)
                at_s = time.perf_counter()
                await session.close()
                closing_s += time.perf_counter() - at_s
    assert sorted(opened) == sorted(map(str, range(SESSIONS)))
    assert opening_s < BOUND_S
    assert closing_s < BOUND_S

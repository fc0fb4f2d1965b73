"""A lost connection to Service Bus: the library would open links of its own accord, and hold sessions with them."""

import gc
import logging
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

import anyio
import pytest
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient

from brook_client.client import BrookClient
from brook_client.connect import with_connection_string
from emulator.config import QueueConfig
from emulator.faults import DropBefore, Faults, Rule
from emulator.servicebus import ServiceBusServer
from schemas import codec
from schemas.replies import Appended
from schemas.types import CommandId, Position
from tests.support.servicebus import client_of, running
from tests.support.site import port_in
from tests.support.waiting import wait_until
from tests.support.wires import Wire
from worker.sessions.base import Complete, SessionLostError
from worker.sessions.servicebus import ServiceBusSessionSource

pytestmark = [
    pytest.mark.anyio,
    # azure-servicebus 7.15 leaves the socket of a connection that was cut to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

REPLIES = 30
LOSSES = 12


@pytest.fixture(autouse=True)
def _leftovers_collected() -> Iterator[None]:
    yield
    gc.collect()


def through(wire: Wire, server: ServiceBusServer) -> str:
    address = server.connection_string
    return address.replace(f":{port_in(address)}", f":{wire.port}")


async def test_a_session_whose_connection_is_lost_takes_no_other_one(caplog: pytest.LogCaptureFixture) -> None:
    """What is under way then opens the link anew by itself: to some other session, which nobody works on."""
    faults = Faults()
    async with (
        running(QueueConfig(name="commands", requires_session=True), faults=faults) as server,
        Wire(port_in(server.connection_string)).running() as wire,
        client_of(server) as direct,
        direct.get_queue_sender("commands") as sender,
        ServiceBusClient.from_connection_string(through(wire, server), retry_total=0) as client,
    ):
        for number in range(LOSSES):
            names = (f"{number}-lost", f"{number}-other")
            await sender.send_messages([ServiceBusMessage(b"x", session_id=name) for name in names for _ in range(50)])
            session = await ServiceBusSessionSource(client, "commands", accept_wait_s=5).accept()
            assert session is not None
            deliveries = await session.receive(50, 1.0)
            faults.add(Rule(operation="settle", effect=DropBefore(), skip=number, times=1))
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lost, partial(session.receive, 100, 2.0))
                tasks.start_soon(lost, partial(session.settle, [(one, Complete()) for one in deliveries]))
            await session.close()
            await wait_until(lambda: wire.connections == 0, "no connection is left")
            faults.clear()
    assert errors(caplog) == [], "a loss is nothing that the library does not know"


async def lost(act: Callable[[], Awaitable[object]]) -> None:
    with pytest.raises(SessionLostError):
        await act()


async def test_a_client_that_loses_its_connection_while_it_settles_has_its_replies_at_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each of the settlements opened the link anew: the last one was used, the others held the reply session."""
    faults = Faults()
    queues = [QueueConfig(name=name, requires_session=True) for name in ("brook-commands", "brook-replies")]
    heard: list[CommandId] = []
    async with (
        running(*queues, faults=faults) as server,
        Wire(port_in(server.connection_string)).running() as wire,
        client_of(server) as direct,
        direct.get_queue_sender("brook-replies") as sender,
    ):
        await sender.send_messages([reply(number) for number in range(REPLIES)])
        faults.add(Rule(operation="settle", effect=DropBefore(), times=4))
        async with BrookClient(with_connection_string(through(wire, server)), reply_session_id="mine") as client:
            with client.listen(lambda received: heard.append(received.command_id)):
                await wait_until(lambda: len(set(heard)) == REPLIES, "all replies are heard")

                async def all_settled() -> bool:
                    return server.engine.counts("brook-replies").active == 0

                await wait_until(all_settled, "and settled, by a session that was opened anew at once", 10)
                assert wire.connections == 1
    assert errors(caplog) == []


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


def reply(number: int) -> ServiceBusMessage:
    appended = Appended(command_id=CommandId(f"c{number}"), first_position=Position(0), last_position=Position(0))
    return ServiceBusMessage(
        codec.encode_reply(appended, codec.JSON),
        content_type=codec.JSON,
        correlation_id=appended.command_id,
        session_id="mine",
    )

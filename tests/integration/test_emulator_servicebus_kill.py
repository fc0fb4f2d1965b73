"""The embedded Service Bus is killed again and again under load: nothing acknowledged is lost, nothing is half-done."""

import asyncio
import gc
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from azure.servicebus import NEXT_AVAILABLE_SESSION, ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.exceptions import ServiceBusError

from emulator.clock import SystemClock
from emulator.config import ServiceBusConfig
from emulator.journal import SqliteJournal
from emulator.servicebus.engine.namespace import Namespace
from tests.support.servicebus_process import QUEUES
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.slow,
    # The client leaves its end of a connection that was cut to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

KILLS = 10
SESSIONS = 4


@pytest.fixture(autouse=True)
def collect_what_the_client_leaves() -> Iterator[None]:
    """While the warnings about it are still ignored, not in some later test."""
    yield
    gc.collect()


class Ledger:
    """What the clients know: an entry is certain once the server has answered, and open from the request on."""

    def __init__(self) -> None:
        self.tried: set[str] = set()
        self.sent: set[str] = set()
        self.completing: set[str] = set()
        self.completed: set[str] = set()
        self.count = 0

    def new(self) -> str:
        self.count += 1
        return f"{self.count:06d}"


async def produce(connection_string: str, ledger: Ledger) -> None:
    """Send batches of three to one session each, until the server dies."""
    async with (
        ServiceBusClient.from_connection_string(connection_string, retry_total=0, socket_timeout=0.02) as client,
        client.get_queue_sender("commands") as sender,
    ):
        while True:
            ids = [ledger.new() for _ in range(3)]
            ledger.tried.update(ids)
            session = str(ledger.count % SESSIONS)
            await sender.send_messages([ServiceBusMessage(each, message_id=each, session_id=session) for each in ids])
            ledger.sent.update(ids)


async def consume(connection_string: str, ledger: Ledger) -> None:
    """Take a session, forward each message and complete it, until the server dies."""
    async with (
        ServiceBusClient.from_connection_string(connection_string, retry_total=0, socket_timeout=0.02) as client,
        client.get_queue_sender("replies") as sender,
        client.get_queue_receiver("commands", session_id=NEXT_AVAILABLE_SESSION, max_wait_time=2) as receiver,
    ):
        while True:
            for got in await receiver.receive_messages(5, max_wait_time=1):
                message_id = str(got.message_id)
                assert message_id not in ledger.completed, "a completed message came again"
                await sender.send_messages(ServiceBusMessage(message_id, message_id=message_id))
                ledger.completing.add(message_id)
                await receiver.complete_message(got)
                ledger.completed.add(message_id)


async def until_it_dies(*loads: "asyncio.Task[None]") -> None:
    for result in await asyncio.gather(*loads, return_exceptions=True):
        assert isinstance(result, ServiceBusError | OSError | AttributeError | ValueError), repr(result)


async def test_kills_under_load_lose_nothing_acknowledged(tmp_path: Path) -> None:
    ledger, chance = Ledger(), random.Random(3)
    for _ in range(KILLS):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.support.servicebus_process", str(tmp_path), stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        connection_string = ""
        while not connection_string.startswith("Endpoint="):
            connection_string = (await process.stdout.readline()).decode().strip()
        loads = [asyncio.create_task(each(connection_string, ledger)) for each in (produce, consume)]
        done = len(ledger.completed) + chance.randint(3, 25)
        await wait_until(
            lambda done=done, loads=loads: len(ledger.completed) >= done or any(load.done() for load in loads),
            "the load went on",
        )
        process.kill()
        await process.wait()
        await asyncio.wait_for(until_it_dies(*loads), 30)
    check(tmp_path, ledger)


def check(folder: Path, ledger: Ledger) -> None:
    """Compare what is on disk with what was acknowledged."""
    journal = SqliteJournal(folder / "servicebus.sqlite")
    engine = Namespace(ServiceBusConfig(queues=QUEUES), clock=SystemClock(), journal=journal)
    waiting = [str(view.message_id) for view in engine.messages("commands")]
    forwarded = [str(view.message_id) for view in engine.messages("replies")]
    journal.close()
    assert len(ledger.completed) >= KILLS
    assert len(waiting) == len(set(waiting)), "a message is there twice"
    assert len(forwarded) == len(set(forwarded)), "a duplicate was not detected"
    assert ledger.sent - ledger.completing <= set(waiting), "an acknowledged message is lost"
    assert not ledger.completed & set(waiting), "a completed message is there again"
    assert ledger.completing <= set(forwarded), "an acknowledged reply is lost"
    assert set(waiting) <= ledger.tried
    for first in range(1, ledger.count + 1, 3):
        batch = {f"{first + each:06d}" for each in range(3)} - ledger.completing
        if batch and not batch <= ledger.sent:
            assert batch <= set(waiting) or not batch & set(waiting), "half a batch is there"

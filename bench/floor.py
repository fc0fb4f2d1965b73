"""What the SDKs alone cost: `python -m bench.floor`.

The processor time of each call that no worker can do without, one at a time, with nothing of ours around it. From that
follows what a session or a brook costs at least, and so how many commands a second one core can do at most, however the
worker is written. Compare with the CPU columns of `make bench`.
"""

import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final

import msgspec
from azure.cosmos.aio import ContainerProxy
from azure.servicebus import NEXT_AVAILABLE_SESSION, ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver, ServiceBusSender
from azure.storage.blob.aio import BlobClient, BlobLeaseClient, BlobServiceClient
from rich.console import Console
from rich.table import Table

from bench.lab import COMMANDS, REPLIES, open_lab
from bench.running import log_warnings
from worker.clients import blob_service_client, brooks_container, cosmos_client, servicebus_client
from worker.commands.shared import run_async
from worker.garbage import collect_seldom
from worker.sessions.base import Complete
from worker.sessions.servicebus import ServiceBusSessionSource
from worker.settings import Settings

_SESSIONS: Final = 48
_REQUESTS: Final = 200
_COMMANDS: Final = 4
"""Of each session, as in the scenario of many brooks."""

_CHUNK_EVENTS: Final = 99
"""Of a large append, as many as one batch takes."""

_BODY: Final = b"x" * 1000
_REPLY: Final = b"x" * 120
_DATA: Final = "x" * 800
_LEASE_S: Final = 30


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What one call takes of the processor, and how many of them a session of four commands needs."""

    call: str
    ms: float
    times: int


class Meter:
    """Adds up the processor time of this process, which is the client's alone: the services are another one."""

    def __init__(self) -> None:
        self._used_s = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count while the context lasts."""
        before_s = time.process_time()
        yield
        self._used_s += time.process_time() - before_s

    def ms_each(self, count: int) -> float:
        """What was counted, for each of `count`."""
        return 1000 * self._used_s / count


async def measure_costs() -> list[Cost]:
    """Measure every call over fresh services without injected latency."""
    async with open_lab() as lab:
        settings = lab.worker_settings()
        async with (
            cosmos_client(settings) as cosmos,
            blob_service_client(settings) as blobs,
            servicebus_client(settings) as broker,
        ):
            container = brooks_container(cosmos, settings)
            collect_seldom()
            return [
                *await _sessions(broker, settings),
                await _leases(blobs, settings),
                await _queries(container),
                await _batches(container, _COMMANDS, times=1),
                await _batches(container, _CHUNK_EVENTS, times=0),
                await _replies(broker),
            ]


async def _sessions(client: ServiceBusClient, settings: Settings) -> list[Cost]:
    """Open, receive, complete, close: at the client's own pace, then as the worker opens."""
    async with client.get_queue_sender(COMMANDS) as sender:
        for session in range(2 * _SESSIONS):
            await sender.send_messages([_message(_BODY, f"session-{session}") for _ in range(_COMMANDS)])
    source = ServiceBusSessionSource(client, COMMANDS, accept_wait_s=settings.session_accept_wait_s)
    paced, opened, closed, worked = Meter(), Meter(), Meter(), Meter()
    for _ in range(_SESSIONS):
        receiver = client.get_queue_receiver(COMMANDS, session_id=NEXT_AVAILABLE_SESSION, max_wait_time=5)
        with paced.running():
            await receiver.__aenter__()
        with worked.running():
            await _work(receiver)
        with closed.running():
            await receiver.close()
    for _ in range(_SESSIONS):
        with opened.running():
            accepted = await source.accept()
        assert accepted is not None, "as many sessions wait as are asked for"
        await accepted.settle([(one, Complete()) for one in await accepted.receive(_COMMANDS, 5)])
        await accepted.close()
    return [
        Cost(call="open a session at the client's own pace", ms=paced.ms_each(_SESSIONS), times=0),
        Cost(call="open a session, as the worker does", ms=opened.ms_each(_SESSIONS), times=1),
        Cost(call="receive and complete its commands", ms=worked.ms_each(_SESSIONS), times=1),
        Cost(call="close it", ms=closed.ms_each(_SESSIONS), times=1),
    ]


async def _work(receiver: ServiceBusReceiver) -> None:
    messages = await receiver.receive_messages(_COMMANDS, max_wait_time=5)
    receiver._await_settlement_outcome = False  # noqa: SLF001 - the cheapest way there is
    for message in messages[:-1]:
        await receiver.complete_message(message)
    receiver._await_settlement_outcome = True  # noqa: SLF001 - the last one's outcome tells of all
    await receiver.complete_message(messages[-1])


async def _leases(service: BlobServiceClient, settings: Settings) -> Cost:
    """A lease on a new blob, from making the blob to the release."""

    async def one(number: int) -> None:
        blob: BlobClient = service.get_blob_client(settings.lease_container, f"floor-{number}")
        await blob.upload_blob(b"", overwrite=False)
        lease = BlobLeaseClient(blob, str(uuid.uuid4()))
        await lease.acquire(lease_duration=_LEASE_S)
        await lease.release()

    return Cost(call="make a blob, acquire and release its lease", ms=await _each(one), times=1)


async def _queries(container: ContainerProxy) -> Cost:
    async def one(number: int) -> None:
        query = 'SELECT * FROM c WHERE c.id IN ("head", "head-pending")'
        assert [row async for row in container.query_items(query, partition_key=f"floor|{number}")] == []

    # Not counted: the worker creates a new brook unread.
    return Cost(call="query the head", ms=await _each(one), times=0)


async def _batches(container: ContainerProxy, events: int, *, times: int) -> Cost:
    async def one(number: int) -> None:
        partition_key = f"floor-{events}|{number}"
        documents = [
            {"id": name, "type": "event", "brookPartitionKey": partition_key, "position": index, "data": _DATA}
            for index, name in enumerate(["head", *map(str, range(events))])
        ]
        operations = [("create", (document,)) for document in documents]
        await container.execute_item_batch(
            operations, partition_key=partition_key, retry_connect=0, retry_read=0, no_response=True
        )

    return Cost(call=f"one batch: the head and {events} events", ms=await _each(one), times=times)


async def _replies(client: ServiceBusClient) -> Cost:
    async with client.get_queue_sender(REPLIES) as sender:

        async def one(number: int) -> None:
            await _send(sender, number)

        return Cost(call="send four replies in one message", ms=await _each(one), times=1)


async def _send(sender: ServiceBusSender, number: int) -> None:
    batch = await sender.create_message_batch()
    for _ in range(_COMMANDS):
        batch.add_message(_message(_REPLY, f"session-{number}"))
    await sender.send_messages(batch)


async def _each(one: Callable[[int], Awaitable[None]]) -> float:
    """Processor time of one call, after a first one that is not counted."""
    await one(-1)
    meter = Meter()
    with meter.running():
        for number in range(_REQUESTS):
            await one(number)
    return meter.ms_each(_REQUESTS)


def _message(body: bytes, session_id: str) -> ServiceBusMessage:
    return ServiceBusMessage(body, session_id=session_id, message_id=uuid.uuid4().hex)


def table(costs: list[Cost]) -> Table:
    """The costs, and what follows from them."""
    made = Table(title="processor time of the SDKs alone", title_justify="left")
    made.add_column("call")
    made.add_column("ms", justify="right")
    made.add_column("a session of four commands", justify="right")
    for cost in costs:
        made.add_row(cost.call, f"{cost.ms:.2f}", f"{cost.ms * cost.times:.2f}" if cost.times else "")
    session_ms = sum(cost.ms * cost.times for cost in costs)
    made.add_section()
    made.add_row("a session", "", f"{session_ms:.2f}")
    made.add_row("a command", "", f"{session_ms / _COMMANDS:.2f}")
    made.add_row("commands a second and core, at most", "", f"{1000 * _COMMANDS / session_ms:,.0f}")
    return made


def main() -> int:
    """Measure and print."""
    log_warnings()
    costs = run_async(measure_costs)
    Console().print(table(costs))
    return 0


if __name__ == "__main__":
    sys.exit(main())

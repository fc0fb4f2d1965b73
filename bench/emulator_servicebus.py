"""What the embedded Service Bus costs beside its client: messages/s, and CPU time per message on both sides.

    python -m bench.emulator_servicebus [--messages N] [--data DIR]

The server runs in a process of its own, on the event loop that it has as a product. Each case is one the clients
know: send singly, send batches, receive and complete in turn, receive and complete together; the last one accepts
sessions with one message each straight at the engine, to show that the time per session does not grow with their
number. The end says which targets were reached.
"""

import argparse
import asyncio
import multiprocessing
import resource
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver, ServiceBusSender

from emulator.clock import ManualClock, SystemClock
from emulator.config import QueueConfig, ServiceBusConfig
from emulator.faults import Faults
from emulator.journal import MemoryJournal, SqliteJournal
from emulator.process import loop_factory
from emulator.servicebus import ServiceBusServer
from emulator.servicebus.amqp.encode import encode, encode_list
from emulator.servicebus.amqp.message import DATA, GROUP_ID, PROPERTIES, section
from emulator.servicebus.engine.errors import ServiceBusError
from emulator.servicebus.engine.message import read_message
from emulator.servicebus.engine.namespace import Namespace
from emulator.servicebus.engine.outcomes import Complete
from emulator.servicebus.engine.receivers import Delivery, Receiver

BODY = b"x" * 256
BATCH = 100
SHARE_MAX = 0.5
"""Target: the server's CPU time for a message beside its client's."""
SESSIONS = (1_000, 10_000)
GROWTH_MAX = 1.5
"""Target: the time for a session among many beside that among few."""


def cpu_s() -> float:
    """CPU time of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def serve(pipe: Connection, data: str | None) -> None:
    """The server's process: answers each message on the pipe with its CPU time, and ends with it."""

    async def main() -> None:
        journal = MemoryJournal() if data is None else SqliteJournal(Path(data) / "servicebus.sqlite")
        server = ServiceBusServer(
            config=ServiceBusConfig(queues=(QueueConfig(name="q"),)),
            clock=SystemClock(),
            journal=journal,
            faults=Faults(),
        )
        await server.start()
        pipe.send(server.connection_string)
        loop = asyncio.get_running_loop()
        while await loop.run_in_executor(None, pipe.recv):
            pipe.send(cpu_s())
        await server.stop()
        journal.close()

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(main())


async def send_singly(sender: ServiceBusSender, count: int) -> None:
    """One request for each message."""
    for _ in range(count):
        await sender.send_messages(ServiceBusMessage(BODY))


async def send_batches(sender: ServiceBusSender, count: int) -> None:
    """One request for a hundred."""
    for _ in range(count // BATCH):
        await sender.send_messages([ServiceBusMessage(BODY) for _ in range(BATCH)])


async def receive_one_at_a_time(receiver: ServiceBusReceiver, count: int) -> None:
    """One at a time, each completed before the next."""
    for _ in range(count):
        (message,) = await receiver.receive_messages(1, max_wait_time=5)
        await receiver.complete_message(message)


async def receive_in_turn(receiver: ServiceBusReceiver, count: int) -> None:
    """A hundred at a time, completed one after the other."""
    done = 0
    while done < count:
        for message in await receiver.receive_messages(BATCH, max_wait_time=5):
            await receiver.complete_message(message)
            done += 1


async def receive_together(receiver: ServiceBusReceiver, count: int) -> None:
    """A hundred at a time, completed at once."""
    done = 0
    while done < count:
        messages = await receiver.receive_messages(BATCH, max_wait_time=5)
        await asyncio.gather(*(receiver.complete_message(message) for message in messages))
        done += len(messages)


Case = tuple[str, Callable[[Any, int], Awaitable[None]], int]


async def run_cases(connection_string: str, pipe: Connection, count: int) -> dict[str, float]:
    """The server's share by case. Each receiving case finds what a sending case before it left."""
    shares: dict[str, float] = {}
    cases: list[Case] = [
        ("send singly", send_singly, count),
        ("receive one at a time, complete", receive_one_at_a_time, count),
        ("send batches of 100", send_batches, 4 * count),
        ("receive 100, complete in turn", receive_in_turn, 2 * count),
        ("receive 100, complete with gather", receive_together, 2 * count),
    ]
    print(f"{'case':36}{'messages/s':>12}{'client µs':>12}{'server µs':>12}{'server/client':>15}")
    async with ServiceBusClient.from_connection_string(connection_string) as client:
        for name, run, messages in cases:
            async with AsyncExitStack() as stack:
                sends = run in (send_singly, send_batches)
                link = client.get_queue_sender("q") if sends else client.get_queue_receiver("q")
                opened: Any = await stack.enter_async_context(link)
                pipe.send(True)
                server_before, client_before, began = pipe.recv(), cpu_s(), time.perf_counter()
                await run(opened, messages)
                took, client_s = time.perf_counter() - began, cpu_s() - client_before
                pipe.send(True)
                server_s = pipe.recv() - server_before
            per = 1e6 / messages
            rate = f"{messages / took:12,.0f}"
            shares[name] = server_s / client_s
            print(f"{name:36}{rate}{client_s * per:12.0f}{server_s * per:12.0f}{shares[name]:15.2f}")
    return shares


class Sink:
    """A receiver without a wire."""

    owner: object = "bench"

    def granted(self, receiver: Receiver) -> None:
        """Keep the receiver."""
        self.receiver = receiver

    def refused(self, error: ServiceBusError) -> None:
        """There always is a session here."""
        raise AssertionError(error)

    def deliver(self, delivery: Delivery) -> None:
        """Keep the message."""
        self.delivery = delivery

    def lost(self, error: ServiceBusError) -> None:
        """The clock stands still."""
        raise AssertionError(error)


def accept_sessions(count: int) -> float:
    """Seconds for accepting, emptying and closing `count` sessions with one message each."""
    config = ServiceBusConfig(queues=(QueueConfig(name="s", requires_session=True),))
    engine = Namespace(config, clock=ManualClock(), journal=MemoryJournal())
    for number in range(count):
        properties = encode_list([b"\x40"] * GROUP_ID + [encode(str(number))])
        engine.send("s", [read_message(section(PROPERTIES, properties) + section(DATA, encode(BODY)))])
    began = time.perf_counter()
    for _ in range(count):
        sink = Sink()
        engine.accept_session("s", None, sink, deletes=False)
        sink.receiver.set_credit(1)
        queue = sink.receiver.queue
        queue.settle([queue.find_lock(sink.delivery.token, sink.receiver)], Complete())
        sink.receiver.close()
    return time.perf_counter() - began


def main() -> None:
    """Run everything and print it."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--messages", type=int, default=2_000)
    arguments.add_argument("--data", default=None)
    given = arguments.parse_args()
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs, given.data))
    process.start()
    try:
        shares = asyncio.run(run_cases(ours.recv(), ours, given.messages))
    finally:
        ours.send(False)
        process.join(10)
    each_s = {count: accept_sessions(count) / count for count in SESSIONS}
    for count, session_s in each_s.items():
        print(f"accept {count:6,} sessions with one message each: {session_s * 1e6:6.1f} µs each")
    for name, share in shares.items():
        tell(f"server below {SHARE_MAX} of its client, {name}: {share:.2f}", reached=share < SHARE_MAX)
    growth = each_s[SESSIONS[1]] / each_s[SESSIONS[0]]
    tell(f"a session among 10,000 within {GROWTH_MAX} of one among 1,000: {growth:.2f}", reached=growth <= GROWTH_MAX)


def tell(target: str, *, reached: bool) -> None:
    """Say whether a target was reached."""
    print(f"{'reached' if reached else 'MISSED':8} {target}")


if __name__ == "__main__":
    main()

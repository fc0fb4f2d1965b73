"""The embedded services for tests of operators' commands, and those commands as processes."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

import anyio
import anyio.abc
from azure.servicebus import ServiceBusMessage, ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusClient

from brook_client.messages import command_message
from emulator.app import Emulator
from emulator.config import QueueConfig, ServiceBusConfig
from schemas.commands import AppendCommand
from tests.support.processes import end, gone_at_end
from tests.support.waiting import wait_until
from tests.support.worker_process import ROOT
from worker.configuration import PREFIX, variable
from worker.redaction import Secret
from worker.settings import Settings

LOCK_S = 60.0


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


class Services:
    """One process's Service Bus, Cosmos DB and Blob Storage, and short words for what tests do with them."""

    def __init__(self, azure: Emulator, broker: ServiceBusClient) -> None:
        self.azure = azure
        self.broker = broker

    def settings(self, queue: str, **changes: Any) -> Settings:
        """Settings that lead here, for commands that run within the test."""
        given: dict[str, Any] = {
            "servicebus_connection_string": Secret(self.azure.servicebus_connection_string),
            "servicebus_admin_endpoint": self.azure.servicebus_admin_endpoint,
            "cosmos_endpoint": self.azure.cosmos_endpoint,
            "cosmos_key": Secret(self.azure.cosmos_key),
            "blob_connection_string": Secret(self.azure.blob_connection_string),
            "command_queue": queue,
            "reply_queue": f"{queue}-replies",
        }
        return Settings(**(given | changes))

    def variables(self, queue: str, **changes: str) -> dict[str, str]:
        """The same for a process."""
        given = {
            "servicebus_connection_string": self.azure.servicebus_connection_string,
            "servicebus_admin_endpoint": self.azure.servicebus_admin_endpoint,
            "cosmos_endpoint": self.azure.cosmos_endpoint,
            "cosmos_key": self.azure.cosmos_key,
            "blob_connection_string": self.azure.blob_connection_string,
            "command_queue": queue,
            "reply_queue": f"{queue}-replies",
        }
        return {variable(name): value for name, value in (given | changes).items() if value}

    async def dead_letter(
        self, queue: str, commands: Sequence[AppendCommand], *, reason: str = "MaxDeliveryCountExceeded"
    ) -> list[int]:
        """Send commands, and have them dead-lettered as a broker or a worker would; their sequence numbers."""
        return await self.dead_letter_messages(queue, [command_message(one) for one in commands], reason=reason)

    async def dead_letter_messages(
        self, queue: str, messages: Sequence[ServiceBusMessage], *, reason: str = "MaxDeliveryCountExceeded"
    ) -> list[int]:
        async with self.broker.get_queue_sender(queue) as sender:
            await sender.send_messages(list(messages))
        numbers: list[int] = []
        for session_id in dict.fromkeys(one.session_id for one in messages):
            assert session_id is not None
            async with self.broker.get_queue_receiver(queue, session_id=session_id) as receiver:
                expected = sum(one.session_id == session_id for one in messages)
                while expected:
                    for message in await receiver.receive_messages(expected, max_wait_time=5):
                        await receiver.dead_letter_message(message, reason=reason, error_description="for a test")
                        numbers.append(message.sequence_number or 0)
                        expected -= 1
        return sorted(numbers)

    async def received(self, queue: str, session_id: str) -> list[ServiceBusReceivedMessage]:
        """What waits in a session, looked at."""
        async with self.broker.get_queue_receiver(queue, session_id=session_id) as receiver:
            return await receiver.peek_messages(100)

    def dead(self, queue: str) -> list[int]:
        """The sequence numbers of the dead letters."""
        return [view.sequence for view in self.azure.servicebus.engine.messages(f"{queue}/$DeadLetterQueue")]


@asynccontextmanager
async def running_services(*queues: QueueConfig) -> AsyncIterator[Services]:
    """The embedded services in this process."""
    async with (
        Emulator(config=ServiceBusConfig(queues=queues)) as azure,
        ServiceBusClient.from_connection_string(azure.servicebus_connection_string, socket_timeout=0.02) as broker,
    ):
        yield Services(azure, broker)


def environment(variables: dict[str, str]) -> dict[str, str]:
    """This process's environment with a command's settings alone."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return {**inherited, "COLUMNS": "200", "PYTHONPATH": str(ROOT), **variables}


def arguments(*words: str) -> list[str]:
    return [sys.executable, "-m", "worker.cli", *words]


async def brook_worker(*words: str, variables: dict[str, str]) -> Done:
    """Run a command to its end."""
    with anyio.fail_after(120):
        done = await anyio.run_process(
            arguments(*words), check=False, stdin=subprocess.DEVNULL, env=environment(variables)
        )
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


class Running:
    """A command under way, and what it has printed so far."""

    def __init__(self, process: anyio.abc.Process) -> None:
        self._process = process
        self.out = ""
        self.err = ""

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    def json_lines(self) -> Iterator[Any]:
        return map(json.loads, self.lines)

    def send_signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def ended(self) -> int:
        """Wait for its end; its exit code."""
        with anyio.fail_after(60):
            return await self._process.wait()

    async def read(self, stream: anyio.abc.ByteReceiveStream, name: str) -> None:
        async for chunk in stream:
            setattr(self, name, getattr(self, name) + chunk.decode())


@asynccontextmanager
async def running_command(*words: str, variables: dict[str, str]) -> AsyncIterator[Running]:
    """Start a command; at the end of the context it is gone."""
    process = await anyio.open_process(
        arguments(*words), stdin=subprocess.DEVNULL, env=environment({**variables, "PYTHONUNBUFFERED": "1"})
    )
    running = Running(process)
    assert process.stdout is not None
    assert process.stderr is not None
    async with anyio.create_task_group() as readers:
        readers.start_soon(running.read, process.stdout, "out")
        readers.start_soon(running.read, process.stderr, "err")
        try:
            yield running
        finally:
            await end(process)
    await process.aclose()


class Terminal:
    """A command that sits at a terminal of its own."""

    def __init__(self, process: anyio.abc.Process, descriptor: int) -> None:
        self._process = process
        self._descriptor = descriptor
        self.text = ""

    async def shows(self, text: str) -> None:
        """Wait until it has printed this."""
        await wait_until(lambda: text in self._read(), f"the terminal shows {text!r}", 60)

    def type(self, keys: bytes) -> None:
        os.write(self._descriptor, keys)

    def send_signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def ended(self) -> int:
        """Wait for its end; its exit code."""
        with anyio.fail_after(60):
            return await self._process.wait()

    def _read(self) -> str:
        with suppress(BlockingIOError, OSError):  # nothing there, or nobody at the other end
            self.text += os.read(self._descriptor, 65_536).decode(errors="replace")
        return self.text


@asynccontextmanager
async def on_a_terminal(*words: str, variables: dict[str, str]) -> AsyncIterator[Terminal]:
    """Start a command as somebody does who sits at a terminal; at the end of the context it is gone."""
    ours, theirs = os.openpty()
    os.set_blocking(ours, False)
    process = await anyio.open_process(
        arguments(*words),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment(variables),
    )
    os.close(theirs)
    try:
        async with gone_at_end(process):
            yield Terminal(process, ours)
    finally:
        os.close(ours)

"""An embedded Service Bus as a process of its own, to be killed: `python -m tests.support.servicebus_process DIR`."""

import asyncio
import sys
from pathlib import Path

from emulator.clock import SystemClock
from emulator.config import QueueConfig, ServiceBusConfig
from emulator.faults import Faults
from emulator.journal import SqliteJournal
from emulator.servicebus import ServiceBusServer

QUEUES = (
    QueueConfig(name="commands", requires_session=True, max_delivery_count=2_000),
    QueueConfig(name="replies", requires_duplicate_detection=True, max_delivery_count=2_000),
)


async def main(folder: Path) -> None:
    """Serve until killed; the first line of output is the connection string."""
    server = ServiceBusServer(
        config=ServiceBusConfig(queues=QUEUES),
        clock=SystemClock(),
        journal=SqliteJournal(folder / "servicebus.sqlite"),
        faults=Faults(),
        key="a2V5",
    )
    await server.start()
    sys.stdout.write(server.connection_string + "\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))

"""Serve the embedded Cosmos DB from a data folder until killed: `python cosmos_process.py DATA_FILE`.

Prints its port, then nothing more.
"""

import asyncio
import sys
from pathlib import Path

from emulator.clock import SystemClock
from emulator.cosmos import CosmosServer
from emulator.faults import Faults
from emulator.journal import SqliteJournal


async def main() -> None:
    journal = SqliteJournal(Path(sys.argv[1]))
    server = CosmosServer(clock=SystemClock(), journal=journal, faults=Faults())
    port = await server.start()
    sys.stdout.write(f"port={port}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())

"""Sessions over references in memory, in which nothing that a test waits for takes long."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import anyio

from worker.sessions.serve import SessionOptions, SessionServer
from worker.sessions.stopping import Stopping

QUICK: Final = SessionOptions(
    max_concurrent_sessions=2,
    session_idle_s=0.02,
    session_pause_initial_s=0.01,
    session_pause_max_s=0.05,
    session_hold_max_s=5,
    group_commands_max=100,
    group_bytes_max=1_000_000,
    lease_renew_after_s=10,
)


@asynccontextmanager
async def serving(server: SessionServer, stopping: Stopping) -> AsyncIterator[None]:
    """Have sessions worked on until the context ends; then what is in hand is finished."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, stopping)
        yield
        stopping.set()

"""Sessions over references in memory, in which nothing that a test waits for takes long."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import anyio

from worker.sessions.base import CommandSession, Delivery, Settlement
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


class Passing:
    """A session that does all that another one does: for tests that change some of it."""

    def __init__(self, session: CommandSession) -> None:
        self.session = session

    @property
    def session_id(self) -> str:
        return self.session.session_id

    async def receive(self, count_max: int, wait_s: float) -> Sequence[Delivery]:
        return await self.session.receive(count_max, wait_s)

    async def settle(self, settlements: Sequence[tuple[Delivery, Settlement]]) -> None:
        await self.session.settle(settlements)

    async def keep_locked(self) -> None:
        await self.session.keep_locked()

    async def close(self) -> None:
        await self.session.close()

"""Sessions whose first messages take longer to come than an idle session is kept."""

from collections.abc import Sequence

import anyio
import pytest

from schemas.codec import JSON, encode_command
from schemas.guards import Guards
from schemas.keys import session_id_for
from tests.support.brooks import KEY, command
from tests.support.waiting import wait_until
from worker.handlers.append import AppendHandler
from worker.locking.memory import MemoryLeaseManager, MemoryLeaseService
from worker.locking.options import LeaseOptions
from worker.protocol.model import Limits
from worker.sessions.base import CommandSession, Delivery, Settlement
from worker.sessions.group import GroupProcessor
from worker.sessions.intake import Intake
from worker.sessions.memory import MemoryBroker, MemoryReplies
from worker.sessions.serve import SessionOptions, SessionServer
from worker.sessions.stopping import Stopping
from worker.storage.memory import MemoryBrookStore

pytestmark = pytest.mark.anyio

IDLE_S = 0.02
ON_ITS_WAY_S = 0.2

OPTIONS = SessionOptions(
    max_concurrent_sessions=2,
    session_idle_s=IDLE_S,
    session_pause_initial_s=0.01,
    session_pause_max_s=0.05,
    session_hold_max_s=5,
    group_commands_max=100,
    group_bytes_max=1_000_000,
    lease_renew_after_s=10,
)


class Distant:
    """A session whose messages are on their way for a while after it was accepted."""

    def __init__(self, session: CommandSession) -> None:
        self._session = session
        self._there_at_s = anyio.current_time() + ON_ITS_WAY_S

    @property
    def session_id(self) -> str:
        return self._session.session_id

    async def receive(self, count_max: int, wait_s: float) -> Sequence[Delivery]:
        ends_s = anyio.current_time() + wait_s
        await anyio.sleep_until(min(self._there_at_s, ends_s))
        if anyio.current_time() < self._there_at_s:
            return []
        return await self._session.receive(count_max, max(ends_s - anyio.current_time(), 0.001))

    async def settle(self, settlements: Sequence[tuple[Delivery, Settlement]]) -> None:
        await self._session.settle(settlements)

    async def keep_locked(self) -> None:
        await self._session.keep_locked()

    async def close(self) -> None:
        await self._session.close()


class Source:
    """Distant sessions of the in-memory broker, counted."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self.accepted = 0

    async def accept(self) -> CommandSession | None:
        session = await self._broker.accept()
        self.accepted += session is not None
        return None if session is None else Distant(session)


async def test_a_session_is_not_idle_before_its_first_messages_have_come() -> None:
    """On a slow line, or a busy machine, workers once accepted sessions for ever and worked on none."""
    broker, replies, stopping = MemoryBroker(), MemoryReplies(), Stopping()
    source = Source(broker)
    groups = GroupProcessor(
        Intake(Guards(), frozenset()), AppendHandler(MemoryBrookStore(), Limits(), replans_max=5), replies
    )
    server = SessionServer(source, MemoryLeaseManager(MemoryLeaseService(), LeaseOptions()), groups, OPTIONS)
    for name in ("a", "b"):
        one = command(command_id=name)
        broker.send(encode_command(one, JSON), session_id=session_id_for(KEY), message_id=name, content_type=JSON)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, stopping)
        await wait_until(lambda: broker.pending() == 0, "the commands are settled", 5)
        stopping.set()
    assert source.accepted == 1
    assert [reply.correlation_id for reply in replies.sent] == ["a", "b"]

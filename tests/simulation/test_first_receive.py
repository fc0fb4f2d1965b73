"""Sessions whose first messages take longer to come than an idle session is kept."""

from collections.abc import Sequence

import anyio
import pytest

from schemas.codec import JSON, encode_command
from schemas.guards import Guards
from schemas.keys import session_id_for
from tests.support.brooks import KEY, command
from tests.support.sessions import QUICK, Passing, serving
from tests.support.waiting import wait_until
from worker.handlers.append import AppendHandler
from worker.locking.memory import MemoryLeaseManager, MemoryLeaseService
from worker.locking.options import LeaseOptions
from worker.protocol.model import Limits
from worker.sessions.base import CommandSession, Delivery
from worker.sessions.group import GroupProcessor
from worker.sessions.intake import Intake
from worker.sessions.memory import MemoryBroker, MemoryReplies
from worker.sessions.serve import SessionServer
from worker.sessions.stopping import Stopping
from worker.storage.memory import MemoryBrookStore

pytestmark = pytest.mark.anyio

ON_ITS_WAY_S = 10 * QUICK.session_idle_s


class Distant(Passing):
    """A session whose messages are on their way for a while after it was accepted."""

    def __init__(self, session: CommandSession) -> None:
        super().__init__(session)
        self._there_at_s = anyio.current_time() + ON_ITS_WAY_S

    async def receive(self, count_max: int, wait_s: float) -> Sequence[Delivery]:
        ends_s = anyio.current_time() + wait_s
        await anyio.sleep_until(min(self._there_at_s, ends_s))
        if anyio.current_time() < self._there_at_s:
            return []
        return await super().receive(count_max, max(ends_s - anyio.current_time(), 0.001))


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
    server = SessionServer(source, MemoryLeaseManager(MemoryLeaseService(), LeaseOptions()), groups, QUICK)
    for name in ("a", "b"):
        one = command(command_id=name)
        broker.send(encode_command(one, JSON), session_id=session_id_for(KEY), message_id=name, content_type=JSON)
    async with serving(server, stopping):
        await wait_until(lambda: broker.pending() == 0, "the commands are settled", 5)
    assert source.accepted == 1
    assert [reply.correlation_id for reply in replies.sent] == ["a", "b"]

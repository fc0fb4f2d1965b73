"""One session's work in three stages at once: receive, commit, then reply and settle.

While a group commits, the next one is received and the one before is replied to. Each stage takes all that the
one before has ready, so that groups grow with the load and a single command never waits for company. Order is kept
throughout: one task a stage, first in first out.
"""

from collections.abc import Callable, Sequence
from typing import Final

import anyio
import msgspec

from worker.sessions.backlog import Backlog
from worker.sessions.base import CommandSession, Delivery
from worker.sessions.brooks import Brooks
from worker.sessions.conflicts import UnsettledConflicts
from worker.sessions.group import Decided, GroupProcessor
from worker.sessions.stopping import Stopping

_BROOKS_MAX: Final = 1000
"""Brooks whose head a session remembers."""

_WAITING_GROUPS_MAX: Final = 2
"""With room for two, each receive may bring a whole group while another one waits, and none is made of remainders."""

_FINISHING_GROUPS_MAX: Final = 2

UNSETTLED_GROUPS_MAX: Final = _WAITING_GROUPS_MAX + 1 + 2 * _FINISHING_GROUPS_MAX
"""No session holds more that is not settled: waiting, committing, waiting to finish, finishing."""

_BODY_BYTES_ASSUMED: Final = 256 * 1024.0
"""The size of a command of a session that gave none yet: what a message takes at most, but for the premium tier."""

_AVERAGE_WEIGHT: Final = 0.2
_FIRST_MAX_S: Final = 5.0
"""The first messages of a session come within milliseconds, unless the line or the machine is slow."""

_STOP_LOOK_S: Final = 1.0
"""A receive is not cancelled, so it is kept short."""


class PipelineOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How one session is worked on; see the settings of the same names."""

    group_commands_max: int
    group_bytes_max: int

    @property
    def unsettled_max(self) -> int:
        """No session holds more deliveries that are not settled."""
        return self.group_commands_max * UNSETTLED_GROUPS_MAX

    @property
    def unsettled_bytes_max(self) -> int:
        """No session holds more of them in bytes, as far as its commands are as large as those before them."""
        return self.group_bytes_max * UNSETTLED_GROUPS_MAX


class Pipeline:
    """Works on one session from its acceptance until it is idle, or may not stay, or the worker stops.

    `may_stay` is asked before each receive, and `idle_max_s` how long it may go on without a command;
    `on_progress` is told of each group that is done with.
    """

    def __init__(
        self,
        session: CommandSession,
        groups: GroupProcessor,
        options: PipelineOptions,
        *,
        may_stay: Callable[[], bool],
        idle_max_s: Callable[[], float],
        on_progress: Callable[[], None],
    ) -> None:
        self._session = session
        self._groups = groups
        self._options = options
        self._may_stay = may_stay
        self._idle_max_s = idle_max_s
        self._on_progress = on_progress
        self._received = Backlog[Delivery](options.group_commands_max * _WAITING_GROUPS_MAX)
        self._decided = Backlog[Decided](options.group_commands_max * _FINISHING_GROUPS_MAX)
        self._conflicts = UnsettledConflicts(groups.remembered_max)
        self._body_bytes = _BODY_BYTES_ASSUMED
        self._unsettled_bytes = 0
        self._came_any = False
        self._settled = anyio.Event()

    async def run(self) -> None:
        """Work on what `receive` brings until it ends. Raises, in a group, what a stage raised.

        Then nothing in hand was settled.
        """
        async with anyio.create_task_group() as stages:
            stages.start_soon(self._commit)
            stages.start_soon(self._finish)

    async def receive(self, stopping: Stopping) -> None:
        """Receive until the session's end. May begin before the session may be worked on: it takes as much as waits."""
        while not stopping.is_set and self._may_stay():
            count_max = self._count_max()
            await self._received.room(least=count_max)
            while self._unsettled_bytes > self._options.unsettled_bytes_max - self._options.group_bytes_max:
                await self._settled.wait()
            deliveries = await self._receive_some(count_max, stopping)
            if not deliveries:
                break
            self._came_any = True
            self._measure(deliveries)
            self._received.put(deliveries)
        self._received.close()

    async def _receive_some(self, count_max: int, stopping: Stopping) -> Sequence[Delivery]:
        """What comes before the session counts as idle; nothing when it is time to stop."""
        since_s = anyio.current_time()
        while not stopping.is_set and (left_s := since_s + self._quiet_max_s() - anyio.current_time()) > 0:
            if deliveries := await self._session.receive(count_max, min(left_s, _STOP_LOOK_S)):
                return deliveries
        return ()

    def _quiet_max_s(self) -> float:
        """How long nothing may come. A session that was accepted has messages: before the first, they are on their way.

        Given back for that, it would be accepted again, and so on: on a slow line for ever.
        """
        return self._idle_max_s() if self._came_any else max(self._idle_max_s(), _FIRST_MAX_S)

    async def _commit(self) -> None:
        brooks = Brooks(_BROOKS_MAX)
        seen = 0
        while deliveries := await self._received.take(await self._group_commands_max()):
            # What the session's last holder left unsettled comes first, and not all of it is counted as delivered.
            doubtful = seen < self._options.unsettled_max
            seen += len(deliveries)
            while deliveries:
                decided = await self._groups.decide(brooks, deliveries, doubtful=doubtful)
                deliveries = deliveries[len(decided) :]
                self._conflicts.decided(decided)
                while decided:
                    room = await self._decided.room()
                    self._decided.put(decided[:room])
                    decided = decided[room:]
        self._decided.close()

    async def _finish(self) -> None:
        while decided := await self._decided.take(self._options.group_commands_max * _FINISHING_GROUPS_MAX):
            await self._groups.finish(self._session, decided)
            self._conflicts.settled(len(decided))
            self._unsettled_bytes -= sum(_size_bytes(one.delivery) for one in decided)
            self._settled.set()
            self._settled = anyio.Event()
            self._on_progress()

    async def _group_commands_max(self) -> int:
        return min(self._count_max(), await self._conflicts.room())

    def _count_max(self) -> int:
        """As many as a group takes, or as its bytes allow, by the average of those received last."""
        return max(1, min(self._options.group_commands_max, int(self._options.group_bytes_max / self._body_bytes)))

    def _measure(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            size = _size_bytes(delivery)
            self._unsettled_bytes += size
            # Large ones count at once, small ones by and by: the bound is on memory.
            weight = 1.0 if size > self._body_bytes else _AVERAGE_WEIGHT
            self._body_bytes += weight * (size - self._body_bytes)


def _size_bytes(delivery: Delivery) -> int:
    return len(delivery.body or b"") + 1

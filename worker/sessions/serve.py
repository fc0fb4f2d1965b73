"""Accept loops, and one session from its acceptance to its end."""

import random
from collections.abc import Iterator
from functools import partial
from typing import Final

import anyio
import msgspec
import structlog
from anyio.abc import TaskGroup

from schemas.keys import BrookKey
from worker.handlers.brook import BrookState
from worker.locking.base import LeaseError, LeaseManager, LeaseUnavailableError
from worker.locking.keeper import keep_renewed
from worker.sessions.base import BrokerError, BrokerRefusedError, CommandSession, SessionLostError, SessionSource
from worker.sessions.group import GroupProcessor
from worker.sessions.stopping import Stopping
from worker.storage.base import StoreError

log = structlog.get_logger()

_RELEASE_TIMEOUT_S: Final = 5.0
_CLOSING_MAX: Final = 32
_EXPECTED: Final = (StoreError, LeaseError, BrokerError)


class SessionOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How sessions are worked on; see the settings of the same names."""

    max_concurrent_sessions: int
    session_idle_s: float
    session_pause_initial_s: float
    session_pause_max_s: float
    group_commands_max: int
    lease_renew_after_s: float


class SessionServer:
    """Works on up to `max_concurrent_sessions` sessions at once until it is told to stop."""

    def __init__(
        self, source: SessionSource, leases: LeaseManager, groups: GroupProcessor, options: SessionOptions
    ) -> None:
        self._source = source
        self._leases = leases
        self._groups = groups
        self._options = options
        self._closing = anyio.CapacityLimiter(_CLOSING_MAX)
        self._accepted_any = False

    async def run(self, stopping: Stopping) -> None:
        """Accept and serve sessions until `stopping`; then finish the groups in hand.

        Raises BrokerRefusedError when the queue refuses us before any session was accepted: a setting is wrong.
        """
        async with anyio.create_task_group() as closers, anyio.create_task_group() as slots:
            for _ in range(self._options.max_concurrent_sessions):
                slots.start_soon(self._accept_loop, closers, stopping)

    async def _accept_loop(self, closers: TaskGroup, stopping: Stopping) -> None:
        pauses = _pauses(self._options)
        while not stopping.is_set:
            session = None
            try:
                with stopping.unless_stopping():
                    session = await self._source.accept()
                if session is not None:
                    self._accepted_any = True
                    await self._serve(session, stopping)
                pauses = _pauses(self._options)
                continue
            except BrokerRefusedError as error:
                if not self._accepted_any:
                    raise
                _log_end(session, error)
            except _EXPECTED as error:
                _log_end(session, error)
                if isinstance(error, SessionLostError):
                    continue  # another worker has it, or this one gets it again: no reason to wait
            except Exception:
                # A bug that is in no single command: this session pauses, the others go on.
                log.exception("session.failed", session=session.session_id if session is not None else None)
            finally:
                if session is not None:
                    # Closing takes up to a second, in which the next session can be accepted; but not without end.
                    await self._closing.acquire_on_behalf_of(session)
                    closers.start_soon(self._close, session)
            await stopping.sleep(next(pauses))

    async def _close(self, session: CommandSession) -> None:
        try:
            await session.close()
        finally:
            self._closing.release_on_behalf_of(session)

    async def _serve(self, session: CommandSession, stopping: Stopping) -> None:
        """Work on one session under its lease until it is idle, lost or the worker stops.

        Raises the StoreError, LeaseError or BrokerError that ended it; then nothing in hand was settled.
        """
        try:
            async with anyio.create_task_group() as keepers:
                keepers.start_soon(session.keep_locked)
                await self._work_under_lease(session, keepers, stopping)
                keepers.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise _cause(group) from group

    async def _work_under_lease(self, session: CommandSession, keepers: TaskGroup, stopping: Stopping) -> None:
        lease = None
        with stopping.unless_stopping():
            lease = await self._leases.acquire(session.session_id)
        if lease is None:
            return
        try:
            log.debug("session.accepted", session=session.session_id)
            keepers.start_soon(partial(keep_renewed, lease, renew_after_s=self._options.lease_renew_after_s))
            await self._work(session, stopping)
        finally:
            with anyio.move_on_after(_RELEASE_TIMEOUT_S, shield=True):
                try:
                    await lease.release()
                except LeaseUnavailableError as error:
                    log.warning("lease.release-failed", key=lease.key, reason=str(error))

    async def _work(self, session: CommandSession, stopping: Stopping) -> None:
        """Group after group, until none came for a while."""
        brooks: dict[BrookKey, BrookState] = {}
        while not stopping.is_set:
            deliveries = await session.receive(self._options.group_commands_max, self._options.session_idle_s)
            if not deliveries:
                return
            await self._groups.process(session, brooks, deliveries)


def _pauses(options: SessionOptions) -> Iterator[float]:
    """Pauses that double up to the maximum, each with jitter, so that the slots do not all come back together."""
    pause_s = options.session_pause_initial_s
    while True:
        yield pause_s * (0.5 + random.random() / 2)
        pause_s = min(pause_s * 2, options.session_pause_max_s)


def _cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one error that tells the story: a bug if there is one, else the first of ours."""
    leaves = list(_leaves(group))
    return next((leaf for leaf in leaves if not isinstance(leaf, _EXPECTED)), leaves[0])


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _log_end(session: CommandSession | None, error: Exception) -> None:
    name = session.session_id if session is not None else None
    log.warning("session.ended", session=name, error=type(error).__name__, reason=str(error))

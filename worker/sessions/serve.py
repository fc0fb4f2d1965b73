"""Accept loops, and one session from its acceptance to its end."""

import random
from functools import partial
from typing import Final

import anyio
import structlog
from anyio.abc import TaskGroup

from worker.handlers.append import BrookContendedError
from worker.locking.base import LeaseManager, LeaseUnavailableError
from worker.locking.keeper import keep_renewed
from worker.sessions.base import (
    BrokerRefusedError,
    BrokerUnavailableError,
    CommandSession,
    SessionLostError,
    SessionSource,
)
from worker.sessions.breaker import Breaker
from worker.sessions.causes import EXPECTED, cause_of, failure_of
from worker.sessions.group import GroupProcessor
from worker.sessions.idling import IdlePolicy
from worker.sessions.observed import lost_with
from worker.sessions.pipeline import Pipeline, PipelineOptions
from worker.sessions.stopping import Stopping
from worker.sessions.trial import Trial
from worker.storage.base import StoreUnavailableError
from worker.telemetry.instruments import LOSSES, SESSION_FAILURES

log = structlog.get_logger()

_RELEASE_TIMEOUT_S: Final = 5.0
_CLOSING_MAX: Final = 32
_ACCEPTORS_MIN: Final = 2
"""While no session comes, so many slots ask for one. Each holds a connection and listens ten times a second."""

_HELD_MAX_S: Final = 3600.0
"""A session is given back after an hour at the latest: the Service Bus client hangs after 10,000 lock renewals on one
receiver, and renews a lock of the shortest kind, five seconds, about every other second."""


class SessionOptions(PipelineOptions, frozen=True, kw_only=True):
    """How sessions are worked on; see the settings of the same names."""

    max_concurrent_sessions: int
    session_idle_s: float
    session_pause_initial_s: float
    session_pause_max_s: float
    session_hold_max_s: float
    lease_renew_after_s: float


class SessionServer:
    """Works on up to `max_concurrent_sessions` sessions at once until it is told to stop.

    `trial` tells whether an outage is one, and over, where sessions do not. Without it, only they do.
    """

    def __init__(
        self,
        source: SessionSource,
        leases: LeaseManager,
        groups: GroupProcessor,
        options: SessionOptions,
        trial: Trial | None = None,
    ) -> None:
        self._source = source
        self._leases = leases
        self._groups = groups
        self._options = options
        self._trial = trial
        self._breaker = Breaker(
            pause_initial_s=options.session_pause_initial_s, pause_max_s=options.session_pause_max_s
        )
        self._idle = IdlePolicy(options.session_idle_s)
        self._closing = 0
        self._closed = anyio.Event()
        self._accepting = anyio.CapacityLimiter(options.max_concurrent_sessions)
        self._accepted_any = False
        self._serving = 0

    @property
    def trouble(self) -> str | None:
        """What is out of order that all sessions need, as far as is known; None while all is well."""
        return self._breaker.reason

    async def run(self, stopping: Stopping) -> None:
        """Accept and serve sessions until `stopping`; then finish the groups in hand.

        Raises BrokerRefusedError when the queue refuses us before any session was accepted: a setting is wrong.
        """
        async with anyio.create_task_group() as closers, anyio.create_task_group() as slots:
            for _ in range(self._options.max_concurrent_sessions):
                slots.start_soon(self._accept_loop, closers, stopping)

    async def _accept_loop(self, closers: TaskGroup, stopping: Stopping) -> None:
        while not stopping.is_set:
            async with self._breaker.admission(stopping) as is_probe:
                well = await self._accept_and_serve(closers, stopping, is_probe=is_probe)
                if self._trial is not None and self._breaker.is_doubtful:
                    with stopping.unless_stopping():
                        await self._breaker.try_services(self._trial)
            if not well:
                await stopping.sleep(self._options.session_pause_initial_s * (0.5 + random.random() / 2))

    async def _accept_and_serve(self, closers: TaskGroup, stopping: Stopping, *, is_probe: bool) -> bool:
        """One session, or a while without one; False when this slot had better pause."""
        session = None
        accepted_at_s = 0.0
        try:
            session, asked_at_s = await self._accept(stopping)
            if session is not None:
                accepted_at_s = anyio.current_time()
                self._accepted_any = True
                self._breaker.answered(with_session=True)
                if self._breaker.is_open and not is_probe:
                    return True  # it was asked for before the outage showed
                self._idle.accepted(session.session_id, accepted_at_s - asked_at_s)
                await self._serve(session, stopping, asked_at_s)
            elif not stopping.is_set:
                self._idle.none_came()
                self._breaker.answered()
        except EXPECTED as error:
            if isinstance(error, BrokerRefusedError) and not self._accepted_any:
                raise
            self._note_end(session, error)
            # A lost session is another worker's, or comes to this one again: no reason to wait, unless it goes on so.
            held_s = anyio.current_time() - accepted_at_s
            return isinstance(error, SessionLostError) and held_s > self._options.session_pause_initial_s
        except Exception as error:
            # A bug that is in no single command: this slot pauses, the others go on.
            SESSION_FAILURES.add(1, failure_of(error))
            log.exception("session.failed", session=session.session_id if session is not None else None)
            return False
        finally:
            if session is not None:
                # First of all, so that it is given back though we are cancelled.
                self._closing += 1
                self._idle.given_back(session.session_id)
                closers.start_soon(self._close, session)
                # Where its connection is gone that takes seconds, in which others can be accepted; but not without end.
                while self._closing > _CLOSING_MAX:
                    await self._closed.wait()
        return True

    async def _accept(self, stopping: Stopping) -> tuple[CommandSession | None, float]:
        """Ask for a session, and tell when: all slots do while sessions come, fewer and fewer while none does."""
        session = None
        asked_at_s = anyio.current_time()
        with stopping.unless_stopping():
            async with self._accepting:
                asked_at_s = anyio.current_time()
                session = await self._source.accept()
            if session is None:
                fewer = self._accepting.total_tokens // 2
                self._accepting.total_tokens = max(fewer, min(_ACCEPTORS_MIN, self._options.max_concurrent_sessions))
            else:
                self._accepting.total_tokens = self._options.max_concurrent_sessions
        return session, asked_at_s

    async def _close(self, session: CommandSession) -> None:
        try:
            await session.close()
        finally:
            self._closing -= 1
            self._closed.set()
            self._closed = anyio.Event()

    async def _serve(self, session: CommandSession, stopping: Stopping, asked_at_s: float) -> None:
        """Work on one session under its lease until it is idle, lost or the worker stops.

        Raises the StoreError, LeaseError or BrokerError that ended it; then nothing in hand was settled.
        """
        self._serving += 1
        try:
            async with anyio.create_task_group() as keepers:
                keepers.start_soon(session.keep_locked)
                await self._work_under_lease(session, keepers, stopping, asked_at_s)
                keepers.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise cause_of(group) from group
        finally:
            self._serving -= 1

    async def _work_under_lease(
        self, session: CommandSession, keepers: TaskGroup, stopping: Stopping, asked_at_s: float
    ) -> None:
        pipeline = Pipeline(
            session,
            self._groups,
            self._options,
            may_stay=partial(self._may_stay, anyio.current_time()),
            idle_max_s=lambda: self._idle.keep_s(all_busy=self._all_busy),
            on_progress=self._breaker.succeeded,
        )
        # What has queued up arrives while the lease is taken: it makes one group, not a first one and the rest.
        keepers.start_soon(pipeline.receive, stopping)
        lease = None
        with stopping.unless_stopping():
            lease = await self._leases.acquire(session.session_id)
        if lease is None:
            return
        self._idle.opened(anyio.current_time() - asked_at_s)
        try:
            log.debug("session.accepted", session=session.session_id)
            keepers.start_soon(partial(keep_renewed, lease, renew_after_s=self._options.lease_renew_after_s))
            await pipeline.run()
        finally:
            keepers.cancel_scope.cancel()  # a renewal of what is being released would take it for lost
            with anyio.move_on_after(_RELEASE_TIMEOUT_S, shield=True):
                try:
                    await lease.release()
                except LeaseUnavailableError as error:
                    log.warning("lease.release-failed", key=lease.key, reason=str(error))

    @property
    def _all_busy(self) -> bool:
        return self._serving >= self._options.max_concurrent_sessions

    def _may_stay(self, since_s: float) -> bool:
        """Whether a session may be worked on further: others wait only where no slot is free to accept them."""
        held_s = anyio.current_time() - since_s
        return held_s < (self._options.session_hold_max_s if self._all_busy else _HELD_MAX_S)

    def _note_end(self, session: CommandSession | None, error: Exception) -> None:
        name = session.session_id if session is not None else None
        log.warning("session.ended", session=name, error=type(error).__name__, reason=str(error))
        if (what := lost_with(error)) is not None:
            LOSSES.add(1, what)
        elif session is not None:
            SESSION_FAILURES.add(1, failure_of(error))
        of_all = isinstance(error, StoreUnavailableError | LeaseUnavailableError | BrokerUnavailableError)
        if of_all and not isinstance(error, BrookContendedError):
            self._breaker.failed(str(error), name)

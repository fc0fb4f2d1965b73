"""The ports of a session, observed: each call does what it did, and is counted."""

import time
from collections.abc import Sequence

import anyio

from worker.locking.base import Lease, LeaseLostError, LeaseManager, LeaseTimeoutError, LeaseUnavailableError
from worker.sessions.base import (
    BrokerError,
    BrokerRefusedError,
    CommandSession,
    Delivery,
    OutgoingReply,
    Replies,
    SessionLostError,
    SessionSource,
    Settlement,
)
from worker.telemetry.instruments import (
    ACCEPT_DURATION,
    IN_HAND,
    LEASE_WAIT,
    REQUEST_DURATION,
    REQUESTS,
    SESSION_DURATION,
    SESSIONS_ACTIVE,
    SLOTS_BUSY,
)
from worker.telemetry.scaling import ScalingSignal
from worker.telemetry.stages import stages
from worker.telemetry.tracing import tracing

_SERVICE = "servicebus"


class ObservedSource:
    """A `SessionSource` that tells of its waits, and of the sessions that it gives out until they are closed."""

    def __init__(self, source: SessionSource, signal: ScalingSignal) -> None:
        self._source = source
        self._signal = signal

    async def accept(self) -> "ObservedSession | None":
        """Accept the next session that has messages; None when there was none for a while."""
        started_s = time.monotonic()
        try:
            session = await self._source.accept()
        except BrokerError as error:
            waited_s = time.monotonic() - started_s
            ACCEPT_DURATION.record(waited_s, "failed")
            REQUESTS.add(1, _SERVICE, "accept", "refused" if isinstance(error, BrokerRefusedError) else "unavailable")
            self._signal.accept_failed()
            raise
        waited_s = time.monotonic() - started_s
        if session is None:
            ACCEPT_DURATION.record(waited_s, "timeout")
            REQUESTS.add(1, _SERVICE, "accept", "timeout")
            self._signal.accept_timed_out()
            return None
        ACCEPT_DURATION.record(waited_s, "accepted")
        REQUESTS.add(1, _SERVICE, "accept", "ok")
        self._signal.accepted(session.session_id)
        return ObservedSession(session, self._signal)


class ObservedSession:
    """A `CommandSession` that tells how many of its commands are in hand, and how long it was held."""

    def __init__(self, session: CommandSession, signal: ScalingSignal) -> None:
        self._session = session
        self._signal = signal
        self._in_hand = 0
        self._accepted_at_s = time.monotonic()
        self._is_closed = False
        SESSIONS_ACTIVE.add(1)
        SLOTS_BUSY.add(1)

    @property
    def session_id(self) -> str:
        """Which session it is."""
        return self._session.session_id

    async def receive(self, count_max: int, wait_s: float) -> Sequence[Delivery]:
        """At most `count_max` deliveries, in order; none when none came within `wait_s`."""
        deliveries = await self._session.receive(count_max, wait_s)
        if deliveries:
            self._hold(len(deliveries))
        return deliveries

    async def settle(self, settlements: Sequence[tuple[Delivery, Settlement]]) -> None:
        """Settle deliveries."""
        started_s = time.monotonic()
        outcome = "lost"
        with stages.doing("settle"), tracing.part("settle"):
            try:
                await self._session.settle(settlements)
                outcome = "ok"
            finally:
                REQUESTS.add(1, _SERVICE, "settle", outcome)
                REQUEST_DURATION.record(time.monotonic() - started_s, _SERVICE, "settle")
        self._hold(-len(settlements))

    async def keep_locked(self) -> None:
        """Renew the lock until cancelled. Raises SessionLostError once it is lost or about to lapse."""
        await self._session.keep_locked()

    async def close(self) -> None:
        """Give the session back. Never raises."""
        if not self._is_closed:
            self._is_closed = True
            self._hold(-self._in_hand)
            SLOTS_BUSY.add(-1)
            SESSION_DURATION.record(time.monotonic() - self._accepted_at_s)
            self._signal.given_back(self.session_id)
            try:
                await self._session.close()
            finally:
                SESSIONS_ACTIVE.add(-1)

    def _hold(self, more: int) -> None:
        self._in_hand += more
        IN_HAND.add(more)


class ObservedLeases:
    """A `LeaseManager` that tells of its waits."""

    def __init__(self, leases: LeaseManager) -> None:
        self._leases = leases

    async def acquire(self, key: str) -> Lease:
        """Take the lease, waiting a bounded time while another holds it."""
        started_s = anyio.current_time()
        try:
            lease = await self._leases.acquire(key)
        except LeaseTimeoutError:
            LEASE_WAIT.record(anyio.current_time() - started_s, "timeout")
            raise
        except LeaseUnavailableError:
            LEASE_WAIT.record(anyio.current_time() - started_s, "unavailable")
            raise
        LEASE_WAIT.record(anyio.current_time() - started_s, "acquired")
        return lease


class ObservedReplies:
    """`Replies` that tell how long sending them takes."""

    def __init__(self, replies: Replies) -> None:
        self._replies = replies

    async def send(self, replies: Sequence[OutgoingReply]) -> None:
        """Send replies in order. When it returns, the broker holds all of them."""
        started_s = time.monotonic()
        outcome = "unavailable"
        with stages.doing("reply"), tracing.part("reply"):
            try:
                await self._replies.send(replies)
                outcome = "ok"
            except BrokerRefusedError:
                outcome = "refused"
                raise
            finally:
                REQUESTS.add(1, _SERVICE, "send", outcome)
                REQUEST_DURATION.record(time.monotonic() - started_s, _SERVICE, "send")


def lost_with(error: Exception) -> str | None:
    """What a session lost, if that is what ended it: the table's word."""
    if isinstance(error, SessionLostError):
        return error.what
    return "lease" if isinstance(error, LeaseLostError) else None

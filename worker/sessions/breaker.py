"""One breaker for all sessions: while what they all need is out of order, one of them probes and the others wait."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import structlog

from worker.sessions.causes import EXPECTED
from worker.sessions.stopping import Stopping
from worker.sessions.trial import Trial
from worker.telemetry.instruments import BREAKER_CHANGES, BREAKER_OPEN

log = structlog.get_logger()


class Breaker:
    """Closed while all is well. An outage opens it for a pause, which doubles with each failed probe up to a maximum.

    An outage is what meets more than one: a single session that fails again and again, while nobody else fails or all
    others succeed, may have a trouble of its own, a throttled partition say, and must not hold up the others. Whether
    it has, a trial of the services tells. So it does where no session comes to show that an outage is over.
    Guarantee: while it is open, at most one slot at a time gets through, none before the pause is over; the first
    success lets all through. Messages wait in the queue meanwhile, undelivered and so uncounted.
    """

    def __init__(self, *, pause_initial_s: float, pause_max_s: float) -> None:
        self._pause_initial_s = pause_initial_s
        self._pause_max_s = pause_max_s
        self._pause_s = pause_initial_s
        self._probe_at_s: float | None = None
        self._probing = False
        self._failing: str | None = None
        self._reason: str | None = None
        self._of_broker = False
        self._trying = False
        self._doubtful = False
        self._changed = anyio.Event()

    @property
    def is_open(self) -> bool:
        """Whether what the sessions need was out of order when it was last tried."""
        return self._probe_at_s is not None

    @property
    def reason(self) -> str | None:
        """Why it is open, in the words of what failed last; None while it is closed."""
        return self._reason

    def succeeded(self) -> None:
        """Close: what the sessions need works."""
        self._failing = None
        self._doubtful = False
        if self.is_open:
            log.info("breaker.closed")
            self._reason = None
            self._of_broker = False
            BREAKER_OPEN.set(0)
            BREAKER_CHANGES.add(1, "closed")
            self._probe_at_s = None
            self._pause_s = self._pause_initial_s
            self._notify()

    @property
    def is_doubtful(self) -> bool:
        """Whether only `try_services` can tell how things stand.

        So it is when a single session has failed, and when the probe found that no session waits.
        """
        return self._doubtful

    def answered(self, *, with_session: bool = False) -> None:
        """Close where the broker's own silence opened: it has answered, if only that no session waits."""
        if self._of_broker:
            self.succeeded()
        elif self._probing and not with_session:
            self._doubtful = True

    def failed(self, reason: str, session_id: str | None = None) -> None:
        """Open, or stay open for longer if it was a probe that failed. Without a session it was the broker that did."""
        if self.is_open and not self._probing:
            return  # a session that was under way when the first one failed: it tells nothing new
        if not self.is_open and session_id is not None and self._failing in (None, session_id):
            self._failing = session_id
            self._doubtful = True
            return
        # Whoever is not ready tells why, but not whose commands it was about.
        self._open(reason if session_id is None else reason.replace(repr(session_id), "of a session"))
        self._of_broker = session_id is None

    async def try_services(self, trial: Trial) -> None:
        """End the doubt: close where the services are well, else open or stay open for longer. One trial at a time."""
        if self._trying:
            return
        self._trying = True
        opened_for = self._probe_at_s
        reason = None
        try:
            await trial()
        except EXPECTED as error:
            reason = str(error)
        finally:
            self._trying = self._doubtful = False
        if self._probe_at_s != opened_for:
            return  # meanwhile a session has told
        if reason is None:
            self.succeeded()
        else:
            self._open(reason)
            self._of_broker = False

    def _open(self, reason: str) -> None:
        if self.is_open:
            self._pause_s = min(self._pause_s * 2, self._pause_max_s)
        pause_s = self._pause_s * (0.5 + random.random() / 2)
        log.warning("breaker.opened", reason=reason, pause_s=round(pause_s, 2))
        self._reason = reason
        self._doubtful = False
        BREAKER_OPEN.set(1)
        BREAKER_CHANGES.add(1, "open")
        self._probe_at_s = anyio.current_time() + pause_s
        self._notify()

    @asynccontextmanager
    async def admission(self, stopping: Stopping) -> AsyncIterator[bool]:
        """Wait until the caller may work, at once while closed. True for the probe: its turn ends with the context."""
        probe = False
        while not stopping.is_set and self._probe_at_s is not None:
            left_s = self._probe_at_s - anyio.current_time()
            if not self._probing and left_s <= 0:
                probe = self._probing = True
                break
            changed = self._changed
            with stopping.unless_stopping(), anyio.move_on_after(None if self._probing else left_s):
                await changed.wait()
        try:
            yield probe
        finally:
            if probe:
                self._probing = False
                self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

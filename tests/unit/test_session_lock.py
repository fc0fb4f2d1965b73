"""Keeping a session's lock though our clock and the broker's differ."""

from datetime import UTC, datetime, timedelta
from typing import Any, cast

import anyio
import pytest
from azure.servicebus.aio import ServiceBusReceiver
from azure.servicebus.exceptions import SessionLockLostError

from worker.sessions import servicebus
from worker.sessions.servicebus import ServiceBusSession

pytestmark = pytest.mark.anyio

LOCK_S = 0.6


class Session:
    """A session whose broker's clock is ahead of ours: it takes the lock away when its time is up."""

    session_id = "one"

    def __init__(self, ahead_s: float) -> None:
        self._ahead_s = ahead_s
        self.renewals = 0
        self.locked_until_utc = self._locked()

    async def renew_lock(self, *, timeout: float) -> datetime:  # noqa: ASYNC109 - as the client has it
        assert timeout > 0
        await anyio.lowlevel.checkpoint()
        if anyio.current_time() >= self._ends_s:
            raise SessionLockLostError(message="its time was up")
        self.renewals += 1
        return self._locked()

    def _locked(self) -> datetime:
        self._ends_s = anyio.current_time() + LOCK_S
        return datetime.now(UTC) + timedelta(seconds=LOCK_S + self._ahead_s)


class Receiver:
    def __init__(self, session: Session) -> None:
        self.session = session


@pytest.mark.parametrize("ahead_s", [-3600.0, -1.0, 0.0, 1.0, 120.0, 3600.0])
async def test_a_lock_is_kept_whatever_the_clocks_say(ahead_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servicebus, "_RENEWAL_MIN_S", 0.1)
    monkeypatch.setattr(servicebus, "_RENEWAL_MAX_S", 0.2)
    at_broker: Any = Session(ahead_s)
    session = ServiceBusSession(cast("ServiceBusReceiver", Receiver(at_broker)))
    with anyio.move_on_after(2.5 * LOCK_S) as kept:
        await session.keep_locked()
    assert kept.cancelled_caught
    assert at_broker.renewals >= 4

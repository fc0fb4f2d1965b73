"""The client keeps its reply session's lock though its clock and the broker's differ."""

from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from brook_client import replies
from brook_client.replies import LockRenewal

pytestmark = pytest.mark.anyio

LOCK_S = 0.6


class Session:
    """A session whose broker's clock is ahead of ours by so much, and that notes when it was renewed."""

    def __init__(self, ahead_s: float) -> None:
        self._ahead_s = ahead_s
        self.renewed_at_s: list[float] = []
        self._lock()

    async def renew_lock(self, *, timeout: float) -> datetime:  # noqa: ASYNC109 - as the library has it
        assert timeout > 0
        await anyio.lowlevel.checkpoint()
        assert anyio.current_time() < self.ends_s, "the lock was lost before"
        self.renewed_at_s.append(anyio.current_time())
        return self._lock()

    def _lock(self) -> datetime:
        self.ends_s = anyio.current_time() + LOCK_S
        self.locked_until_utc = datetime.now(UTC) + timedelta(seconds=LOCK_S + self._ahead_s)
        return self.locked_until_utc


@pytest.mark.parametrize("ahead_s", [-3600.0, -1.0, 0.0, 1.0, 120.0, 3600.0])
async def test_the_lock_is_kept_whatever_the_clocks_say(ahead_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "_RENEWAL_MIN_S", 0.1)
    monkeypatch.setattr(replies, "_RENEWAL_MAX_S", 0.3)
    asked_at_s = anyio.current_time()
    session: Any = Session(ahead_s)
    renewal = LockRenewal(session, asked_at_s)
    while anyio.current_time() < asked_at_s + 1.5 * LOCK_S:
        await renewal.renew_if_due()
        await anyio.sleep(0.01)
    assert 2 <= len(session.renewed_at_s) <= 11, "often enough, and not at every turn"


async def test_time_that_a_request_took_counts_as_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock runs from when the broker gave it, which may be long before its answer was here."""
    monkeypatch.setattr(replies, "_RENEWAL_MIN_S", 0.2)
    session: Any = Session(0.0)
    renewal = LockRenewal(session, anyio.current_time() - 0.3)
    await renewal.renew_if_due()
    assert len(session.renewed_at_s) == 1

from collections.abc import Callable
from functools import partial

import anyio
import pytest
import structlog
from anyio.lowlevel import checkpoint

from tests.support.waiting import wait_until
from worker.locking.base import LeaseLostError, LeaseMisconfiguredError, LeaseUnavailableError
from worker.locking.keeper import STOP_BEFORE_END_S, keep_renewed

pytestmark = pytest.mark.anyio


class ScriptedLease:
    """Lasts `lasts_s` beyond the keeper's stop; each renewal does what the script says, the last line for ever."""

    key = "orders|1"

    def __init__(self, *script: Callable[["ScriptedLease"], object], lasts_s: float) -> None:
        self._script = list(script)
        self._lasts_s = STOP_BEFORE_END_S + lasts_s
        self.expires_at_s = anyio.current_time() + self._lasts_s
        self.renewals = 0

    async def renew(self) -> None:
        self.renewals += 1
        await checkpoint()
        (self._script.pop(0) if len(self._script) > 1 else self._script[0])(self)

    async def release(self) -> None:
        raise AssertionError("the keeper does not release")

    def extend(self) -> None:
        self.expires_at_s = anyio.current_time() + self._lasts_s


def unavailable(lease: ScriptedLease) -> None:
    raise LeaseUnavailableError(lease.key, "no answer")


def misconfigured(lease: ScriptedLease) -> None:
    raise LeaseMisconfiguredError(lease.key, "the container is missing")


def lost(lease: ScriptedLease) -> None:
    raise LeaseLostError(lease.key, "taken")


async def test_a_lease_is_renewed_for_ever() -> None:
    lease = ScriptedLease(ScriptedLease.extend, lasts_s=10)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(keep_renewed, lease, renew_after_s=0.005))
        await wait_until(lambda: lease.renewals >= 5, "five renewals")
        tasks.cancel_scope.cancel()


async def test_a_lease_is_not_renewed_before_its_time() -> None:
    lease = ScriptedLease(ScriptedLease.extend, lasts_s=10)
    started_s = anyio.current_time()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(keep_renewed, lease, renew_after_s=0.3))
        await wait_until(lambda: lease.renewals == 1, "one renewal")
        assert anyio.current_time() - started_s >= 0.3
        tasks.cancel_scope.cancel()


async def test_a_lost_lease_ends_the_keeper_at_once() -> None:
    lease = ScriptedLease(ScriptedLease.extend, lost, lasts_s=10)
    with pytest.raises(LeaseLostError, match="taken"):
        await keep_renewed(lease, renew_after_s=0.005)
    assert lease.renewals == 2


async def test_an_unavailable_service_is_asked_again_and_logged() -> None:
    lease = ScriptedLease(unavailable, unavailable, ScriptedLease.extend, lost, lasts_s=10)
    with structlog.testing.capture_logs() as logs, pytest.raises(LeaseLostError, match="taken"):
        await keep_renewed(lease, renew_after_s=0.005)
    assert lease.renewals == 4
    assert [(line["event"], line["attempt"], line["key"]) for line in logs] == [
        ("lease.renewal-failed", 1, "orders|1"),
        ("lease.renewal-failed", 2, "orders|1"),
    ]


@pytest.mark.parametrize("fault", [unavailable, misconfigured])
async def test_without_an_answer_the_keeper_ends_before_the_lease_does(fault: Callable[[ScriptedLease], None]) -> None:
    lease = ScriptedLease(fault, lasts_s=0.4)
    with pytest.raises(LeaseLostError, match="not renewed in time"):
        await keep_renewed(lease, renew_after_s=0.005)
    assert lease.renewals >= 1
    assert anyio.current_time() < lease.expires_at_s


async def test_a_request_without_an_answer_is_cut_short_in_time() -> None:
    class Silent(ScriptedLease):
        async def renew(self) -> None:
            await anyio.sleep_forever()

    lease = Silent(unavailable, lasts_s=0.2)
    with pytest.raises(LeaseLostError, match="not renewed in time"):
        await keep_renewed(lease, renew_after_s=0.005)
    assert anyio.current_time() < lease.expires_at_s


async def test_a_keeper_that_wakes_up_too_late_does_not_renew() -> None:
    lease = ScriptedLease(ScriptedLease.extend, lasts_s=-STOP_BEFORE_END_S)
    with pytest.raises(LeaseLostError):
        await keep_renewed(lease, renew_after_s=0.005)
    assert lease.renewals == 0

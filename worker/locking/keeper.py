"""Keeping a lease for as long as a session is worked on."""

from typing import Final, NoReturn

import anyio
import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from worker.locking.acquire import note_retry
from worker.locking.base import Lease, LeaseLostError, LeaseUnavailableError
from worker.telemetry.instruments import RENEWAL_LATENESS

log = structlog.get_logger()

STOP_BEFORE_END_S: Final = 1.0
"""How long before the end of a lease its holder stops, so that it is done before another can begin."""

_RETRY_INITIAL_S: Final = 0.2
_RETRY_MAX_S: Final = 2.0


async def keep_renewed(lease: Lease, *, renew_after_s: float) -> NoReturn:
    """Renew `lease` every `renew_after_s` seconds until cancelled. Belongs in the session's task group.

    Guarantee: raises LeaseLostError, which cancels that group, as soon as the lease is found to be lost, and at the
    latest one second before it could be another's, by this process's clock. A service that does not answer is asked
    again until then. Not guaranteed: that it was in time when the process itself was paused; the ETags are for
    that.
    """
    while True:
        due_s = anyio.current_time() + renew_after_s
        due_s = min(due_s, lease.expires_at_s - STOP_BEFORE_END_S)
        await anyio.sleep_until(due_s)
        await _renew_in_time(lease)
        RENEWAL_LATENESS.record(anyio.current_time() - due_s, "lease")


async def _renew_in_time(lease: Lease) -> None:
    deadline_s = lease.expires_at_s - STOP_BEFORE_END_S
    if anyio.current_time() < deadline_s:
        with anyio.CancelScope(deadline=deadline_s):
            async for attempt in AsyncRetrying(
                sleep=anyio.sleep,
                retry=retry_if_exception_type(LeaseUnavailableError),
                wait=wait_random_exponential(multiplier=_RETRY_INITIAL_S, max=_RETRY_MAX_S),
                before_sleep=lambda state: _log_retry(lease, state),
            ):
                with attempt:
                    await lease.renew()
            return
    raise LeaseLostError(lease.key, f"lease {lease.key!r} was not renewed in time: another may hold it soon")


def _log_retry(lease: Lease, state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    note_retry(state)
    log.warning("lease.renewal-failed", key=lease.key, attempt=state.attempt_number, reason=str(error))

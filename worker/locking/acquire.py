"""How long and how often to ask for a lease: the same for every lease service."""

from collections.abc import Awaitable, Callable
from typing import NoReturn, TypeVar

import anyio
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, retry_if_result, wait_random_exponential

from worker.locking.base import LeaseMisconfiguredError, LeaseTimeoutError, LeaseUnavailableError
from worker.locking.options import LeaseOptions
from worker.telemetry.instruments import RETRIES

_LeaseT = TypeVar("_LeaseT")


async def acquire_patiently(
    key: str, attempt: Callable[[], Awaitable[_LeaseT | None]], options: LeaseOptions
) -> _LeaseT:
    """Call `attempt` until it gives a lease; None from it means that another holds the lease.

    Attempts are made for `acquire_timeout_s`, the last one at its end; the waits between them grow and are
    jittered, so that waiting workers do not ask in step. An attempt that is under way is not cut short.

    Raises LeaseTimeoutError when the last attempt found another holder, LeaseUnavailableError when it was not
    answered, LeaseMisconfiguredError at once.
    """
    started_s = anyio.current_time()
    deadline_s = started_s + options.acquire_timeout_s
    backoff = wait_random_exponential(multiplier=options.backoff_initial_s, max=options.backoff_max_s)

    def give_up(state: RetryCallState) -> NoReturn:
        if state.outcome is not None and (error := state.outcome.exception()) is not None:
            raise error
        raise LeaseTimeoutError(key, waited_s=anyio.current_time() - started_s, attempts=state.attempt_number)

    retrying = AsyncRetrying(
        sleep=anyio.sleep,
        retry=retry_if_result(lambda lease: lease is None) | retry_if_exception(may_pass),
        wait=lambda state: min(backoff(state), max(0.0, deadline_s - anyio.current_time())),
        stop=lambda _: anyio.current_time() >= deadline_s,
        before_sleep=note_retry,
        retry_error_callback=give_up,
    )
    lease: _LeaseT | None = await retrying(attempt)
    assert lease is not None, "tenacity returns only what `retry` accepts"
    return lease


def note_retry(state: RetryCallState) -> None:
    """Count a request that is sent again because it failed. Waiting for a lease that another holds is none."""
    error = state.outcome.exception() if state.outcome else None
    if error is not None:
        RETRIES.add(1, "blob", error.why if isinstance(error, LeaseUnavailableError) else "unavailable")


def may_pass(error: BaseException) -> bool:
    """Tell whether asking again at once may help."""
    return isinstance(error, LeaseUnavailableError) and not isinstance(error, LeaseMisconfiguredError)

"""The one retry layer around the store: bounded in attempts and in time, and told by the service how long to wait."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import anyio
import msgspec
from azure.core.exceptions import AzureError
from azure.cosmos import exceptions as cosmos_errors
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt
from tenacity.stop import stop_base
from tenacity.wait import wait_base, wait_random_exponential

from worker.storage.base import StoreMisconfiguredError, StoreRefusedError, StoreUnavailableError
from worker.telemetry.instruments import RETRIES
from worker.telemetry.transport import outcome_of

_RETRY_AFTER: Final = "x-ms-retry-after-ms"
# Throttled, conflicting in flight, timed out, moved; the rest of the transient ones are the 5xx.
_TRANSIENT: Final = frozenset({408, 410, 429, 449})
_SERVER_ERROR_MIN: Final = 500
# A read session that this replica has not caught up with: https://aka.ms/cosmos-troubleshoot-not-found.
_READ_SESSION_NOT_AVAILABLE: Final = 1002
_NOT_FOUND: Final = 404
# Refused whatever is asked: not logged in, not allowed, no such container.
_MISCONFIGURED: Final = frozenset({401, 403, _NOT_FOUND})
# 403 as well, but of one logical partition, which holds its 20 GB.
_PARTITION_FULL: Final = 1014
# 403 as well, while the account fails over to another region: it takes no writes here, or is not known here any more.
_FAILING_OVER: Final = frozenset({3, 1008})
_FORBIDDEN: Final = 403


class RetryOptions(msgspec.Struct, frozen=True, kw_only=True):
    """At most `attempts_max` requests, none begun after `time_max_s`."""

    attempts_max: int = 6
    time_max_s: float = 20.0
    backoff_first_s: float = 0.05
    backoff_max_s: float = 2.0


class TransientStoreError(StoreUnavailableError):
    """One try failed in a way that another may cure. `retry_after_s` is what the service asked for.

    `why` is one word for what failed, of those that metrics know.
    """

    def __init__(self, message: str, retry_after_s: float | None = None, why: str = "unavailable") -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.why = why


class SeenMoreError(TransientStoreError):
    """Nothing that was asked is as new as what the asker has seen: a replica will be, unless what was seen is gone."""


class _WaitAsTold(wait_base):
    """What the service asks for, else jittered exponential backoff."""

    def __init__(self, options: RetryOptions) -> None:
        self._backoff = wait_random_exponential(multiplier=options.backoff_first_s, max=options.backoff_max_s)

    def __call__(self, retry_state: RetryCallState) -> float:
        error = retry_state.outcome.exception() if retry_state.outcome else None
        told = error.retry_after_s if isinstance(error, TransientStoreError) else None
        return self._backoff(retry_state) if told is None else told


class _StopBefore(stop_base):
    """Stop when the next try could not begin in time."""

    def __init__(self, time_max_s: float) -> None:
        self._time_max_s = time_max_s

    def __call__(self, retry_state: RetryCallState) -> bool:
        elapsed = retry_state.seconds_since_start or 0.0
        return elapsed + retry_state.upcoming_sleep > self._time_max_s


def retrying(options: RetryOptions) -> AsyncRetrying:
    """Try again on TransientStoreError; the last one is raised when the bounds are reached."""
    return AsyncRetrying(
        sleep=anyio.sleep,
        retry=retry_if_exception_type(TransientStoreError),
        wait=_WaitAsTold(options),
        stop=stop_after_attempt(options.attempts_max) | _StopBefore(options.time_max_s),
        before_sleep=_note_retry,
        reraise=True,
    )


def _note_retry(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    RETRIES.add(1, "cosmos", error.why if isinstance(error, TransientStoreError) else "unavailable")


@contextmanager
def translated() -> Iterator[None]:
    """Tell what the Cosmos DB client raises in the words of the port: as `classified` does, or TransientStoreError."""
    try:
        yield
    except (cosmos_errors.CosmosBatchOperationError, cosmos_errors.CosmosHttpResponseError) as error:
        raise classified(error) from error
    except KeyError as error:
        raise classified(_told_before(error)) from error
    except AzureError as error:
        raise TransientStoreError(f"Cosmos DB: {error}", why=outcome_of(error)) from error


def classified(error: Any) -> TransientStoreError | StoreMisconfiguredError | StoreRefusedError:
    """Say whether a failed request of the Cosmos DB client may succeed when it is sent again."""
    assert isinstance(error, cosmos_errors.CosmosHttpResponseError | cosmos_errors.CosmosBatchOperationError)
    status = error.status_code or _SERVER_ERROR_MIN
    sub_status = error.sub_status or _of_operation(error, "subStatusCode") or 0
    what = f"Cosmos DB answered {status}/{sub_status}"
    stale = status == _NOT_FOUND and sub_status == _READ_SESSION_NOT_AVAILABLE
    failing_over = status == _FORBIDDEN and sub_status in _FAILING_OVER
    if status in _TRANSIENT or status >= _SERVER_ERROR_MIN or stale or failing_over:
        told = _of_operation(error, "retryAfterMilliseconds") or (error.headers or {}).get(_RETRY_AFTER)
        kind = SeenMoreError if stale else TransientStoreError
        return kind(what, float(told) / 1000 if told else None, outcome_of(status))
    reason = f"{what}: {_first_line(error.message)}"
    if status in _MISCONFIGURED and sub_status != _PARTITION_FULL:
        return StoreMisconfiguredError(f"{reason}; check the endpoint, the key, the database and the container")
    return StoreRefusedError(reason)


def _told_before(error: KeyError) -> cosmos_errors.CosmosHttpResponseError:
    """What the service answered before the client failed.

    Told for the second time that no replica is as new as what was seen, azure-cosmos 4.17 drops a session token of its
    own, and raises KeyError where it has none.
    """
    if isinstance(error.__context__, cosmos_errors.CosmosHttpResponseError):
        return error.__context__
    raise error


def _of_operation(error: Any, name: str) -> Any:
    """What the service told of the operation that a batch failed by: the headers are the request's, which went well."""
    operations = getattr(error, "operation_responses", None)
    return operations[error.error_index].get(name) if operations else None


def _first_line(message: str | None) -> str:
    """The service's reason without its diagnostics."""
    return (message or "no reason given").strip().splitlines()[0][:300]

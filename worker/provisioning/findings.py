"""What provisioning found and made, as rows that a person reads."""

from collections.abc import Awaitable, Callable, Iterable
from enum import StrEnum
from typing import Final

import anyio
import msgspec
from azure.core.exceptions import AzureError, HttpResponseError
from azure.servicebus.exceptions import ServiceBusAuthenticationError, ServiceBusAuthorizationError
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from worker.errors import StartError, WorkerError
from worker.redaction import redact

_ATTEMPTS_MAX: Final = 4
_BACKOFF_FIRST_S: Final = 0.2
_BACKOFF_MAX_S: Final = 2.0
_REFUSED: Final = (401, 403)
_TRANSIENT: Final = frozenset({408, 410, 429, 449})
_SERVER_ERROR_MIN: Final = 500
_REASON_LENGTH_MAX: Final = 200


class State(StrEnum):
    """How a resource was found. The last two stop a worker from starting."""

    FOUND = "found"
    MADE = "made"
    ADVICE = "advice"
    MISSING = "missing"
    WRONG = "wrong"


class Finding(msgspec.Struct, frozen=True):
    """One resource and what there is to say about it. `note` tells what to change, where something should be."""

    resource: str
    state: State
    note: str = ""

    @property
    def stops(self) -> bool:
        """Whether a worker cannot run with it."""
        return self.state in (State.MISSING, State.WRONG)


class ProvisioningError(StartError):
    """Something is missing or wrong. `findings` has everything that was looked at, also what is well."""

    def __init__(self, findings: Iterable[Finding]) -> None:
        self.findings = tuple(findings)
        super().__init__(
            "\n".join(
                f"{finding.resource}: {finding.state}; {finding.note}" for finding in self.findings if finding.stops
            )
        )


async def asked(resource: str, setting: str, ask: Callable[[], Awaitable[list[Finding]]]) -> list[Finding]:
    """Run `ask`, which must be idempotent, a few times while the service does not answer.

    A service that refuses, or never answers, makes a finding that names `setting`; no library error leaves.
    """
    retrying = AsyncRetrying(
        sleep=anyio.sleep,
        retry=retry_if_exception(is_transient),
        wait=wait_random_exponential(multiplier=_BACKOFF_FIRST_S, max=_BACKOFF_MAX_S),
        stop=stop_after_attempt(_ATTEMPTS_MAX),
        reraise=True,
    )
    try:
        found: list[Finding] = await retrying(ask)
    except WorkerError as error:
        return [Finding(resource, State.WRONG, str(error))]
    except AzureError as error:
        return [Finding(resource, State.WRONG, explained(error, setting))]
    except TimeoutError:
        return [Finding(resource, State.WRONG, f"does not answer; check {setting} and the network")]
    return found


def is_transient(error: BaseException) -> bool:
    """Tell whether asking again soon may help. A time-out has waited long enough."""
    if is_refusal(error):
        return False
    if isinstance(error, HttpResponseError):
        return error.status_code is None or error.status_code in _TRANSIENT or error.status_code >= _SERVER_ERROR_MIN
    return isinstance(error, AzureError)


def is_refusal(error: BaseException) -> bool:
    """Tell whether the service refuses the credentials, or what they may do."""
    if isinstance(error, HttpResponseError):
        return error.status_code in _REFUSED
    return isinstance(error, ServiceBusAuthenticationError | ServiceBusAuthorizationError)


def explained(error: AzureError, setting: str) -> str:
    """Say in a line why the service did not do it, and what to look at."""
    if is_refusal(error):
        return f"the service refuses the credentials, or they may not do this; check {setting} and its rights"
    reason = redact(str(error.message or type(error).__name__)).strip().splitlines()[0][:_REASON_LENGTH_MAX]
    if isinstance(error, HttpResponseError):
        return f"the service answers {error.status_code} ({reason}); check {setting}"
    return f"does not answer ({reason}); check {setting} and the network"

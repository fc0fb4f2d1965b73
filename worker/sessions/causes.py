"""Which of the errors that ended a task group tells the story."""

from collections.abc import Iterator
from typing import Final

from worker.claims.base import ClaimsUnavailableError
from worker.locking.base import LeaseError
from worker.sessions.base import BrokerError
from worker.storage.base import StoreError

EXPECTED: Final = (StoreError, LeaseError, BrokerError)
"""What a session may end with: something that it needs is out of order, or it is another's now."""


def failure_of(error: Exception) -> str:
    """What failed, in the word of `SESSION_FAILURES`."""
    match error:
        case ClaimsUnavailableError():
            return "claims"
        case StoreError():
            return "store"
        case LeaseError():
            return "lease"
        case BrokerError():
            return "broker"
        case _:
            return "bug"


def cause_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """A bug if there is one, else the first of the expected errors."""
    leaves = list(_leaves(group))
    return next((leaf for leaf in leaves if not isinstance(leaf, EXPECTED)), leaves[0])


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error

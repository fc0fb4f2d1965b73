"""What an operator is told when the broker does not do something."""

from worker.sessions.base import BrokerError, BrokerUnavailableError
from worker.sessions.servicebus import broker_error


def told(what: str, error: Exception) -> BrokerError:
    """The error in our words, with what to do about it."""
    found = broker_error(what, error)
    if isinstance(found, BrokerUnavailableError):
        return BrokerUnavailableError(f"{found}; check the namespace and the network, then run the command again")
    return found

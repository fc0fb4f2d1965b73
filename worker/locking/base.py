"""What the worker asks of a lease service, whichever it is."""

from typing import Protocol


class LeaseError(Exception):
    """Base of what lease adapters raise. No library error leaves an adapter."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


class LeaseTimeoutError(LeaseError):
    """Somebody else held the lease for all of the time that we were willing to wait."""

    def __init__(self, key: str, *, waited_s: float, attempts: int) -> None:
        super().__init__(key, f"lease {key!r} is held by another: waited {waited_s:.1f} s, {attempts} attempts")
        self.waited_s = waited_s
        self.attempts = attempts


class LeaseLostError(LeaseError):
    """The lease is no longer ours, or nobody can tell that it still is: it expired, was broken or was taken."""


class LeaseUnavailableError(LeaseError):
    """The lease service did not answer, or refused for a reason that waiting may cure.

    `why` is one word for that, of those that metrics know.
    """

    def __init__(self, key: str, message: str, why: str = "unavailable") -> None:
        super().__init__(key, message)
        self.why = why


class LeaseMisconfiguredError(LeaseUnavailableError):
    """The lease service answers but cannot serve us until somebody changes something; the message says what.

    A kind of unavailability: the session is left as it is and tried again later, when it may have been mended.
    """


class Lease(Protocol):
    """A lease that was ours when it was made.

    Not guaranteed: that it still is. A paused process can outlive its lease, which is why every write is fenced
    by an ETag.
    """

    @property
    def key(self) -> str:
        """What is leased."""
        ...

    @property
    def expires_at_s(self) -> float:
        """`anyio.current_time()` at which it lapses unless renewed, counted from *before* the last request."""
        ...

    async def renew(self) -> None:
        """Extend it by its duration.

        Not guaranteed by success: that it was ours all the time. An expired lease that nobody took is renewed
        too, so a holder must stop at `expires_at_s` by its own clock (`keep_renewed` does).

        Raises LeaseLostError when it is gone for good, LeaseUnavailableError when that is not known.
        """
        ...

    async def release(self) -> None:
        """Give it up at once, so that the next writer need not wait. Idempotent; a lost lease is no error.

        Raises LeaseUnavailableError when the service does not answer: the lease then lapses by itself.
        """
        ...


class LeaseManager(Protocol):
    """Hands out leases by key. Guarantee: at most one unexpired lease a key at any time."""

    async def acquire(self, key: str) -> Lease:
        """Take the lease, waiting a bounded time with jittered backoff while another holds it.

        An attempt whose answer was lost does not lock us out: the next one takes what it left. Nor does giving
        up: what an unanswered attempt may have taken is given back where the service can be reached.

        Raises LeaseTimeoutError (key, time waited, attempts) or LeaseUnavailableError.
        """
        ...

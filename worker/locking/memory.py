"""Leases in memory: the reference for the contract, for tests and simulations."""

import contextlib
import uuid
from collections import deque
from collections.abc import Callable
from typing import Literal

import anyio
import msgspec
from anyio.lowlevel import checkpoint

from worker.locking.acquire import acquire_patiently
from worker.locking.base import LeaseLostError, LeaseTimeoutError, LeaseUnavailableError
from worker.locking.options import LeaseOptions

Fault = Literal["lost-request", "lost-answer"]
"""What becomes of a request: it does not arrive, or it is carried out and its answer does not arrive."""


class _Held(msgspec.Struct):
    """Who has a lease, by the service's own clock. A broken one stays known: it may not be renewed."""

    lease_id: str
    duration_s: float
    until_s: float
    broken: bool = False


class MemoryLeaseService:
    """The service side, shared by all managers that contend: it keeps time by its own `clock`.

    Guarantee, as of blob leases: at most one unexpired lease a key; an expired one can be renewed until somebody
    takes it; a broken one cannot.
    """

    def __init__(self, clock: Callable[[], float] = anyio.current_time) -> None:
        self._clock = clock
        self._leases: dict[str, _Held] = {}
        self._faults: deque[Fault] = deque()
        self.unavailable = False
        self.requests = 0

    def fail_next(self, *faults: Fault) -> None:
        """Let the next requests fail, one fault each, in this order."""
        self._faults.extend(faults)

    def break_lease(self, key: str) -> None:
        """End a lease from outside, as an operator may."""
        if held := self._leases.get(key):
            held.until_s = self._clock()
            held.broken = True

    def request(self, key: str, operation: Callable[[str], bool]) -> bool:
        """Carry out one operation as a service across a network does, faults included."""
        self.requests += 1
        fault = self._faults.popleft() if self._faults else None
        done = not self.unavailable and fault != "lost-request" and operation(key)
        if self.unavailable or fault is not None:
            raise LeaseUnavailableError(key, f"lease {key!r}: no answer from the service")
        return done

    def take(self, key: str, lease_id: str, duration_s: float) -> bool:
        """Give the lease to `lease_id`, unless another has it now."""
        held = self._leases.get(key)
        if held is not None and held.lease_id != lease_id and held.until_s > self._clock():
            return False
        self._leases[key] = _Held(lease_id, duration_s, self._clock() + duration_s)
        return True

    def renew(self, key: str, lease_id: str) -> bool:
        """Extend the lease of `lease_id`, unless it was broken, released or taken."""
        held = self._leases.get(key)
        if held is None or held.lease_id != lease_id or held.broken:
            return False
        held.until_s = self._clock() + held.duration_s
        return True

    def release(self, key: str, lease_id: str) -> bool:
        """End the lease of `lease_id`; False when it has none."""
        held = self._leases.get(key)
        if held is None or held.lease_id != lease_id:
            return False
        del self._leases[key]
        return True


class MemoryLeaseManager:
    """One worker's view of a `MemoryLeaseService`."""

    def __init__(self, service: MemoryLeaseService, options: LeaseOptions) -> None:
        self._service = service
        self._options = options

    async def acquire(self, key: str) -> "MemoryLease":
        """Take the lease, waiting up to `acquire_timeout_s`. Raises LeaseTimeoutError or LeaseUnavailableError."""
        lease = MemoryLease(key, self._service, self._options.duration_s)
        try:
            return await acquire_patiently(key, lease.try_take, self._options)
        except LeaseTimeoutError:
            raise
        except BaseException:  # cancellation too: an attempt that was not answered may have taken the lease
            with anyio.CancelScope(shield=True), contextlib.suppress(LeaseUnavailableError):
                await lease.release()
            raise


class MemoryLease:
    """A lease of a `MemoryLeaseService`. `MemoryLeaseManager.acquire` gives out none that was not taken."""

    def __init__(self, key: str, service: MemoryLeaseService, duration_s: float) -> None:
        self._key = key
        self._service = service
        self._duration_s = duration_s
        self._id = str(uuid.uuid4())
        self._released = False
        self._expires_at_s = float("-inf")

    @property
    def key(self) -> str:
        """What is leased."""
        return self._key

    @property
    def expires_at_s(self) -> float:
        """`anyio.current_time()` at which it lapses unless renewed, counted from before the last request."""
        return self._expires_at_s

    async def try_take(self) -> "MemoryLease | None":
        """Ask for it once, for the manager: None while another holds it."""
        taken = await self._request(lambda key: self._service.take(key, self._id, self._duration_s))
        return self if taken else None

    async def renew(self) -> None:
        """Extend it. Raises LeaseLostError or LeaseUnavailableError."""
        if self._released or not await self._request(lambda key: self._service.renew(key, self._id)):
            raise LeaseLostError(self._key, f"lease {self._key!r} is lost")

    async def release(self) -> None:
        """Give it up. Raises LeaseUnavailableError when the service does not answer."""
        self._released = True
        await checkpoint()
        self._service.request(self._key, lambda key: self._service.release(key, self._id))

    async def _request(self, operation: Callable[[str], bool]) -> bool:
        asked_at_s = anyio.current_time()
        await checkpoint()
        if done := self._service.request(self._key, operation):
            self._expires_at_s = asked_at_s + self._duration_s
        return done

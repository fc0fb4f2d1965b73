"""The lease of a blob or container as a value: every operation takes a lease and a time and returns the next lease.

Source: the tables of outcomes in https://learn.microsoft.com/rest/api/storageservices/lease-blob, checked against
Azurite by the test suite.
"""

import math
import uuid
from typing import Literal

import msgspec

from emulator.blob.errors import BlobError, invalid_header

LeaseState = Literal["available", "leased", "expired", "breaking", "broken"]

DURATION_S_MIN = 15
DURATION_S_MAX = 60
INFINITE_S = -1
BREAK_PERIOD_S_MAX = 60


class Lease(msgspec.Struct, frozen=True):
    """What is stored. The states `expired` and `broken` after a break period follow from the time: see `state`."""

    held: Literal["available", "leased", "breaking", "broken"] = "available"
    lease_id: str = ""
    duration_s: int = INFINITE_S
    ends_at_s: float | None = None
    """When the lease or its break period ends; None for an infinite lease and where none is held."""

    def state(self, now_s: float) -> LeaseState:
        """The state at a time."""
        over = self.ends_at_s is not None and now_s >= self.ends_at_s
        if self.held == "leased" and over:
            return "expired"
        if self.held == "breaking" and over:
            return "broken"
        return self.held

    def locked(self, now_s: float) -> bool:
        """Whether a write has to name the lease: while it is leased, and while it is breaking."""
        return self.state(now_s) in ("leased", "breaking")


NO_LEASE = Lease()


def parse_lease_id(header: str, text: str) -> str:
    """A GUID in one of .NET's formats, as lower case with hyphens; anything else is 400 InvalidHeaderValue."""
    bare = text.strip()
    if (bare[:1], bare[-1:]) in (("{", "}"), ("(", ")")):
        bare = bare[1:-1]
    try:
        lease_id = str(uuid.UUID(hex=bare))
    except ValueError:
        raise invalid_header(header, text) from None
    if bare.lower() not in (lease_id, lease_id.replace("-", "")):
        raise invalid_header(header, text)  # uuid.UUID drops stray hyphens and prefixes; Azure does not
    return lease_id


def check_duration(duration_s: int) -> None:
    """15 to 60 seconds or -1; else 400 InvalidHeaderValue."""
    if duration_s != INFINITE_S and not DURATION_S_MIN <= duration_s <= DURATION_S_MAX:
        raise invalid_header("x-ms-lease-duration", str(duration_s))


def acquire(lease: Lease, now_s: float, *, duration_s: int, lease_id: str) -> Lease:
    """Take the lease: free where nobody holds it, and for its holder, whose duration counts anew."""
    check_duration(duration_s)
    if lease.locked(now_s):
        if lease.lease_id != lease_id:
            raise BlobError("LeaseAlreadyPresent")
        if lease.state(now_s) == "breaking":
            raise BlobError("LeaseIsBreakingAndCannotBeAcquired")
    ends_at_s = None if duration_s == INFINITE_S else now_s + duration_s
    return Lease("leased", lease_id, duration_s, ends_at_s)


def renew(lease: Lease, now_s: float, *, lease_id: str) -> Lease:
    """Count the duration anew. An expired lease that nobody took and no write ended renews as well."""
    state = lease.state(now_s)
    if state == "available" or lease.lease_id != lease_id:
        raise BlobError("LeaseIdMismatchWithLeaseOperation")
    if state in ("breaking", "broken"):
        raise BlobError("LeaseIsBrokenAndCannotBeRenewed")
    return acquire(NO_LEASE, now_s, duration_s=lease.duration_s, lease_id=lease_id)


def change(lease: Lease, now_s: float, *, lease_id: str, proposed_id: str) -> Lease:
    """Give the lease another id. Repeating it is harmless: the new id may stand for the old one."""
    state = lease.state(now_s)
    if state not in ("leased", "breaking"):
        raise BlobError("LeaseNotPresentWithLeaseOperation")
    if lease.lease_id not in (lease_id, proposed_id) or (state == "breaking" and lease.lease_id != lease_id):
        raise BlobError("LeaseIdMismatchWithLeaseOperation")
    if state == "breaking":
        raise BlobError("LeaseIsBreakingAndCannotBeChanged")
    return msgspec.structs.replace(lease, lease_id=proposed_id)


def release(lease: Lease, now_s: float, *, lease_id: str) -> Lease:
    """Free the lease at once, also a breaking, broken or expired one, for whoever names its id."""
    if lease.state(now_s) == "available" or lease.lease_id != lease_id:
        raise BlobError("LeaseIdMismatchWithLeaseOperation")
    return NO_LEASE


def break_(lease: Lease, now_s: float, *, period_s: int | None) -> tuple[Lease, int]:
    """End the lease without its id, after `period_s` at the latest, and never later than it would have ended.

    Returns the lease and the seconds, rounded up, until another one can be taken.
    """
    if period_s is not None and not 0 <= period_s <= BREAK_PERIOD_S_MAX:
        raise invalid_header("x-ms-lease-break-period", str(period_s))
    state = lease.state(now_s)
    if state == "available":
        raise BlobError("LeaseNotPresentWithLeaseOperation")
    broken = Lease("broken", lease.lease_id)
    if state in ("expired", "broken"):
        return broken, 0
    if lease.ends_at_s is None:  # infinite: a break without a period is immediate
        ends_at_s = now_s + (period_s or 0)
    else:
        ends_at_s = lease.ends_at_s if period_s is None else min(lease.ends_at_s, now_s + period_s)
    if ends_at_s <= now_s:
        return broken, 0
    return Lease("breaking", lease.lease_id, INFINITE_S, ends_at_s), math.ceil(ends_at_s - now_s)


def check_access(lease: Lease, now_s: float, lease_id: str | None, *, write: bool, kind: str = "Blob") -> None:
    """Refuse a request that names no lease where it must, or one that is not held. `kind` is Blob or Container."""
    state = lease.state(now_s)
    if lease.locked(now_s):
        if lease_id is None:
            if write:
                raise BlobError("LeaseIdMissing")
        elif lease_id != lease.lease_id:
            raise BlobError(f"LeaseIdMismatchWith{kind}Operation")
    elif lease_id is not None:
        if state != "available" and lease.lease_id == lease_id:
            raise BlobError("LeaseLost")
        raise BlobError(f"LeaseNotPresentWith{kind}Operation")


def after_write(lease: Lease, now_s: float) -> Lease:
    """A write ends a lease that has run out or was broken: from then on it cannot be renewed."""
    return lease if lease.locked(now_s) else NO_LEASE


class Acquire(msgspec.Struct, frozen=True, tag=True):
    """Take the lease under `lease_id`, which the holder proposed or the front made up."""

    duration_s: int
    lease_id: str


class Renew(msgspec.Struct, frozen=True, tag=True):
    """Count the duration anew."""

    lease_id: str


class Change(msgspec.Struct, frozen=True, tag=True):
    """Give the lease the id `proposed_id`."""

    lease_id: str
    proposed_id: str


class Release(msgspec.Struct, frozen=True, tag=True):
    """Free the lease."""

    lease_id: str


class Break(msgspec.Struct, frozen=True, tag=True):
    """End the lease within `period_s`, or when it would have ended."""

    period_s: int | None = None


LeaseOperation = Acquire | Renew | Change | Release | Break


def carry_out(lease: Lease, now_s: float, operation: LeaseOperation) -> tuple[Lease, int]:
    """The next lease, and for a break the seconds until another one can be taken (else 0)."""
    match operation:
        case Acquire(duration_s, lease_id):
            return acquire(lease, now_s, duration_s=duration_s, lease_id=lease_id), 0
        case Renew(lease_id):
            return renew(lease, now_s, lease_id=lease_id), 0
        case Change(lease_id, proposed_id):
            return change(lease, now_s, lease_id=lease_id, proposed_id=proposed_id), 0
        case Release(lease_id):
            return release(lease, now_s, lease_id=lease_id), 0
        case Break(period_s):
            return break_(lease, now_s, period_s=period_s)

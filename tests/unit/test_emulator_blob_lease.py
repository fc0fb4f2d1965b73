"""The lease as a value: every operation in every state, against the tables of the documentation."""

import pytest

from emulator.blob import lease as leases
from emulator.blob.errors import BlobError
from emulator.blob.lease import (
    NO_LEASE,
    Acquire,
    Break,
    Change,
    Lease,
    LeaseOperation,
    Release,
    Renew,
    carry_out,
    check_access,
    parse_lease_id,
)

A = "11111111-1111-1111-1111-111111111111"
B = "22222222-2222-2222-2222-222222222222"
C = "33333333-3333-3333-3333-333333333333"

LEASED_AT_S = 1000.0
"""The lease of A is for 20 s; where it breaks, that is asked for at 1001 with 10 s."""
BREAKING = leases.break_(Lease("leased", A, 20, 1020.0), 1001.0, period_s=10)[0]

# name → the stored lease and a time at which it is in that state
STATES: dict[str, tuple[Lease, float]] = {
    "available": (NO_LEASE, 1001.0),
    "leased": (leases.acquire(NO_LEASE, LEASED_AT_S, duration_s=20, lease_id=A), 1001.0),
    "breaking": (BREAKING, 1002.0),
    "broken": (BREAKING, 1011.0),
    "expired": (leases.acquire(NO_LEASE, LEASED_AT_S, duration_s=20, lease_id=A), 1020.0),
}
MISMATCH = "LeaseIdMismatchWithLeaseOperation"
ABSENT = "LeaseNotPresentWithLeaseOperation"
HELD = "LeaseAlreadyPresent"

# https://learn.microsoft.com/rest/api/storageservices/lease-blob#outcomes-of-lease-operations-on-blobs-by-lease-state
# Columns: available, leased, breaking, broken, expired; a lower-case word is the state that follows.
OUTCOMES: list[tuple[str, LeaseOperation, list[str]]] = [
    (
        "acquire A",
        Acquire(15, A),
        ["leased", "leased", "LeaseIsBreakingAndCannotBeAcquired", "leased", "leased"],
    ),
    ("acquire B", Acquire(15, B), ["leased", HELD, HELD, "leased", "leased"]),
    ("break at once", Break(0), [ABSENT, "broken", "broken", "broken", "broken"]),
    ("break in 5 s", Break(5), [ABSENT, "breaking", "breaking", "broken", "broken"]),
    ("break", Break(None), [ABSENT, "breaking", "breaking", "broken", "broken"]),
    ("change A to B", Change(A, B), [ABSENT, "leased", "LeaseIsBreakingAndCannotBeChanged", ABSENT, ABSENT]),
    ("change B to A", Change(B, A), [ABSENT, "leased", MISMATCH, ABSENT, ABSENT]),
    ("change B to C", Change(B, C), [ABSENT, MISMATCH, MISMATCH, ABSENT, ABSENT]),
    (
        "renew A",
        Renew(A),
        [MISMATCH, "leased", "LeaseIsBrokenAndCannotBeRenewed", "LeaseIsBrokenAndCannotBeRenewed", "leased"],
    ),
    ("renew B", Renew(B), [MISMATCH, MISMATCH, MISMATCH, MISMATCH, MISMATCH]),
    ("release A", Release(A), [MISMATCH, "available", "available", "available", "available"]),
    ("release B", Release(B), [MISMATCH, MISMATCH, MISMATCH, MISMATCH, MISMATCH]),
]


def outcome(state: str, operation: LeaseOperation) -> tuple[str, Lease]:
    lease, now_s = STATES[state]
    assert lease.state(now_s) == state
    try:
        after, _ = carry_out(lease, now_s, operation)
    except BlobError as error:
        return (error.code if error.status == 409 else str(error)), lease
    return after.state(now_s), after


@pytest.mark.parametrize(
    ("operation", "expected"), [(row[1], row[2]) for row in OUTCOMES], ids=[r[0] for r in OUTCOMES]
)
def test_outcomes_of_lease_operations_by_state(operation: LeaseOperation, expected: list[str]) -> None:
    assert [outcome(state, operation)[0] for state in STATES] == expected


def test_acquired_lease_ends_after_its_duration_exactly() -> None:
    lease = leases.acquire(NO_LEASE, 0.0, duration_s=15, lease_id=A)
    assert lease.state(14.999) == "leased"
    assert lease.state(15.0) == "expired"


def test_acquiring_again_counts_the_new_duration_from_now() -> None:
    lease = leases.acquire(NO_LEASE, 0.0, duration_s=15, lease_id=A)
    lease = leases.acquire(lease, 10.0, duration_s=60, lease_id=A)
    assert (lease.state(69.9), lease.state(70.0)) == ("leased", "expired")


def test_renewal_counts_the_old_duration_from_now() -> None:
    lease = leases.acquire(NO_LEASE, 0.0, duration_s=20, lease_id=A)
    lease = leases.renew(lease, 15.0, lease_id=A)
    assert (lease.state(34.9), lease.state(35.0)) == ("leased", "expired")


def test_change_keeps_the_end() -> None:
    lease = leases.acquire(NO_LEASE, 0.0, duration_s=20, lease_id=A)
    lease = leases.change(lease, 15.0, lease_id=A, proposed_id=B)
    assert (lease.lease_id, lease.ends_at_s) == (B, 20.0)


def test_infinite_lease_never_ends_and_renews() -> None:
    lease = leases.acquire(NO_LEASE, 0.0, duration_s=-1, lease_id=A)
    assert lease.state(1e12) == "leased"
    assert leases.renew(lease, 5.0, lease_id=A).state(1e12) == "leased"


@pytest.mark.parametrize(
    ("duration_s", "period_s", "remaining_s"),
    [(20, None, 19), (20, 10, 10), (20, 60, 19), (20, 0, 0), (-1, None, 0), (-1, 0, 0), (-1, 60, 60)],
)
def test_break_ends_at_its_period_or_with_the_lease(duration_s: int, period_s: int | None, remaining_s: int) -> None:
    lease = leases.acquire(NO_LEASE, 0.0, duration_s=duration_s, lease_id=A)
    broken, told_s = leases.break_(lease, 1.0, period_s=period_s)
    assert told_s == remaining_s
    assert broken.state(1.0) == ("breaking" if remaining_s else "broken")
    assert broken.state(1.0 + remaining_s) == "broken"


def test_breaking_again_shortens_and_never_prolongs() -> None:
    lease = leases.acquire(NO_LEASE, 0.0, duration_s=60, lease_id=A)
    lease, first_s = leases.break_(lease, 0.0, period_s=30)
    lease, longer_s = leases.break_(lease, 10.0, period_s=60)
    lease, unsaid_s = leases.break_(lease, 10.0, period_s=None)
    lease, shorter_s = leases.break_(lease, 10.0, period_s=5)
    assert (first_s, longer_s, unsaid_s, shorter_s) == (30, 20, 20, 5)


def test_remaining_time_of_a_break_is_rounded_up() -> None:
    """Rounded down, a caller who waits as told would come too early."""
    lease = leases.acquire(NO_LEASE, 0.0, duration_s=20, lease_id=A)
    assert leases.break_(lease, 1.5, period_s=None)[1] == 19


@pytest.mark.parametrize("duration_s", [-2, 0, 14, 61, 10**9])
def test_duration_out_of_range_is_refused_even_to_the_holder(duration_s: int) -> None:
    lease = leases.acquire(NO_LEASE, 0.0, duration_s=20, lease_id=A)
    with pytest.raises(BlobError, match="400 InvalidHeaderValue"):
        leases.acquire(lease, 1.0, duration_s=duration_s, lease_id=A)


@pytest.mark.parametrize("period_s", [-1, 61])
@pytest.mark.parametrize("state", STATES)
def test_break_period_out_of_range_is_refused_in_every_state(state: str, period_s: int) -> None:
    lease, now_s = STATES[state]
    with pytest.raises(BlobError, match="400 InvalidHeaderValue"):
        leases.break_(lease, now_s, period_s=period_s)


def test_write_ends_what_has_run_out_and_nothing_else() -> None:
    kept = {state: leases.after_write(lease, now_s) == lease for state, (lease, now_s) in STATES.items()}
    assert kept == {"available": True, "leased": True, "breaking": True, "broken": False, "expired": False}


# https://learn.microsoft.com/rest/api/storageservices/lease-blob#outcomes-of-use-attempts-on-blobs-by-lease-state
WRONG = "LeaseIdMismatchWithBlobOperation"
NONE = "LeaseNotPresentWithBlobOperation"
USES: list[tuple[str, bool, str | None, list[str]]] = [
    ("write with A", True, A, [NONE, "", "", "LeaseLost", "LeaseLost"]),
    ("write with B", True, B, [NONE, WRONG, WRONG, NONE, NONE]),
    ("write with none", True, None, ["", "LeaseIdMissing", "LeaseIdMissing", "", ""]),
    ("read with A", False, A, [NONE, "", "", "LeaseLost", "LeaseLost"]),
    ("read with B", False, B, [NONE, WRONG, WRONG, NONE, NONE]),
    ("read with none", False, None, ["", "", "", "", ""]),
]


@pytest.mark.parametrize(("write", "lease_id", "expected"), [row[1:] for row in USES], ids=[row[0] for row in USES])
def test_outcomes_of_use_attempts_by_state(*, write: bool, lease_id: str | None, expected: list[str]) -> None:
    found = []
    for lease, now_s in STATES.values():
        try:
            check_access(lease, now_s, lease_id, write=write)
            found.append("")
        except BlobError as error:
            found.append(error.code if error.status == 412 else str(error))
    assert found == expected


def test_container_has_error_codes_of_its_own() -> None:
    lease, now_s = STATES["leased"]
    with pytest.raises(BlobError, match="412 LeaseIdMismatchWithContainerOperation"):
        check_access(lease, now_s, B, write=True, kind="Container")
    with pytest.raises(BlobError, match="412 LeaseNotPresentWithContainerOperation"):
        check_access(NO_LEASE, now_s, B, write=True, kind="Container")


GUID = "abcdef01-2345-6789-abcd-ef0123456789"


@pytest.mark.parametrize(
    "spelt", [GUID, GUID.upper(), "{" + GUID + "}", "(" + GUID + ")", GUID.replace("-", ""), f" {GUID} "]
)
def test_lease_id_is_read_in_the_formats_of_a_guid(spelt: str) -> None:
    assert parse_lease_id("x-ms-lease-id", spelt) == GUID


@pytest.mark.parametrize(
    "text", ["", "x", GUID[:-1], GUID + "0", "{" + GUID, "urn:uuid:" + GUID, GUID.replace("-", "") + "-", "{}"]
)
def test_other_text_is_no_lease_id(text: str) -> None:
    with pytest.raises(BlobError, match="400 InvalidHeaderValue"):
        parse_lease_id("x-ms-lease-id", text)

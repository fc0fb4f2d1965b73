"""How long a lease lasts, when it is renewed and how long to wait for it."""

from typing import Final

import msgspec

DURATION_MIN_S: Final = 15
DURATION_MAX_S: Final = 60
"""Blob leases last 15 to 60 seconds (or for ever, which nothing here uses: a dead holder would block for ever)."""

REQUEST_TIMEOUT_S: Final = 5.0
"""After this time a lease request counts as unanswered."""

RENEWAL_MARGIN_S: Final = 2 * REQUEST_TIMEOUT_S
"""What must be left of a lease when its renewal begins: one request that is never answered, and one more."""


class LeaseOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Checked against each other when made: ValueError names the option that is wrong and what to change.

    `duration_s` is what the service is asked for, `renew_after_s` when a holder asks again. `acquire_timeout_s`
    bounds the wait for a lease that another holds; between attempts the wait grows from `backoff_initial_s` to
    `backoff_max_s`, with jitter.
    """

    duration_s: int = 30
    renew_after_s: float = 10.0
    acquire_timeout_s: float = 15.0
    backoff_initial_s: float = 0.1
    backoff_max_s: float = 2.0

    def __post_init__(self) -> None:
        """Refuse what could never hold a lease."""
        if problems := self.problems():
            raise ValueError("; ".join(f"{name}: {text}" for name, text in problems))

    def problems(self) -> tuple[tuple[str, str], ...]:
        """Every option that is wrong, with what is wrong about it and what to change."""
        found = []
        if not DURATION_MIN_S <= self.duration_s <= DURATION_MAX_S:
            found.append(("duration_s", f"is {self.duration_s}; use {DURATION_MIN_S} to {DURATION_MAX_S} seconds"))
        if problem := renewal_problem(self.duration_s, self.renew_after_s):
            found.append(("renew_after_s", problem))
        if not 0 <= self.acquire_timeout_s < float("inf"):
            found.append(("acquire_timeout_s", f"is {self.acquire_timeout_s}; use 0 or more seconds"))
        if not 0 < self.backoff_initial_s <= self.backoff_max_s < float("inf"):
            text = f"is {self.backoff_initial_s}; use more than 0 and at most backoff_max_s = {self.backoff_max_s}"
            found.append(("backoff_initial_s", text))
        return tuple(found)


def renewal_problem(duration_s: float, renew_after_s: float) -> str | None:
    """Why a lease of `duration_s` cannot be kept when renewed after `renew_after_s`; None when it can."""
    latest_s = duration_s - RENEWAL_MARGIN_S
    if 0 < renew_after_s <= latest_s:
        return None
    return (
        f"is {renew_after_s:g}; use more than 0 and at most {latest_s:g}, which leaves "
        f"{RENEWAL_MARGIN_S:g} s of a lease of {duration_s:g} s for a renewal that is not answered and one more"
    )

"""One row for each connection, property and right that a worker needs, and how a row comes to be."""

from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Final

import anyio
import msgspec
import structlog
from azure.core.exceptions import AzureError

from worker.errors import WorkerError
from worker.provisioning.findings import Finding, State, explained

log = structlog.get_logger()

CHECK_TIMEOUT_S: Final = 15.0
"""For one check, and for opening one service's client."""

SKEW_ADVICE_S: Final = 10.0
SKEW_MAX_S: Final = 240.0
"""Tokens and signatures are refused from five minutes on."""


class Status(StrEnum):
    """How a check came out. Only `failed` keeps a worker from its work."""

    OK = "ok"
    ADVICE = "advice"
    FAILED = "failed"
    NOT_CHECKED = "not-checked"


class Row(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One thing that was looked at. `note` says what was found and, where something should be done, what."""

    service: str
    check: str
    status: Status
    note: str = ""


class Outcome(msgspec.Struct, frozen=True):
    """What a check found, before it is known which row it stands in."""

    status: Status = Status.OK
    note: str = ""


Check = Callable[[], Awaitable[Outcome]]

_STATUS: Final = {
    State.FOUND: Status.OK,
    State.MADE: Status.OK,
    State.ADVICE: Status.ADVICE,
    State.MISSING: Status.FAILED,
    State.WRONG: Status.FAILED,
}
_WORST: Final = (Status.FAILED, Status.ADVICE, Status.NOT_CHECKED, Status.OK)


def failed(note: str) -> Outcome:
    """It is not as a worker needs it."""
    return Outcome(Status.FAILED, note)


def advice(note: str) -> Outcome:
    """A worker can do with it, but it could be better."""
    return Outcome(Status.ADVICE, note)


def not_checked(note: str) -> Outcome:
    """It could not be looked at, which by itself is no fault."""
    return Outcome(Status.NOT_CHECKED, note)


def of_findings(findings: list[Finding]) -> Outcome:
    """The findings of provisioning about one resource as one outcome: the worst state, all the notes."""
    found = [_STATUS[finding.state] for finding in findings]
    worst = next((status for status in _WORST if status in found), Status.OK)
    said = "; ".join(
        (f"missing: {finding.note}" if finding.state is State.MISSING else finding.note)
        for finding in findings
        if finding.note
    )
    return Outcome(worst, said)


async def bounded(check: Check, entry: str) -> Outcome:
    """Carry one check out within CHECK_TIMEOUT_S. Never raises: what went wrong is the outcome.

    `entry` names the settings to look at when the service refuses or does not answer.
    """
    try:
        with anyio.fail_after(CHECK_TIMEOUT_S):
            return await check()
    except TimeoutError:
        return failed(f"no answer within {CHECK_TIMEOUT_S:g} s; check {entry} and the network")
    except AzureError as error:
        return failed(explained(error, entry))
    except WorkerError as error:
        return failed("; ".join(str(error).splitlines()))
    except Exception as error:
        log.exception("check.bug")
        return failed(f"{type(error).__name__}, which is a bug of the check itself; the log has it")


def of_date(header: str | None, now_s: float) -> Outcome:
    """How far our clock is from that of the service, which says its time in the header Date, to the second."""
    if not header:
        return not_checked("the service does not say its time")
    try:
        there = parsedate_to_datetime(header)
    except ValueError:
        return not_checked("the service does not say its time in a way that can be read")
    ahead_s = now_s - there.replace(tzinfo=there.tzinfo or UTC).timestamp()
    return of_skew(ahead_s)


def of_skew(ahead_s: float) -> Outcome:
    """What a difference between the clocks means."""
    told = f"our clock is {abs(ahead_s):,.0f} s {'ahead of' if ahead_s > 0 else 'behind'} the service's"
    if abs(ahead_s) > SKEW_MAX_S:
        return failed(f"{told}: tokens and signatures are refused; synchronise it (NTP)")
    if abs(ahead_s) > SKEW_ADVICE_S:
        return advice(f"{told}; synchronise it (NTP)")
    return Outcome(note=f"within {SKEW_ADVICE_S:g} s")


def rows_of(service: str, outcomes: dict[str, Outcome]) -> Iterator[Row]:
    """Rows of one service, in the order of the checks."""
    for check, outcome in outcomes.items():
        yield Row(service=service, check=check, status=outcome.status, note=outcome.note)


def utc(at: datetime) -> float:
    """A time of the Service Bus client, which may leave its zone out, as seconds since the epoch."""
    return at.replace(tzinfo=at.tzinfo or UTC).timestamp()

"""Rejections that rest on a blob, not on the command alone: recorded in the head before anybody hears of them.

Another worker may see the blob otherwise, and so may this one later. What the reply says is a function of the code
alone, so that the record is enough to say it again, byte for byte.
"""

from collections.abc import Mapping
from typing import Final

from schemas.problems import Problem
from schemas.replies import RejectionCode
from worker.protocol.verdicts import Refused

_AGAIN: Final = "send the events in a new blob, under a new command id"

_PROBLEMS: Final[Mapping[RejectionCode, Problem]] = {
    RejectionCode.CLAIMS_NOT_SUPPORTED: Problem(
        "claim",
        "is not taken by these workers, for which no claim_container is set",
        "send the events inline in several commands, or have claim_container set and use a new command id",
    ),
    RejectionCode.CLAIM_EXPIRED: Problem("claim.expiresAt", "was over when the worker came to it", _AGAIN),
    RejectionCode.CLAIM_MISSING: Problem(
        "claim.blob", "is not in the workers' claim container", f"upload before sending; {_AGAIN}"
    ),
    RejectionCode.CLAIM_MISMATCH: Problem("claim", "is not of the size and the SHA-256 that the blob has", _AGAIN),
    RejectionCode.CLAIM_TOO_LARGE: Problem(
        "claim.sizeBytes", "is over the workers' claim_bytes_max", "split the events over several commands"
    ),
    RejectionCode.TOO_MANY_EVENTS: Problem(
        "claim.eventCount", "is over the workers' events_max", "split the events over several commands"
    ),
}

WITHHELD: Final = frozenset(_PROBLEMS)
"""The codes of such rejections."""


def refusal(code: str) -> Refused:
    """The verdict on a command whose events are withheld; for a code that only newer workers know: they are gone."""
    known = RejectionCode(code) if code in WITHHELD else RejectionCode.CLAIM_MISSING
    return Refused(known, _PROBLEMS[known])

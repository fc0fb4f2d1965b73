"""What becomes of one command, and the reply that says so."""

from typing import assert_never

import msgspec

from schemas.commands import Expected
from schemas.problems import Problem
from schemas.replies import Appended, ConcurrencyConflict, RejectionCode, Reply, rejected
from schemas.types import CommandId, Position


class Accepted(msgspec.Struct, frozen=True):
    """It takes effect with the group's writes, from `first` to `last`."""

    first: Position
    last: Position


class AlreadyAppended(msgspec.Struct, frozen=True):
    """It took effect before: delivered again, sent again, or ours after a lost answer."""

    first: Position
    last: Position


class Conflicted(msgspec.Struct, frozen=True):
    """The head was `actual`, not as expected: now, or when the command was decided first."""

    expected: Expected
    actual: Position


class Refused(msgspec.Struct, frozen=True):
    """It can never take effect as it is."""

    code: RejectionCode
    problem: Problem


Verdict = Accepted | AlreadyAppended | Conflicted | Refused


def reply_to(command_id: CommandId, verdict: Verdict) -> Reply:
    """The reply to a command: a function of the verdict alone, so that each delivery gets the same bytes."""
    match verdict:
        case Accepted(first, last) | AlreadyAppended(first, last):
            return Appended(command_id=command_id, first_position=first, last_position=last)
        case Conflicted(expected, actual):
            return ConcurrencyConflict(command_id=command_id, expected=expected, actual=actual)
        case Refused(code, problem):
            return rejected(command_id, code, problem)
        case _:
            assert_never(verdict)

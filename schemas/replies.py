"""What a producer gets back: exactly one of three outcomes. Unknown fields are ignored, so that they can be added."""

from enum import StrEnum

import msgspec

from schemas import ids
from schemas.commands import Expected
from schemas.problems import Problem
from schemas.types import CommandId, Position


class RejectionCode(StrEnum):
    """Why a command was rejected. Replies carry the text, so that a reader may meet codes newer than itself."""

    UNDECODABLE = "undecodable"
    COMMAND_TOO_LARGE = "command-too-large"
    UNSUPPORTED_CONTENT_TYPE = "unsupported-content-type"
    UNKNOWN_VERSION = "unknown-version"
    NO_SESSION = "no-session"
    WRONG_SESSION = "wrong-session"
    INVALID_COMMAND_ID = "invalid-command-id"
    COMMAND_ID_REUSED = "command-id-reused"
    INVALID_BROOK_KEY = "invalid-brook-key"
    INVALID_EXPECTED = "invalid-expected"
    NO_EVENTS = "no-events"
    TOO_MANY_EVENTS = "too-many-events"
    INVALID_EVENT = "invalid-event"
    EVENT_TOO_LARGE = "event-too-large"
    INVALID_CLAIM = "invalid-claim"
    CLAIMS_NOT_SUPPORTED = "claims-not-supported"
    CLAIM_EXPIRED = "claim-expired"
    CLAIM_MISSING = "claim-missing"
    CLAIM_MISMATCH = "claim-mismatch"
    CLAIM_TOO_LARGE = "claim-too-large"
    CLAIM_UNDECODABLE = "claim-undecodable"
    CLAIM_WRONG_CONTENT = "claim-wrong-content"
    REPLY_ADDRESS_NOT_ALLOWED = "reply-address-not-allowed"
    CONTRADICTION = "contradiction"


class Appended(msgspec.Struct, frozen=True, kw_only=True, tag_field="outcome", tag="appended", rename="camel"):
    """The events of the command are in the brook, from `first_position` to `last_position`."""

    command_id: CommandId
    first_position: Position
    last_position: Position


class ConcurrencyConflict(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="outcome", tag="concurrency-conflict", rename="camel"
):
    """The head was not as expected: nothing was appended. `actual` is -1 for an empty brook.

    The command id is spent: decide anew on the actual head and send another command.
    """

    command_id: CommandId
    expected: Expected
    actual: Position


class Rejected(msgspec.Struct, frozen=True, kw_only=True, tag_field="outcome", tag="rejected", rename="camel"):
    """The command can never take effect as it is. `message` says what to change; `details` gives each problem.

    `command_id` is None where it could not be decoded, or is no id that a message can have.
    """

    command_id: CommandId | None
    code: str
    message: str
    details: tuple[Problem, ...] = ()


Reply = Appended | ConcurrencyConflict | Rejected


def rejected(command_id: CommandId | None, code: RejectionCode, *problems: Problem) -> Rejected:
    """Build a rejection whose message is the first problem. At least one problem is needed.

    A command id that could not be an id, by its length or its characters, is not sent back.
    """
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    echoed = command_id if command_id is not None and ids.fits(command_id) else None
    return Rejected(command_id=echoed, code=code, message=f"{problems[0]}{more}", details=problems)

"""What a producer asks for: an append command and the events in it.

Decoding is strict: an unknown field is an error, so that a misspelt option cannot be lost in silence. Whether a
well-formed command also makes sense is for `schemas.guards` to say.
"""

from typing import Any, Final, Literal

import msgspec

from schemas.claims import Claim
from schemas.keys import BrookKey
from schemas.types import CommandId

SCHEMA_VERSION: Final = 1

Expected = Literal["any", "empty", "exists"] | int
"""The head that the producer believes in: whatever it is, none yet, some event, or exactly this position.

-1 means the same as `empty`.
"""


class NewEvent(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel", omit_defaults=True
):
    """One event to append.

    `data` is opaque: base64 text in JSON, binary in MessagePack. `time` is an RFC 3339 date-time with offset, kept
    as it was written; without it the time at which the broker took the command is stored. `metadata` is a JSON
    object.
    """

    event_id: str
    event_type: str
    data: bytes
    data_content_type: str | None = None
    source: str | None = None
    time: str | None = None
    metadata: dict[str, Any] | None = None


class AppendCommand(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel", omit_defaults=True
):
    """Append `events` to `brook`, in order, all or none, if its head is as `expected`.

    A command id takes effect at most once. A command sent again under its id is answered as the first time; the
    same id with another content is rejected.
    """

    command_id: CommandId
    brook: BrookKey
    expected: Expected
    events: tuple[NewEvent, ...]
    correlation_id: str | None = None
    causation_id: str | None = None
    schema_version: Literal[1] = 1


class ClaimedCommand(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel", omit_defaults=True
):
    """An append command whose events are in a blob: it has a `claim` where the other has `events`.

    Once the events are read it is the command that it would have been with them inline, under the same identity.
    """

    command_id: CommandId
    brook: BrookKey
    expected: Expected
    claim: Claim
    correlation_id: str | None = None
    causation_id: str | None = None
    schema_version: Literal[1] = 1


Command = AppendCommand | ClaimedCommand
"""What a message on the command queue holds: either events or a claim, never both."""


def event_count(command: Command) -> int:
    """How many events it has, or says to have."""
    return command.claim.event_count if isinstance(command, ClaimedCommand) else len(command.events)

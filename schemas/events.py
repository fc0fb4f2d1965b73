"""What a reader gets: an event as it stands in its brook."""

from typing import Any

import msgspec

from schemas.types import CommandId, Position


class RecordedEvent(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One committed event. Immutable: reading it again gives the same.

    `command_id` is None for an event that a writer without command ids appended.
    """

    position: Position
    event_id: str
    event_type: str
    data: bytes
    time: str
    data_content_type: str | None = None
    source: str | None = None
    command_id: CommandId | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    metadata: dict[str, Any] | None = None

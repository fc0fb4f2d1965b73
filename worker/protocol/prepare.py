"""A command made ready for planning: its documents built and measured once, however often it is planned."""

import base64
import hashlib
from typing import Final

import msgspec

from schemas.commands import AppendCommand, Expected
from schemas.types import CommandId, Position
from worker.protocol.documents import Document, encoded_bytes, event_document, placed

_DIGEST_BYTES: Final = 9
_CANONICAL: Final = msgspec.msgpack.Encoder(order="deterministic")
_ZERO: Final = Position(0)


class PreparedEvent(msgspec.Struct, frozen=True):
    """An event document without its place, and its encoded size at position 0."""

    body: Document
    bytes_at_zero: int

    def bytes_at(self, position: Position) -> int:
        """Its exact encoded size at `position`: the digits stand in `id` and in `position`."""
        return self.bytes_at_zero + 2 * (len(str(position)) - 1)

    def document_at(self, position: Position) -> Document:
        """Its document at `position`."""
        return placed(self.body, position)


class PreparedCommand(msgspec.Struct, frozen=True):
    """What `plan` needs of a command. Holds at least one event."""

    command_id: CommandId
    expected: Expected
    digest: str
    events: tuple[PreparedEvent, ...]


def prepare(command: AppendCommand, default_time: str) -> PreparedCommand:
    """Build and measure the documents of a command that `check_command` found nothing against.

    `default_time` (RFC 3339) is for events without a time; take the time at which the broker enqueued the message,
    which every delivery of it repeats.
    """
    assert command.events, "check_command rejects commands without events"
    return PreparedCommand(
        command_id=command.command_id,
        expected=command.expected,
        digest=payload_digest(command),
        events=tuple(_prepared(event_document(command, event, default_time)) for event in command.events),
    )


def payload_digest(command: AppendCommand) -> str:
    """Twelve characters that differ, but for 1 in 2**72, for commands that ask for different things.

    Independent of JSON or MessagePack and of the order of metadata keys; ids and the brook are not part of it.
    """
    content = _CANONICAL.encode((command.expected, command.events))
    digest = hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()
    return base64.urlsafe_b64encode(digest).decode("ascii")


def _prepared(body: Document) -> PreparedEvent:
    return PreparedEvent(body, encoded_bytes(placed(body, _ZERO)))

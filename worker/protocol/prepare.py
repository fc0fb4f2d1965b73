"""A command made ready for planning: measured once, however often it is planned; encoded only when it is written."""

import base64
import hashlib
from typing import Final

import msgspec

from schemas.commands import AppendCommand, Expected
from schemas.types import CommandId, Position
from worker.protocol.documents import Document, event_document, event_sizes

Identity = tuple[CommandId, str]
"""A command's id and the digest of what it asks for. Of several commands under one id, one may have been the first."""

_DIGEST_BYTES: Final = 9
_CANONICAL: Final = msgspec.msgpack.Encoder(order="deterministic")


class PreparedCommand(msgspec.Struct, frozen=True):
    """What the protocol needs of a command. Holds at least one event.

    Documents are made one at a time when they are written, so that a command of any size is held once.
    """

    command: AppendCommand
    digest: str
    default_time: str
    bytes_at_start: tuple[int, ...]

    @property
    def command_id(self) -> CommandId:
        """The command's id."""
        return self.command.command_id

    @property
    def identity(self) -> Identity:
        """What tells it from every other command."""
        return self.command_id, self.digest

    @property
    def expected(self) -> Expected:
        """The head that the producer believes in."""
        return self.command.expected

    def __len__(self) -> int:
        """Count the events."""
        return len(self.bytes_at_start)

    def event_bytes(self, index: int, position: Position) -> int:
        """The exact encoded size of event `index` at `position`: the digits stand in `id` and in `position`."""
        return self.bytes_at_start[index] + 2 * (len(str(position)) - 1)

    def event_document(self, index: int, position: Position) -> Document:
        """The document of event `index` at `position`."""
        return event_document(self.command, self.command.events[index], self.default_time, position)


def prepare(command: AppendCommand, default_time: str) -> PreparedCommand:
    """Measure a command that `check_command` found nothing against.

    `default_time` (RFC 3339) is for events without a time; take the time at which the broker enqueued the message,
    which every delivery of it repeats.
    """
    assert command.events, "check_command rejects commands without events"
    return PreparedCommand(
        command=command,
        digest=payload_digest(command),
        default_time=default_time,
        bytes_at_start=event_sizes(command, default_time),
    )


def payload_digest(command: AppendCommand) -> str:
    """Twelve characters that differ, but for 1 in 2**72, for commands that ask for different things.

    Independent of JSON or MessagePack and of the order of metadata keys; ids and the brook are not part of it.
    """
    content = _CANONICAL.encode((command.expected, command.events))
    digest = hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()
    return base64.urlsafe_b64encode(digest).decode("ascii")

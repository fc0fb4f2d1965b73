"""The payload digest: what tells a command from another one under the same id, however its events travel."""

import base64
import hashlib
from typing import Final

import msgspec

from schemas.commands import AppendCommand, Expected, NewEvent

_DIGEST_BYTES: Final = 9
_CANONICAL: Final = msgspec.msgpack.Encoder(order="deterministic")

# MessagePack: an array of two, and the headers of arrays by their length.
_PAIR: Final = b"\x92"
_SHORT_ARRAY_MAX: Final = 15
_ARRAY_16_MAX: Final = 2**16 - 1


def payload_digest(command: AppendCommand) -> str:
    """Twelve characters that differ, but for 1 in 2**72, for commands that ask for different things.

    Independent of JSON or MessagePack and of the order of metadata keys; ids and the brook are not part of it.
    """
    return _text(hashlib.blake2b(_CANONICAL.encode((command.expected, command.events)), digest_size=_DIGEST_BYTES))


class PayloadDigest:
    """The same digest, made event by event, for events that are never all held at once."""

    def __init__(self, expected: Expected, event_count: int) -> None:
        self._hash = hashlib.blake2b(digest_size=_DIGEST_BYTES)
        self._hash.update(_PAIR + _CANONICAL.encode(expected) + _array_header(event_count))

    def add(self, event: NewEvent) -> None:
        """Take the next of the events."""
        self._hash.update(_CANONICAL.encode(event))

    def text(self) -> str:
        """The digest, once all of them were taken."""
        return _text(self._hash)


def _array_header(length: int) -> bytes:
    if length <= _SHORT_ARRAY_MAX:
        return bytes([0x90 | length])
    if length <= _ARRAY_16_MAX:
        return b"\xdc" + length.to_bytes(2, "big")
    return b"\xdd" + length.to_bytes(4, "big")


def _text(digest: "hashlib.blake2b") -> str:
    return base64.urlsafe_b64encode(digest.digest()).decode("ascii")

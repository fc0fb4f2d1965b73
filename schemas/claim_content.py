"""Events to the content of a claim's blob and back, one event at a time."""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

import msgspec

from schemas.claims import Encoding
from schemas.commands import NewEvent

FRAME_LENGTH_BYTES: Final = 4

_JSON: Final = msgspec.json.Encoder()
_MSGPACK: Final = msgspec.msgpack.Encoder()
_FROM_JSON: Final = msgspec.json.Decoder(NewEvent)
_FROM_MSGPACK: Final = msgspec.msgpack.Decoder(NewEvent)


def encoded(events: Iterable[NewEvent], encoding: Encoding) -> Iterator[bytes]:
    """Each event as it stands in the blob; their concatenation is the blob's content."""
    frame = _line if encoding is Encoding.JSON_LINES else _frame
    return map(frame, events)


def decoder(encoding: Encoding) -> Callable[[bytes], NewEvent]:
    """What reads one event, without its length or the end of its line; strict, as commands are.

    Raises msgspec.DecodeError, UnicodeDecodeError or RecursionError.
    """
    return _FROM_JSON.decode if encoding is Encoding.JSON_LINES else _FROM_MSGPACK.decode


def _line(event: NewEvent) -> bytes:
    return _JSON.encode(event) + b"\n"


def _frame(event: NewEvent) -> bytes:
    packed = _MSGPACK.encode(event)
    return len(packed).to_bytes(FRAME_LENGTH_BYTES, "big") + packed

"""Events to the content of a claim's blob and back, one event at a time."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import msgspec

from schemas.claims import Encoding
from schemas.commands import NewEvent

FRAME_LENGTH_BYTES: Final = 4

_METADATA_TIMES_MAX: Final = 6
"""No metadata takes more times its size as JSON: text may be written as escapes, a small number in nine bytes."""


class MetadataTooLargeError(Exception):
    """The metadata of an event takes more than it may, however it is encoded. It was not looked into."""


class _Unread(NewEvent, kw_only=True, frozen=True):
    """An event whose metadata is left as it stands in the blob."""

    metadata: msgspec.Raw = msgspec.Raw()  # type: ignore[assignment]  # read from it later


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


def bounded_decoder(encoding: Encoding, metadata_bytes_max: int) -> Callable[[bytes], NewEvent]:
    """As `decoder`, but for events from anybody: no metadata is read that is sure to be too large.

    In memory it could take sixty times its size. Raises MetadataTooLargeError too.
    """
    decode_all = decoder(encoding)
    module = msgspec.json if encoding is Encoding.JSON_LINES else msgspec.msgpack
    unread, metadata = module.Decoder(_Unread), module.Decoder(dict[str, Any] | None)
    raw_bytes_max = _METADATA_TIMES_MAX * metadata_bytes_max

    def decode(frame: bytes) -> NewEvent:
        if len(frame) <= raw_bytes_max:
            return decode_all(frame)
        found = unread.decode(frame)
        raw = memoryview(found.metadata)
        if raw.nbytes > raw_bytes_max:
            raise MetadataTooLargeError
        fields = {name: getattr(found, name) for name in NewEvent.__struct_fields__}
        return NewEvent(**fields | {"metadata": metadata.decode(raw) if raw.nbytes else None})

    return decode


def _line(event: NewEvent) -> bytes:
    return _JSON.encode(event) + b"\n"


def _frame(event: NewEvent) -> bytes:
    packed = _MSGPACK.encode(event)
    return len(packed).to_bytes(FRAME_LENGTH_BYTES, "big") + packed

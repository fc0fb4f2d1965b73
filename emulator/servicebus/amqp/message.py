"""The sections of a message (3.2) as slices of its bytes.

The bare message (properties to footer) is never re-encoded: what a producer sent is what a consumer gets, byte for
byte. The header and the annotations are the broker's to change.
"""

import struct
from typing import Any, NamedTuple

from emulator.servicebus.amqp.decode import decode, skip
from emulator.servicebus.amqp.encode import encode, encode_map_of
from emulator.servicebus.amqp.types import DecodeError

HEADER = 0x70
MESSAGE_ANNOTATIONS = 0x72
PROPERTIES = 0x73
APPLICATION_PROPERTIES = 0x74
DATA = 0x75
AMQP_SEQUENCE = 0x76
AMQP_VALUE = 0x77
FOOTER = 0x78

MESSAGE_ID = 0
TO = 2
SUBJECT = 3
REPLY_TO = 4
CORRELATION_ID = 5
CONTENT_TYPE = 6
GROUP_ID = 10
REPLY_TO_GROUP_ID = 12
PROPERTY_NAMES = {
    "message_id": MESSAGE_ID,
    "to": TO,
    "subject": SUBJECT,
    "reply_to": REPLY_TO,
    "correlation_id": CORRELATION_ID,
    "content_type": CONTENT_TYPE,
    "session_id": GROUP_ID,
    "reply_to_session_id": REPLY_TO_GROUP_ID,
}

_SECTION_START = 3
_U32 = struct.Struct(">I").unpack_from


class Sections(NamedTuple):
    """Where the parts of one message lie. Slices are (start, end) of the value after the section's descriptor."""

    buffer: bytes
    found: dict[int, tuple[int, int]]
    data: list[tuple[int, int]]
    bare: bytes

    def value(self, section: int) -> Any:
        """The decoded value of a section; None when the message has none."""
        place = self.found.get(section)
        return None if place is None else decode(self.buffer, place[0])[0]

    def encoded(self, section: int) -> bytes | None:
        """The encoded value of a section."""
        place = self.found.get(section)
        return None if place is None else self.buffer[place[0] : place[1]]

    def bodies(self) -> list[bytes]:
        """The contents of the data sections, in order."""
        return [decode(self.buffer, start)[0] for start, _ in self.data]


def split(buffer: bytes) -> Sections:
    """Find the sections. Their order is not enforced: one widely used client sends delivery annotations last.

    Raises:
        DecodeError: something is no section, or a section that may come once comes twice.
    """
    found: dict[int, tuple[int, int]] = {}
    data: list[tuple[int, int]] = []
    bare: list[tuple[int, int]] = []
    position, size = 0, len(buffer)
    while position < size:
        start = position
        if buffer[start : start + 2] != b"\x00\x53" or start + _SECTION_START > size:
            raise DecodeError("a message section does not begin with its descriptor")
        code = buffer[start + 2]
        if not HEADER <= code <= FOOTER:
            raise DecodeError(f"0x{code:02x} is no message section")
        position = skip(buffer, start + _SECTION_START)
        if code == DATA:
            data.append((start + _SECTION_START, position))
        elif code in found and code != AMQP_SEQUENCE:
            raise DecodeError(f"the message section 0x{code:02x} comes twice")
        else:
            found[code] = (start + _SECTION_START, position)
        if code >= PROPERTIES:
            if bare and bare[-1][1] == start:
                bare[-1] = (bare[-1][0], position)
            else:
                bare.append((start, position))
    return Sections(buffer, found, data, b"".join([buffer[start:end] for start, end in bare]))


def section(code: int, value: bytes) -> bytes:
    """A section from its encoded value."""
    return bytes((0x00, 0x53, code)) + value


def list_fields(buffer: bytes, position: int, wanted_max: int) -> list[bytes]:
    """The first `wanted_max` elements of the list at `position`, each still encoded."""
    count, position, end = _compound(buffer, position)
    fields = []
    for _ in range(min(count, wanted_max)):
        stop = skip(buffer, position)
        if stop > end:
            raise DecodeError("a list is not as long as it says")
        fields.append(buffer[position:stop])
        position = stop
    return fields


def _compound(buffer: bytes, position: int) -> tuple[int, int, int]:
    """Count, position of the first element and end, of the list or map at `position`."""
    try:
        match buffer[position] >> 4:
            case 0xC:
                return buffer[position + 2], position + 3, position + 2 + buffer[position + 1]
            case 0xD:
                count, size = _U32(buffer, position + 5)[0], _U32(buffer, position + 1)[0]
                return count, position + 9, position + 5 + size
            case 4:
                return 0, position + 1, position + 1
            case _:
                pass
    except (IndexError, struct.error) as error:
        raise DecodeError("a list or map is cut short") from error
    raise DecodeError("a list or map was expected")


def with_application_properties(bare: bytes, extra: dict[str, Any]) -> bytes:
    """The bare message with `extra` among its application properties; a key that is there already is replaced.

    Every other byte stays as it is, the other application properties' own encoding included.
    """
    sections = split(bare)
    kept: list[bytes] = []
    place = sections.found.get(APPLICATION_PROPERTIES)
    if place is not None:
        count, position, _ = _compound(bare, place[0])
        for _ in range(count // 2):
            key, value_start = decode(bare, position)
            stop = skip(bare, value_start)
            if key not in extra:
                kept.append(bare[position:stop])
            position = stop
    kept.extend(encode(key) + encode(value) for key, value in extra.items())
    made = section(APPLICATION_PROPERTIES, encode_map_of(2 * len(kept), b"".join(kept)))
    if place is not None:
        return bare[: place[0] - _SECTION_START] + made + bare[place[1] :]
    properties = sections.found.get(PROPERTIES)
    insert_at = 0 if properties is None else properties[1]
    return bare[:insert_at] + made + bare[insert_at:]

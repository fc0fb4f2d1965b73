"""A message: as it arrives, as it is kept, and as it is handed out."""

import struct
from enum import IntEnum
from typing import Any

import msgspec

from emulator.servicebus.amqp.decode import decode, skip
from emulator.servicebus.amqp.encode import encode, encode_map_of
from emulator.servicebus.amqp.message import (
    APPLICATION_PROPERTIES,
    GROUP_ID,
    HEADER,
    MESSAGE_ANNOTATIONS,
    MESSAGE_ID,
    PROPERTIES,
    PROPERTY_NAMES,
    Sections,
    list_fields,
    section,
    split,
)
from emulator.servicebus.amqp.types import DecodeError, Symbol, Timestamp
from emulator.servicebus.engine.errors import cannot_process, invalid_field, properties_too_large

MS = 1_000


def utf16_length(text: str) -> int:
    """How the service counts characters: in UTF-16, as .NET does."""
    return len(text) + sum(character > "\uffff" for character in text)


class State(IntEnum):
    """What a peeking client sees as the message's state."""

    ACTIVE = 0
    DEFERRED = 1
    SCHEDULED = 2


class Message(msgspec.Struct, frozen=True, array_like=True):
    """A message in an entity. Frozen: a change makes a new one, so that the journal can be written first.

    `annotations` are the producer's own message annotations, `annotation_count` keys and values together, encoded.
    """

    sequence: int
    bare: bytes
    message_id: str | None
    session_id: str | None
    durable: bool
    priority: int
    ttl_ms: int | None
    annotations: bytes
    annotation_count: int
    scheduled_s: float | None
    enqueued_s: float
    expires_s: float | None
    state: State = State.ACTIVE
    delivery_count: int = 0

    @property
    def size_bytes(self) -> int:
        """What it counts towards the size of its entity."""
        return len(self.bare) + len(self.annotations)

    def system_property(self, name: str) -> Any:
        """A property of the message by the name that filters use; None when it is absent."""
        sections = split(self.bare)
        place = sections.found.get(PROPERTIES)
        if place is None:
            return None
        index = PROPERTY_NAMES[name]
        fields = list_fields(self.bare, place[0], index + 1)
        return decode(fields[index])[0] if index < len(fields) else None

    def application_properties(self) -> dict[str, Any]:
        """The producer's own properties."""
        found = split(self.bare).value(APPLICATION_PROPERTIES)
        return found if isinstance(found, dict) else {}


# Annotations that the broker writes itself: a producer's are dropped, as they would come twice.
_OWN_ANNOTATIONS = frozenset(
    {
        "x-opt-sequence-number",
        "x-opt-enqueued-time",
        "x-opt-locked-until",
        "x-opt-message-state",
        "x-opt-enqueue-sequence-number",
        "x-opt-lock-token",
        "x-opt-scheduled-enqueue-time",
    }
)


def read_message(payload: bytes) -> Message:
    """A message as a producer sent it, not yet in any entity (sequence 0).

    Raises:
        DecodeError: it is no message.
        ServiceBusError: its session id is no string, or its properties are too large.
    """
    sections = split(payload)
    _check_properties(sections)
    durable, priority, ttl_ms = _header(sections)
    message_id, session_id = _ids(sections)
    annotations, count, scheduled_s = _annotations(sections)
    return Message(
        sequence=0,
        bare=sections.bare,
        message_id=message_id,
        session_id=session_id,
        durable=durable,
        priority=priority,
        ttl_ms=ttl_ms,
        annotations=annotations,
        annotation_count=count,
        scheduled_s=scheduled_s,
        enqueued_s=0.0,
        expires_s=None,
    )


PROPERTY_BYTES_MAX = 32 * 1024
PROPERTIES_BYTES_MAX = 64 * 1024
"""One application property, and all there is beside the body:
https://learn.microsoft.com/azure/service-bus-messaging/service-bus-quotas."""


def _check_properties(sections: Sections) -> None:
    """Refuse properties over the service's limits, in its own words.

    https://github.com/rebus-org/Rebus.AzureServiceBus/issues/35, https://github.com/Azure/azure-sdk-for-net/issues/15325
    """
    places = (sections.found.get(code) for code in (MESSAGE_ANNOTATIONS, PROPERTIES, APPLICATION_PROPERTIES))
    if sum(place[1] - place[0] for place in places if place is not None) > PROPERTIES_BYTES_MAX:
        raise properties_too_large(PROPERTIES_BYTES_MAX)
    place = sections.found.get(APPLICATION_PROPERTIES)
    if place is None or place[1] - place[0] <= PROPERTY_BYTES_MAX:
        return
    if not isinstance(decode(sections.buffer, place[0])[0], dict):
        raise DecodeError("the application properties are no map")
    if any(len(element) > PROPERTY_BYTES_MAX for element in _map_elements(sections.buffer, place)):
        raise cannot_process()


_PRIORITY_DEFAULT = 4


def _header(sections: Sections) -> tuple[bool, int, int | None]:
    fields = sections.value(HEADER)
    if fields is None:
        return False, _PRIORITY_DEFAULT, None
    if not isinstance(fields, list):
        raise DecodeError("the message header is no list")
    durable, priority, ttl_ms = (*fields[:3], None, None, None)[:3]
    if not isinstance(priority, int | None) or not isinstance(ttl_ms, int | None):
        raise DecodeError("the message header has a field of the wrong type")
    return durable is True, _PRIORITY_DEFAULT if priority is None else priority & 0xFF, ttl_ms


def _ids(sections: Sections) -> tuple[str | None, str | None]:
    place = sections.found.get(PROPERTIES)
    if place is None:
        return None, None
    fields = list_fields(sections.buffer, place[0], GROUP_ID + 1)
    message_id = decode(fields[MESSAGE_ID])[0] if fields else None
    session_id = decode(fields[GROUP_ID])[0] if len(fields) > GROUP_ID else None
    if session_id is not None and type(session_id) is not str:
        raise invalid_field("The session id (properties.group-id) is not a string.")
    return None if message_id is None else str(message_id), session_id


def _annotations(sections: Sections) -> tuple[bytes, int, float | None]:
    place = sections.found.get(MESSAGE_ANNOTATIONS)
    if place is None:
        return b"", 0, None
    found = decode(sections.buffer, place[0])[0]
    if not isinstance(found, dict):
        raise DecodeError("the message annotations are no map")
    scheduled = found.get("x-opt-scheduled-enqueue-time")
    if scheduled is not None and not isinstance(scheduled, Timestamp):
        raise invalid_field("x-opt-scheduled-enqueue-time is not a timestamp.")
    kept: list[bytes] = []
    fields = _map_elements(sections.buffer, place)
    for (key, _), raw in zip(found.items(), fields, strict=True):
        if key not in _OWN_ANNOTATIONS:
            kept.append(raw)
    return b"".join(kept), 2 * len(kept), None if scheduled is None else scheduled / MS


_MAP8 = 0xC1


def _map_elements(buffer: bytes, place: tuple[int, int]) -> list[bytes]:
    """Each key with its value, still encoded, of a map that has been decoded before."""
    position = place[0] + (3 if buffer[place[0]] == _MAP8 else 9)
    elements = []
    while position < place[1]:
        end = skip(buffer, skip(buffer, position))
        elements.append(buffer[position:end])
        position = end
    return elements


# --- handing out -----------------------------------------------------------------------------------------------

# durable, priority, ttl (as uint32 or absent), first-acquirer, delivery-count
_HEADER_WITH_TTL = struct.Struct(">3sBBBBBBBIBBI")
_HEADER_WITHOUT_TTL = struct.Struct(">3sBBBBBBBBBI")
_SECTION_HEADER = bytes((0x00, 0x53, HEADER))
_TRUE, _FALSE, _NULL, _UBYTE, _UINT = 0x41, 0x42, 0x40, 0x50, 0x70
_UINT_MAX = 0xFFFFFFFF

_SEQUENCE_KEY = encode(Symbol("x-opt-sequence-number")) + b"\x81"
_ENQUEUED_KEY = encode(Symbol("x-opt-enqueued-time")) + b"\x83"
_LOCKED_KEY = encode(Symbol("x-opt-locked-until")) + b"\x83"
_STATE_KEY = encode(Symbol("x-opt-message-state")) + b"\x71"
_SCHEDULED_KEY = encode(Symbol("x-opt-scheduled-enqueue-time")) + b"\x83"
_I64 = struct.Struct(">q").pack
_I32 = struct.Struct(">i").pack


def encode_for_receiver(message: Message, locked_until_s: float | None) -> bytes:
    """The message as a receiver gets it: the broker's header and annotations, then the producer's bytes unchanged.

    `locked_until_s` is None for a message that is peeked at or deleted on delivery.
    """
    durable = _TRUE if message.durable else _FALSE
    acquired = _TRUE if message.delivery_count == 0 else _FALSE
    count = message.delivery_count
    if message.ttl_ms is None:
        header = _HEADER_WITHOUT_TTL.pack(
            _SECTION_HEADER, 0xC0, 11, 5, durable, _UBYTE, message.priority, _NULL, acquired, _UINT, count
        )
    else:
        ttl_ms = min(message.ttl_ms, _UINT_MAX)
        header = _HEADER_WITH_TTL.pack(
            _SECTION_HEADER, 0xC0, 15, 5, durable, _UBYTE, message.priority, _UINT, ttl_ms, acquired, _UINT, count
        )
    parts = [
        message.annotations,
        _SEQUENCE_KEY,
        _I64(message.sequence),
        _ENQUEUED_KEY,
        _I64(int(message.enqueued_s * MS)),
    ]
    entries = message.annotation_count + 4
    if locked_until_s is not None:
        parts += (_LOCKED_KEY, _I64(int(locked_until_s * MS)))
        entries += 2
    if message.state is not State.ACTIVE:
        parts += (_STATE_KEY, _I32(message.state))
        entries += 2
    if message.state is State.SCHEDULED and message.scheduled_s is not None:
        parts += (_SCHEDULED_KEY, _I64(int(message.scheduled_s * MS)))
        entries += 2
    return header + section(MESSAGE_ANNOTATIONS, encode_map_of(entries, b"".join(parts))) + message.bare

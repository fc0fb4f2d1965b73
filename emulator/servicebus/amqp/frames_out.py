"""The frame bodies of AMQP (2.7) and SASL (5.3.3) that the server sends, one function each.

Descriptors are always smallulong: one widely used client skips two bytes there without looking.
"""

import struct
from collections.abc import Sequence
from typing import Any

from emulator.servicebus.amqp.encode import encode, encode_list
from emulator.servicebus.amqp.performatives import (
    ACCEPTED,
    ATTACH,
    BEGIN,
    CLOSE,
    DETACH,
    DISPOSITION,
    END,
    ERROR,
    FLOW,
    OPEN,
    REJECTED,
    RELEASED,
    ROLE_SENDER,
    SASL_MECHANISMS,
    SASL_OUTCOME,
    TRANSFER,
)
from emulator.servicebus.amqp.types import AmqpError, Array, Described, Symbol, UByte, UInt, ULong, UShort


def described(code: int, fields: Sequence[Any]) -> bytes:
    """A described list; trailing absent fields are left out."""
    items = [encode(value) for value in fields]
    while items and items[-1] == b"\x40":
        items.pop()
    return bytes((0x00, 0x53, code)) + encode_list(items)


def error_value(error: AmqpError | None) -> Described | None:
    """An error with all three fields: one widely used client reads them without looking how many there are."""
    if error is None:
        return None
    return Described(ULong(ERROR), [Symbol(error.condition), error.description, {}])


def open_(container_id: str, max_frame_size: int, channel_max: int, idle_time_out_ms: int) -> bytes:
    """2.7.1."""
    return described(OPEN, (container_id, None, UInt(max_frame_size), UShort(channel_max), UInt(idle_time_out_ms)))


def begin(remote_channel: int, next_outgoing_id: int, window: int, handle_max: int) -> bytes:
    """2.7.2."""
    return described(
        BEGIN, (UShort(remote_channel), UInt(next_outgoing_id), UInt(window), UInt(window), UInt(handle_max))
    )


def attach(
    *,
    name: str,
    handle: int,
    role: bool,
    snd_settle_mode: int,
    rcv_settle_mode: int,
    source: Any,
    target: Any,
    max_message_size: int | None = None,
    properties: dict[Symbol, Any] | None = None,
) -> bytes:
    """2.7.3. A receiver link of the client begins counting deliveries at 0."""
    return described(
        ATTACH,
        (
            name,
            UInt(handle),
            role,
            UByte(snd_settle_mode),
            UByte(rcv_settle_mode),
            source,
            target,
            None,
            None,
            UInt(0) if role is ROLE_SENDER else None,
            None if max_message_size is None else ULong(max_message_size),
            None,
            None,
            properties,
        ),
    )


def flow(
    *,
    next_incoming_id: int,
    window: int,
    next_outgoing_id: int,
    handle: int | None = None,
    delivery_count: int | None = None,
    link_credit: int | None = None,
    drain: bool = False,
) -> bytes:
    """2.7.4."""
    return described(
        FLOW,
        (
            UInt(next_incoming_id),
            UInt(window),
            UInt(next_outgoing_id),
            UInt(window),
            None if handle is None else UInt(handle),
            None if delivery_count is None else UInt(delivery_count),
            None if link_credit is None else UInt(link_credit),
            None,
            drain,
        ),
    )


# handle, delivery-id as fixed 32 bits, a tag of 16 bytes, message-format, settled, more: the only shape that the
# server sends, so that one struct packs it.
_TRANSFER_FIRST = struct.Struct(">3sBBBBIBIBB16sBIBB")
_TRANSFER_NEXT = struct.Struct(">3sBBBBIBBBBB")
TRANSFER_OVERHEAD_BYTES = _TRANSFER_FIRST.size
_BOOL = (0x42, 0x41)
_TRANSFER_CODE = bytes((0x00, 0x53, TRANSFER))


def transfer(handle: int, delivery_id: int, tag: bytes, message_format: int, *, settled: bool, more: bool) -> bytes:
    """2.7.5, the first or only frame of a delivery. `tag` has 16 bytes."""
    return _TRANSFER_FIRST.pack(
        _TRANSFER_CODE,
        0xC0,
        _TRANSFER_FIRST.size - 5,
        6,
        0x70,
        handle,
        0x70,
        delivery_id,
        0xA0,
        16,
        tag,
        0x70,
        message_format,
        _BOOL[settled],
        _BOOL[more],
    )


def transfer_next(handle: int, *, more: bool) -> bytes:
    """2.7.5, a further frame of the same delivery."""
    return _TRANSFER_NEXT.pack(
        _TRANSFER_CODE, 0xC0, _TRANSFER_NEXT.size - 5, 6, 0x70, handle, 0x40, 0x40, 0x40, 0x40, _BOOL[more]
    )


# role, first, no last, settled; the state follows.
_DISPOSITION = struct.Struct(">3sBBBBBIBB")
_DISPOSITION_CODE = bytes((0x00, 0x53, DISPOSITION))

ACCEPTED_STATE = described(ACCEPTED, ())
RELEASED_STATE = described(RELEASED, ())
REJECTED_STATE = described(REJECTED, ())


def rejected_state(error: AmqpError) -> bytes:
    """The outcome of a delivery that was refused, with its error."""
    return described(REJECTED, (error_value(error),))


def disposition(role: bool, delivery_id: int, state: bytes) -> bytes:  # noqa: FBT001 - AMQP names it so
    """2.7.6, settled, of one delivery. `state` is encoded."""
    size = _DISPOSITION.size - 5 + len(state)
    if size <= 0xFF:  # noqa: PLR2004 - what a one-byte size holds
        head = _DISPOSITION.pack(_DISPOSITION_CODE, 0xC0, size, 5, _BOOL[role], 0x70, delivery_id, 0x40, 0x41)
        return head + state
    items = [encode(role), encode(UInt(delivery_id)), b"\x40", b"\x41", state]
    return _DISPOSITION_CODE + encode_list(items)


def detach(handle: int, error: AmqpError | None = None) -> bytes:
    """2.7.7, closing."""
    return described(DETACH, (UInt(handle), True, error_value(error)))


def end(error: AmqpError | None = None) -> bytes:
    """2.7.8."""
    return described(END, (error_value(error),))


def close(error: AmqpError | None = None) -> bytes:
    """2.7.9."""
    return described(CLOSE, (error_value(error),))


def sasl_mechanisms(mechanisms: Sequence[str]) -> bytes:
    """5.3.3.1."""
    return described(SASL_MECHANISMS, (Array([Symbol(mechanism) for mechanism in mechanisms]),))


def sasl_outcome(code: int) -> bytes:
    """5.3.3.6."""
    return described(SASL_OUTCOME, (UByte(code),))

"""The frame bodies of AMQP (2.7) and SASL (5.3.3), decoded into named tuples.

Incoming fields are checked for type, so that whoever uses them need not. Sources, targets and outcomes stay
described values here; `front` reads what it needs from them.
"""

from typing import Any, NamedTuple

from emulator.servicebus.amqp.decode import decode
from emulator.servicebus.amqp.types import (
    DecodeError,
    Described,
)

OPEN = 0x10
BEGIN = 0x11
ATTACH = 0x12
FLOW = 0x13
TRANSFER = 0x14
DISPOSITION = 0x15
DETACH = 0x16
END = 0x17
CLOSE = 0x18
SASL_MECHANISMS = 0x40
SASL_INIT = 0x41
SASL_OUTCOME = 0x44
ERROR = 0x1D
RECEIVED = 0x23
ACCEPTED = 0x24
REJECTED = 0x25
RELEASED = 0x26
MODIFIED = 0x27
SOURCE = 0x28
TARGET = 0x29

ROLE_SENDER = False
ROLE_RECEIVER = True


class Open(NamedTuple):
    """2.7.1."""

    container_id: str
    hostname: str | None
    max_frame_size: int
    channel_max: int
    idle_time_out_ms: int | None


class Begin(NamedTuple):
    """2.7.2."""

    remote_channel: int | None
    next_outgoing_id: int
    incoming_window: int
    outgoing_window: int
    handle_max: int


class Attach(NamedTuple):
    """2.7.3. `role` is the peer's: True when the peer receives."""

    name: str
    handle: int
    role: bool
    snd_settle_mode: int
    rcv_settle_mode: int
    source: Any
    target: Any
    unsettled: Any
    incomplete_unsettled: bool
    initial_delivery_count: int | None
    max_message_size: Any
    offered_capabilities: Any
    desired_capabilities: Any
    properties: Any


class Flow(NamedTuple):
    """2.7.4."""

    next_incoming_id: int | None
    incoming_window: int
    next_outgoing_id: int
    outgoing_window: int
    handle: int | None
    delivery_count: int | None
    link_credit: int | None
    available: int | None
    drain: bool
    echo: bool


class Transfer(NamedTuple):
    """2.7.5, with the bytes that follow it."""

    handle: int
    delivery_id: int | None
    delivery_tag: bytes | None
    message_format: int | None
    settled: bool | None
    more: bool
    rcv_settle_mode: int | None
    state: Any
    resume: bool
    aborted: bool
    payload: bytes


class Disposition(NamedTuple):
    """2.7.6."""

    role: bool
    first: int
    last: int
    settled: bool
    state: Any


class Detach(NamedTuple):
    """2.7.7."""

    handle: int
    closed: bool
    error: Any


class End(NamedTuple):
    """2.7.8."""

    error: Any


class Close(NamedTuple):
    """2.7.9."""

    error: Any


class SaslInit(NamedTuple):
    """5.3.3.2."""

    mechanism: str
    initial_response: bytes | None


Performative = Open | Begin | Attach | Flow | Transfer | Disposition | Detach | End | Close | SaslInit

_ANY = object
_UINT_MAX = 0xFFFFFFFF
_REQUIRED = object()

# For each field: the types it may have, and what it is when absent.
_SPECS: dict[int, tuple[type[Any], tuple[tuple[Any, Any], ...]]] = {
    OPEN: (Open, ((str, _REQUIRED), (str, None), (int, 0xFFFFFFFF), (int, 0xFFFF), (int, None))),
    BEGIN: (Begin, ((int, None), (int, _REQUIRED), (int, _REQUIRED), (int, _REQUIRED), (int, 0xFFFFFFFF))),
    ATTACH: (
        Attach,
        (
            (str, _REQUIRED),
            (int, _REQUIRED),
            (bool, _REQUIRED),
            (int, 2),
            (int, 0),
            (_ANY, None),
            (_ANY, None),
            (_ANY, None),
            (bool, False),
            (int, None),
            (_ANY, None),
            (_ANY, None),
            (_ANY, None),
            (_ANY, None),
        ),
    ),
    FLOW: (
        Flow,
        (
            (int, None),
            (int, _REQUIRED),
            (int, _REQUIRED),
            (int, _REQUIRED),
            (int, None),
            (int, None),
            (int, None),
            (int, None),
            (bool, False),
            (bool, False),
        ),
    ),
    TRANSFER: (
        Transfer,
        (
            (int, _REQUIRED),
            (int, None),
            (bytes, None),
            (int, None),
            (bool, None),
            (bool, False),
            (int, None),
            (_ANY, None),
            (bool, False),
            (bool, False),
        ),
    ),
    DISPOSITION: (
        Disposition,
        ((bool, _REQUIRED), (int, _REQUIRED), (int, None), (bool, False), (_ANY, None)),
    ),
    DETACH: (Detach, ((int, _REQUIRED), (bool, False), (_ANY, None))),
    END: (End, ((_ANY, None),)),
    CLOSE: (Close, ((_ANY, None),)),
    SASL_INIT: (SaslInit, ((str, _REQUIRED), (bytes, None))),
}
_NAMES: dict[Any, int] = {
    f"amqp:{name}:list": code
    for name, code in (
        ("open", OPEN),
        ("begin", BEGIN),
        ("attach", ATTACH),
        ("flow", FLOW),
        ("transfer", TRANSFER),
        ("disposition", DISPOSITION),
        ("detach", DETACH),
        ("end", END),
        ("close", CLOSE),
    )
}


def parse(body: bytes) -> Performative:
    """The performative of a frame body, with what follows a transfer as its payload.

    Raises:
        DecodeError: it is not one, or a field has the wrong type or is missing.
    """
    described, position = decode(body)
    if not isinstance(described, Described) or not isinstance(described.value, list):
        raise DecodeError("a frame body does not begin with a performative")
    code = described.descriptor
    if not isinstance(code, int):
        code = _NAMES.get(code)
    spec = _SPECS.get(code) if code is not None else None
    if spec is None:
        raise DecodeError(f"unknown performative {described.descriptor!r}")
    kind, fields = spec
    values = _checked(kind, described.value, fields)
    if code == TRANSFER:
        values.append(body[position:])
    elif code == DISPOSITION and values[2] is None:
        values[2] = values[1]
    made: Performative = kind._make(values)
    return made


def _is_uint(value: int) -> bool:
    """Whether an integer of whatever width fits the fields that are integers here: all are unsigned, of 32 bits."""
    return type(value) is not bool and 0 <= value <= _UINT_MAX


def _checked(kind: type[Any], given: list[Any], fields: tuple[tuple[Any, Any], ...]) -> list[Any]:
    values = []
    present = len(given)
    for index, (types, default) in enumerate(fields):
        value = given[index] if index < present else None
        if value is None:
            if default is _REQUIRED:
                raise DecodeError(f"{kind.__name__.lower()} lacks {kind._fields[index]}")
            value = default
        elif not isinstance(value, types) or (types is int and not _is_uint(value)):
            raise DecodeError(f"{kind.__name__.lower()} has a wrong {kind._fields[index]}")
        values.append(value)
    return values

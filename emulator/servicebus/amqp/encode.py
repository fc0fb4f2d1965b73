"""Encoding of AMQP values (part 1, Types), always in the shortest usual form."""

# ruff: noqa: PLR2004 - format codes and ranges are the specification's own numbers

import struct
import uuid
from collections.abc import Callable
from typing import Any

from emulator.servicebus.amqp.types import (
    Array,
    Described,
    Int,
    Opaque,
    Raw,
    Symbol,
    Timestamp,
    UByte,
    UInt,
    ULong,
    UShort,
)

_PACK_BU8 = struct.Struct(">BB").pack
_PACK_BI8 = struct.Struct(">Bb").pack
_PACK_BU16 = struct.Struct(">BH").pack
_PACK_BU32 = struct.Struct(">BI").pack
_PACK_BI32 = struct.Struct(">Bi").pack
_PACK_BU64 = struct.Struct(">BQ").pack
_PACK_BI64 = struct.Struct(">Bq").pack
_PACK_BF64 = struct.Struct(">Bd").pack
_PACK_COMPOUND8 = struct.Struct(">BBB").pack
_PACK_COMPOUND32 = struct.Struct(">BII").pack

_BYTE_MAX = 0xFF


def encode(value: Any) -> bytes:
    """The shortest usual encoding of a value. A plain `int` becomes a long, a `str` a string, `bytes` binary.

    Raises:
        TypeError: the value's type has no AMQP encoding here. A programming error, never due to input.
    """
    encoder = _ENCODERS.get(type(value))
    if encoder is None:
        raise TypeError(f"{type(value).__name__} has no AMQP encoding")
    return encoder(value)


def _encode_none(_value: None) -> bytes:
    return b"\x40"


def _encode_bool(value: bool) -> bytes:  # noqa: FBT001 - called through a table, by position
    return b"\x41" if value else b"\x42"


def _encode_uint(value: int) -> bytes:
    if value == 0:
        return b"\x43"
    return _PACK_BU8(0x52, value) if value <= _BYTE_MAX else _PACK_BU32(0x70, value)


def _encode_ulong(value: int) -> bytes:
    if value == 0:
        return b"\x44"
    return _PACK_BU8(0x53, value) if value <= _BYTE_MAX else _PACK_BU64(0x80, value)


def _encode_long(value: int) -> bytes:
    return _PACK_BI8(0x55, value) if -0x80 <= value < 0x80 else _PACK_BI64(0x81, value)


def _encode_int(value: int) -> bytes:
    return _PACK_BI8(0x54, value) if -0x80 <= value < 0x80 else _PACK_BI32(0x71, value)


def _variable(code8: int, code32: int, data: bytes) -> bytes:
    size = len(data)
    return (_PACK_BU8(code8, size) if size <= _BYTE_MAX else _PACK_BU32(code32, size)) + data


def _compound(code8: int, code32: int, count: int, data: bytes) -> bytes:
    size = len(data)
    if size < _BYTE_MAX and count <= _BYTE_MAX:
        return _PACK_COMPOUND8(code8, size + 1, count) + data
    return _PACK_COMPOUND32(code32, size + 4, count) + data


def encode_list(items: list[bytes]) -> bytes:
    """A list of values that are already encoded."""
    return _compound(0xC0, 0xD0, len(items), b"".join(items)) if items else b"\x45"


def encode_map_of(count: int, data: bytes) -> bytes:
    """A map of `count` keys and values together, already encoded one after the other in `data`."""
    return _compound(0xC1, 0xD1, count, data)


def _encode_map(value: dict[Any, Any]) -> bytes:
    parts = []
    for key, item in value.items():
        parts.append(encode(key))
        parts.append(encode(item))
    return encode_map_of(len(parts), b"".join(parts))


def _encode_array(value: Array) -> bytes:
    code, data = _array_of(value)
    size = len(data) + 5
    return struct.pack(">BIIB", 0xF0, size, len(value), code) + data


def _array_of(value: Array) -> tuple[int, bytes]:
    """The elements' constructor and their bodies, all in the widest form, so that one constructor fits them."""
    first = value[0]
    for kind, (code, body) in _ARRAY_BODIES.items():
        if type(first) is kind:
            return code, b"".join(body(item) for item in value)
    raise TypeError(f"arrays of {type(first).__name__} have no AMQP encoding here")


def _sized(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


_ARRAY_BODIES: dict[type, tuple[int, Callable[[Any], bytes]]] = {
    Symbol: (0xB3, lambda item: _sized(item.encode("ascii"))),
    str: (0xB1, lambda item: _sized(item.encode())),
    bytes: (0xB0, _sized),
    int: (0x81, struct.Struct(">q").pack),
    Timestamp: (0x83, struct.Struct(">q").pack),
    uuid.UUID: (0x98, lambda item: item.bytes),
}

_ENCODERS: dict[type, Callable[[Any], bytes]] = {
    type(None): _encode_none,
    bool: _encode_bool,
    UByte: lambda value: _PACK_BU8(0x50, value),
    UShort: lambda value: _PACK_BU16(0x60, value),
    UInt: _encode_uint,
    ULong: _encode_ulong,
    Int: _encode_int,
    int: _encode_long,
    float: lambda value: _PACK_BF64(0x82, value),
    Timestamp: lambda value: _PACK_BI64(0x83, value),
    uuid.UUID: lambda value: b"\x98" + value.bytes,
    bytes: lambda value: _variable(0xA0, 0xB0, value),
    str: lambda value: _variable(0xA1, 0xB1, value.encode()),
    Symbol: lambda value: _variable(0xA3, 0xB3, value.encode("ascii")),
    list: lambda value: encode_list([encode(item) for item in value]),
    dict: _encode_map,
    Array: _encode_array,
    Described: lambda value: b"\x00" + encode(value.descriptor) + encode(value.value),
    Raw: bytes,
    Opaque: lambda value: bytes((value.code,)) + value.data,
}

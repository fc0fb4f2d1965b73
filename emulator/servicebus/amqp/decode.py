"""Decoding and skipping of AMQP values (part 1, Types).

Guarantee: any input gives a value or a `DecodeError`; time and memory are bounded by the size of the input, except
that arrays of empty elements may announce at most `EMPTY_ELEMENTS_MAX` of them; nesting ends at `DEPTH_MAX`.

Decoders are looked up by format code and take (buffer, position after the code, nesting left). Fixed-size decoders
rely on `struct` and indexing to notice a short buffer; whatever takes a slice checks its end, because a slice does not.
"""

# ruff: noqa: PLR2004 - format codes and ranges are the specification's own numbers

import struct
import uuid
from collections.abc import Callable
from typing import Any

from emulator.servicebus.amqp.types import (
    Array,
    DecodeError,
    Described,
    Opaque,
    Symbol,
    Timestamp,
)

DEPTH_MAX = 32
EMPTY_ELEMENTS_MAX = 64

_Decoder = Callable[[bytes, int, int], tuple[Any, int]]

_U16 = struct.Struct(">H").unpack_from
_U32 = struct.Struct(">I").unpack_from
_U64 = struct.Struct(">Q").unpack_from
_I8 = struct.Struct(">b").unpack_from
_I16 = struct.Struct(">h").unpack_from
_I32 = struct.Struct(">i").unpack_from
_I64 = struct.Struct(">q").unpack_from
_F32 = struct.Struct(">f").unpack_from
_F64 = struct.Struct(">d").unpack_from


def decode(buffer: bytes, position: int = 0) -> tuple[Any, int]:
    """The value at `position` and the position after it.

    Raises:
        DecodeError: there is no whole, valid value.
    """
    try:
        return _DECODERS[buffer[position]](buffer, position + 1, DEPTH_MAX)
    except (IndexError, struct.error) as error:
        raise DecodeError("the value is cut short") from error


def _bad_code(buffer: bytes, position: int, _depth: int) -> tuple[Any, int]:
    raise DecodeError(f"unknown format code 0x{buffer[position - 1]:02x}")


def _constant(value: Any) -> _Decoder:
    return lambda _buffer, position, _depth: (value, position)


def _empty_list(_buffer: bytes, position: int, _depth: int) -> tuple[list[Any], int]:
    return [], position


def _fixed(unpack: Callable[[bytes, int], tuple[Any, ...]], size: int) -> _Decoder:
    return lambda buffer, position, _depth: (unpack(buffer, position)[0], position + size)


def _ubyte(buffer: bytes, position: int, _depth: int) -> tuple[int, int]:
    return buffer[position], position + 1


def _boolean(buffer: bytes, position: int, _depth: int) -> tuple[bool, int]:
    byte = buffer[position]
    if byte > 1:
        raise DecodeError(f"a boolean byte is 0 or 1, not {byte}")
    return byte == 1, position + 1


def _timestamp(buffer: bytes, position: int, _depth: int) -> tuple[Timestamp, int]:
    return Timestamp(_I64(buffer, position)[0]), position + 8


def _char(buffer: bytes, position: int, _depth: int) -> tuple[str, int]:
    point: int = _U32(buffer, position)[0]
    if point > 0x10FFFF or 0xD800 <= point <= 0xDFFF:
        raise DecodeError(f"0x{point:x} is no Unicode character")
    return chr(point), position + 4


def _take(buffer: bytes, start: int, size: int) -> tuple[bytes, int]:
    end = start + size
    if end > len(buffer):
        raise DecodeError("the value is cut short")
    return buffer[start:end], end


def _uuid(buffer: bytes, position: int, _depth: int) -> tuple[uuid.UUID, int]:
    data, end = _take(buffer, position, 16)
    return uuid.UUID(bytes=data), end


def _opaque(code: int, size: int) -> _Decoder:
    def decoder(buffer: bytes, position: int, _depth: int) -> tuple[Opaque, int]:
        data, end = _take(buffer, position, size)
        return Opaque(code, data), end

    return decoder


def _binary8(buffer: bytes, position: int, _depth: int) -> tuple[bytes, int]:
    return _take(buffer, position + 1, buffer[position])


def _binary32(buffer: bytes, position: int, _depth: int) -> tuple[bytes, int]:
    return _take(buffer, position + 4, _U32(buffer, position)[0])


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise DecodeError("a string is not valid UTF-8") from error


def _ascii(data: bytes) -> Symbol:
    try:
        return Symbol(data.decode("ascii"))
    except UnicodeDecodeError as error:
        raise DecodeError("a symbol is not ASCII") from error


def _string8(buffer: bytes, position: int, _depth: int) -> tuple[str, int]:
    data, end = _take(buffer, position + 1, buffer[position])
    return _text(data), end


def _string32(buffer: bytes, position: int, _depth: int) -> tuple[str, int]:
    data, end = _take(buffer, position + 4, _U32(buffer, position)[0])
    return _text(data), end


def _symbol8(buffer: bytes, position: int, _depth: int) -> tuple[Symbol, int]:
    data, end = _take(buffer, position + 1, buffer[position])
    return _ascii(data), end


def _symbol32(buffer: bytes, position: int, _depth: int) -> tuple[Symbol, int]:
    data, end = _take(buffer, position + 4, _U32(buffer, position)[0])
    return _ascii(data), end


def _header8(buffer: bytes, position: int, depth: int) -> tuple[int, int, int]:
    """Element count, position of the first element and end, of a compound with one-byte sizes."""
    return _checked(buffer, buffer[position + 1], position + 2, position + 1 + buffer[position], depth)


def _header32(buffer: bytes, position: int, depth: int) -> tuple[int, int, int]:
    """As `_header8`, with four-byte sizes."""
    size = _U32(buffer, position)[0]
    return _checked(buffer, _U32(buffer, position + 4)[0], position + 8, position + 4 + size, depth)


def _checked(buffer: bytes, count: int, start: int, end: int, depth: int) -> tuple[int, int, int]:
    if end > len(buffer) or end < start:
        raise DecodeError("a list, map or array is cut short")
    if depth <= 0:
        raise DecodeError(f"values are nested deeper than {DEPTH_MAX}")
    return count, start, end


def _elements(buffer: bytes, header: tuple[int, int, int], depth: int) -> tuple[list[Any], int]:
    count, position, end = header
    if count > end - position:
        raise DecodeError("a list or map announces more elements than it has room for")
    values = []
    for _ in range(count):
        value, position = _DECODERS[buffer[position]](buffer, position + 1, depth)
        values.append(value)
    if position != end:
        raise DecodeError("a list or map is not as long as it says")
    return values, end


def _list8(buffer: bytes, position: int, depth: int) -> tuple[list[Any], int]:
    return _elements(buffer, _header8(buffer, position, depth), depth - 1)


def _list32(buffer: bytes, position: int, depth: int) -> tuple[list[Any], int]:
    return _elements(buffer, _header32(buffer, position, depth), depth - 1)


def _as_map(values: list[Any]) -> dict[Any, Any]:
    if len(values) % 2:
        raise DecodeError("a map has a key without a value")
    keys = values[::2]
    try:
        made = dict(zip(keys, values[1::2], strict=True))
    except TypeError as error:
        raise DecodeError("a map key is a list, a map or an array") from error
    if len(made) != len(keys):
        raise DecodeError("a map has a key twice")
    return made


def _map8(buffer: bytes, position: int, depth: int) -> tuple[dict[Any, Any], int]:
    values, end = _elements(buffer, _header8(buffer, position, depth), depth - 1)
    return _as_map(values), end


def _map32(buffer: bytes, position: int, depth: int) -> tuple[dict[Any, Any], int]:
    values, end = _elements(buffer, _header32(buffer, position, depth), depth - 1)
    return _as_map(values), end


def _array(buffer: bytes, header: tuple[int, int, int], depth: int) -> tuple[Array, int]:
    count, position, end = header
    descriptor: Any = None
    described = buffer[position] == 0
    if described:
        descriptor, position = _DECODERS[buffer[position + 1]](buffer, position + 2, depth)
    code = buffer[position]
    position += 1
    if code == 0:
        raise DecodeError("array elements have two descriptors")
    if count > (EMPTY_ELEMENTS_MAX if 0x40 <= code < 0x50 else end - position):
        raise DecodeError("an array announces more elements than it has room for")
    decoder = _DECODERS[code]
    values = Array()
    for _ in range(count):
        value, position = decoder(buffer, position, depth)
        values.append(Described(descriptor, value) if described else value)
    if position != end:
        raise DecodeError("an array is not as long as it says")
    return values, end


def _array8(buffer: bytes, position: int, depth: int) -> tuple[Array, int]:
    return _array(buffer, _header8(buffer, position, depth), depth - 1)


def _array32(buffer: bytes, position: int, depth: int) -> tuple[Array, int]:
    return _array(buffer, _header32(buffer, position, depth), depth - 1)


def _described(buffer: bytes, position: int, depth: int) -> tuple[Described, int]:
    if depth <= 0:
        raise DecodeError(f"values are nested deeper than {DEPTH_MAX}")
    descriptor, position = _DECODERS[buffer[position]](buffer, position + 1, depth - 1)
    value, position = _DECODERS[buffer[position]](buffer, position + 1, depth - 1)
    return Described(descriptor, value), position


_DECODERS: list[_Decoder] = [_bad_code] * 256
for _code, _decoder in {
    0x00: _described,
    0x40: _constant(None),
    0x41: _constant(True),
    0x42: _constant(False),
    0x43: _constant(0),
    0x44: _constant(0),
    0x45: _empty_list,
    0x50: _ubyte,
    0x51: _fixed(_I8, 1),
    0x52: _ubyte,
    0x53: _ubyte,
    0x54: _fixed(_I8, 1),
    0x55: _fixed(_I8, 1),
    0x56: _boolean,
    0x60: _fixed(_U16, 2),
    0x61: _fixed(_I16, 2),
    0x70: _fixed(_U32, 4),
    0x71: _fixed(_I32, 4),
    0x72: _fixed(_F32, 4),
    0x73: _char,
    0x74: _opaque(0x74, 4),
    0x80: _fixed(_U64, 8),
    0x81: _fixed(_I64, 8),
    0x82: _fixed(_F64, 8),
    0x83: _timestamp,
    0x84: _opaque(0x84, 8),
    0x94: _opaque(0x94, 16),
    0x98: _uuid,
    0xA0: _binary8,
    0xA1: _string8,
    0xA3: _symbol8,
    0xB0: _binary32,
    0xB1: _string32,
    0xB3: _symbol32,
    0xC0: _list8,
    0xC1: _map8,
    0xD0: _list32,
    0xD1: _map32,
    0xE0: _array8,
    0xF0: _array32,
}.items():
    _DECODERS[_code] = _decoder


def skip(buffer: bytes, position: int) -> int:
    """The position after the value at `position`, without decoding it. The format code's first half says its width.

    Raises:
        DecodeError: the value is cut short or its code has no width.
    """
    try:
        return _skip(buffer, position, DEPTH_MAX)
    except (IndexError, struct.error) as error:
        raise DecodeError("the value is cut short") from error


def _skip(buffer: bytes, position: int, depth: int) -> int:
    code = buffer[position]
    if code:
        return _skip_primitive(buffer, code, position + 1)
    if depth <= 0:
        raise DecodeError(f"values are nested deeper than {DEPTH_MAX}")
    return _skip(buffer, _skip(buffer, position + 1, depth - 1), depth - 1)


_FIXED_WIDTHS = {4: 0, 5: 1, 6: 2, 7: 4, 8: 8, 9: 16}


def _skip_primitive(buffer: bytes, code: int, position: int) -> int:
    width_class = code >> 4
    if width_class in _FIXED_WIDTHS:
        end = position + _FIXED_WIDTHS[width_class]
    elif width_class in (0xA, 0xC, 0xE):
        end = position + 1 + buffer[position]
    elif width_class in (0xB, 0xD, 0xF):
        end = position + 4 + int(_U32(buffer, position)[0])
    else:
        raise DecodeError(f"unknown format code 0x{code:02x}")
    if end > len(buffer):
        raise DecodeError("the value is cut short")
    return end

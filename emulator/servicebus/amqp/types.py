"""AMQP values that Python has no type for.

Decoding gives plain Python values where the distinction does not matter to this server (all integers are `int`)
and one of these where it does. Encoding takes all of them.
"""

from typing import Any, NamedTuple


class AmqpError(Exception):
    """Bytes or behaviour that AMQP forbids; `condition` is the AMQP error condition to answer with."""

    def __init__(self, condition: str, description: str) -> None:
        super().__init__(description)
        self.condition = condition
        self.description = description


class DecodeError(AmqpError):
    """Bytes that are no AMQP value, or not the one that must stand there."""

    def __init__(self, description: str) -> None:
        super().__init__("amqp:decode-error", description)


class Symbol(str):
    """A symbol: ASCII text from a constrained domain, such as an error condition."""

    __slots__ = ()


class UByte(int):
    """An unsigned 8-bit integer, on encoding."""


class UShort(int):
    """An unsigned 16-bit integer, on encoding."""


class UInt(int):
    """An unsigned 32-bit integer, on encoding."""


class ULong(int):
    """An unsigned 64-bit integer, on encoding."""


class Int(int):
    """A signed 32-bit integer, on encoding; a plain `int` is encoded as a 64-bit long."""


class Timestamp(int):
    """Milliseconds since the Unix epoch, UTC."""


class Described(NamedTuple):
    """A value with a descriptor: an integer code or a symbol."""

    descriptor: Any
    value: Any


class Array(list[Any]):
    """An AMQP array: elements of one type. Encoding needs at least one element to know the type."""

    __slots__ = ()


class Opaque(NamedTuple):
    """A primitive that this server only passes on (the decimal types): its format code and its bytes."""

    code: int
    data: bytes


class Raw(bytes):
    """A value that is encoded already: to echo what a peer sent exactly as it was."""

    __slots__ = ()

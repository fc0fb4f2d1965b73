"""Frames (part 2, Transport): bytes in, frames out; and the eight bytes that come before the first frame."""

import struct
from typing import NamedTuple

from emulator.servicebus.amqp.types import AmqpError

AMQP_HEADER = b"AMQP\x00\x01\x00\x00"
SASL_HEADER = b"AMQP\x03\x01\x00\x00"
HEADER_BYTES = 8
AMQP_FRAME = 0
SASL_FRAME = 1
EMPTY_FRAME = b"\x00\x00\x00\x08\x02\x00\x00\x00"
FRAME_SIZE_MIN = 512

_HEADER = struct.Struct(">IBBH")
_WORD = 4


class FramingError(AmqpError):
    """A frame header that cannot be one: the stream has no meaning from here on."""

    def __init__(self, description: str) -> None:
        super().__init__("amqp:connection:framing-error", description)


class Frame(NamedTuple):
    """One frame: its type (AMQP or SASL), its channel, and its body, empty for a heartbeat."""

    kind: int
    channel: int
    body: bytes


class FrameReader:
    """Cuts a stream into protocol headers and frames. Holds at most one frame of `frame_bytes_max`.

    A frame that announces more is refused as soon as its header is there, before anything is stored for it.
    """

    def __init__(self, frame_bytes_max: int) -> None:
        self.frame_bytes_max = frame_bytes_max
        self._buffer = b""

    def feed(self, data: bytes) -> None:
        """Add what arrived. Take everything out before feeding again."""
        self._buffer = self._buffer + data if self._buffer else data

    @property
    def pending_bytes(self) -> int:
        """What has arrived and is not yet a whole frame."""
        return len(self._buffer)

    def next_header(self) -> bytes | None:
        """The next eight bytes, as a protocol header; None until they are there."""
        if len(self._buffer) < HEADER_BYTES:
            return None
        header, self._buffer = self._buffer[:HEADER_BYTES], self._buffer[HEADER_BYTES:]
        return header

    def clear(self) -> None:
        """Forget what has arrived."""
        self._buffer = b""

    def next_frame(self) -> Frame | None:
        """The next frame; None until it is there whole. Raises FramingError as `frames` does."""
        if len(self._buffer) < HEADER_BYTES:
            return None
        size, body_start, kind, channel = self._header(self._buffer, 0)
        if len(self._buffer) < size:
            return None
        body, self._buffer = self._buffer[body_start:size], self._buffer[size:]
        return Frame(kind, channel, body)

    def _header(self, buffer: bytes, position: int) -> tuple[int, int, int, int]:
        size, data_offset, kind, channel = _HEADER.unpack_from(buffer, position)
        body_start = data_offset * _WORD
        if not HEADER_BYTES <= body_start <= size <= self.frame_bytes_max:
            raise FramingError(
                f"a frame of {size} bytes with its data at {body_start} cannot be read; at most"
                f" {self.frame_bytes_max} bytes are allowed"
            )
        return size, body_start, kind, channel

    def frames(self) -> list[Frame]:
        """Every whole frame that has arrived.

        Raises:
            FramingError: the next frame header is impossible or announces too large a frame. Frames that came
                before it in the same piece are lost with it: the connection ends either way.
        """
        buffer, position, found = self._buffer, 0, list[Frame]()
        available = len(buffer)
        while available - position >= HEADER_BYTES:
            size, body_start, kind, channel = self._header(buffer, position)
            if available - position < size:
                break
            found.append(Frame(kind, channel, buffer[position + body_start : position + size]))
            position += size
        self._buffer = buffer[position:]
        return found


def frame(channel: int, body: bytes, kind: int = AMQP_FRAME) -> bytes:
    """A whole frame."""
    return _HEADER.pack(len(body) + HEADER_BYTES, 2, kind, channel) + body

"""One connection as a state machine: bytes in through `receive`, bytes out through `send`. No sockets."""

from collections.abc import Callable
from enum import Enum

import structlog

from emulator.servicebus.amqp import frames_out as out
from emulator.servicebus.amqp import performatives as p
from emulator.servicebus.amqp.decode import decode
from emulator.servicebus.amqp.framing import (
    AMQP_HEADER,
    EMPTY_FRAME,
    FRAME_SIZE_MIN,
    SASL_FRAME,
    SASL_HEADER,
    Frame,
    FrameReader,
    frame,
)
from emulator.servicebus.amqp.message import list_fields
from emulator.servicebus.amqp.types import AmqpError, Raw
from emulator.servicebus.engine.errors import ServiceBusError
from emulator.servicebus.front import operations
from emulator.servicebus.front.channel import Channel
from emulator.servicebus.front.claims import Claims
from emulator.servicebus.front.host import Host, Lane, Timer
from emulator.servicebus.front.idleness import Unlinked, force_detached
from emulator.servicebus.front.links import Link
from emulator.servicebus.front.opening import open_link

log = structlog.get_logger()

MECHANISMS = ("ANONYMOUS", "MSSBCBS", "EXTERNAL")
_SOURCE_FIELD, _TARGET_FIELD = 5, 6
_SASL_OK, _SASL_AUTH = 0, 1
_HANDLE_MAX = 0xFFFF
_SETTLE_MODE_MAX = 2
_HELD_BYTES_MAX = 1 << 20


class Stage(Enum):
    """How far a connection has come."""

    HEADER = "header"
    SASL = "sasl"
    AMQP_HEADER = "amqp-header"
    OPENING = "opening"
    HELD = "held"
    """An injected latency delays the answer to open; what comes meanwhile waits in the reader."""
    OPEN = "open"
    CLOSED = "closed"


class Connection:
    """Guarantee: whatever `receive` is given, it returns; what AMQP forbids ends this connection and nothing else.

    `write` takes bytes for the peer, `finish` is called once when nothing more will come: with True to close after
    what was written, with False to cut the line at once.
    """

    def __init__(self, host: Host, write: Callable[[bytes], None], finish: Callable[[bool], None]) -> None:
        self.host = host
        self.stage = Stage.HEADER
        self.peer_frame_bytes_max = FRAME_SIZE_MIN
        self.claims = Claims(host, self._claims_expired)
        self.channels: dict[int, Channel] = {}
        self._write = write
        self._finish = finish
        self._is_muted = False
        self._is_writable = True
        self._reader = FrameReader(host.limits.frame_bytes_max)
        self._lane = Lane(self)
        self._unlinked = Unlinked(self)
        self._last_received_s = host.time_s()
        self._peer_idle_s: float | None = None
        self._timer: Timer = host.later(host.limits.handshake_timeout_s, self._handshake_timed_out)

    # --- bytes ---

    def receive(self, data: bytes) -> None:
        """Take what the peer sent."""
        self._last_received_s = self.host.time_s()
        try:
            self._reader.feed(data)
            while self._step():
                pass
        except AmqpError as error:
            self.fail(error)
        if self._reader.pending_bytes > _HELD_BYTES_MAX + self.host.limits.frame_bytes_max:
            self.fail(AmqpError("amqp:resource-limit-exceeded", "Too much was sent before the connection was open."))

    def _step(self) -> bool:
        """Use up some of what has arrived; False when more must arrive first."""
        match self.stage:
            case Stage.HEADER | Stage.AMQP_HEADER:
                header = self._reader.next_header()
                if header is not None:
                    self._on_header(header)
                return header is not None
            case Stage.SASL | Stage.OPENING:
                received = self._reader.next_frame()
                if received is not None:
                    self._on_first_frames(received)
                return received is not None
            case Stage.OPEN:
                for received in self._reader.frames():
                    if self.is_open and received.body:
                        self._on_performative(received.channel, received.body)
            case Stage.HELD | Stage.CLOSED:
                pass
        return False

    @property
    def is_open(self) -> bool:
        """Whether frames of sessions are understood."""
        return self.stage is Stage.OPEN

    def send(self, data: bytes) -> None:
        """Send bytes to the peer."""
        if not self._is_muted:
            self._write(data)

    def _on_header(self, header: bytes) -> None:
        if header == SASL_HEADER and self.stage is Stage.HEADER:
            self.stage = Stage.SASL
            self.send(SASL_HEADER + frame(0, out.sasl_mechanisms(MECHANISMS), SASL_FRAME))
        elif header == AMQP_HEADER:
            self.stage = Stage.OPENING
            self.send(AMQP_HEADER)
        else:
            self.send(SASL_HEADER)  # 2.2: answer with a header that is spoken here, then close
            self._end(gracefully=True)

    def _on_first_frames(self, received: Frame) -> None:
        first = p.parse(received.body)
        if self.stage is Stage.SASL and isinstance(first, p.SaslInit) and received.kind == SASL_FRAME:
            self._on_sasl_init(first)
        elif self.stage is Stage.OPENING and isinstance(first, p.Open) and received.kind != SASL_FRAME:
            self._on_open(first)
        else:
            raise AmqpError("amqp:illegal-state", "A frame that cannot come before the connection is open.")

    def _on_sasl_init(self, init: p.SaslInit) -> None:
        if init.mechanism in MECHANISMS:
            self.stage = Stage.AMQP_HEADER
            self.send(frame(0, out.sasl_outcome(_SASL_OK), SASL_FRAME))
        else:
            self.send(frame(0, out.sasl_outcome(_SASL_AUTH), SASL_FRAME))
            self._end(gracefully=True)

    # --- the connection ---

    def _on_open(self, opened: p.Open) -> None:
        self.stage = Stage.HELD
        self._timer.cancel()
        limits = self.host.limits
        self.peer_frame_bytes_max = max(FRAME_SIZE_MIN, min(opened.max_frame_size, limits.frame_bytes_max))
        if opened.idle_time_out_ms:
            self._peer_idle_s = opened.idle_time_out_ms / 1_000
        self._timer = self.host.later(self._beat_s(), self._beat)
        self._lane.run(operations.OPEN_CONNECTION, {}, self._confirm_open, self._refuse_open)

    def _confirm_open(self) -> None:
        limits = self.host.limits
        idle_ms = int(limits.idle_timeout_s * 1_000)
        channel_max = limits.sessions_per_connection_max - 1
        self.stage = Stage.OPEN
        self.send(frame(0, out.open_(self.host.container_id, limits.frame_bytes_max, channel_max, idle_ms)))
        self._unlinked.look()
        self.receive(b"")

    def _refuse_open(self, error: ServiceBusError) -> None:
        self._reader.clear()
        self._confirm_open()
        self.fail(error)

    def _on_performative(self, number: int, body: bytes) -> None:
        performative = p.parse(body)
        channel = self.channels.get(number)
        match performative:
            case p.Begin():
                self._on_begin(number, performative)
            case p.Close():
                self.send(frame(0, out.close()))
                self._end(gracefully=True)
            case p.Open() | p.SaslInit():
                raise AmqpError("amqp:illegal-state", "The connection is open already.")
            case _ if channel is None:
                return  # of a session that has ended: some clients still detach its links
            case _:
                self._on_channel_frame(channel, performative, body)

    def _on_begin(self, number: int, begin: p.Begin) -> None:
        limit = self.host.limits.sessions_per_connection_max
        if number in self.channels or len(self.channels) >= limit or number >= limit:
            raise AmqpError("amqp:not-allowed", f"Channel {number} cannot begin: at most {limit} sessions, each once.")
        channel = self.channels[number] = Channel(self, number, begin)
        channel.send(out.begin(number, 0x40000000, 0x7FFFFFFF, _HANDLE_MAX))

    def _on_channel_frame(self, channel: Channel, performative: p.Performative, body: bytes) -> None:
        try:
            match performative:
                case p.Transfer():
                    channel.on_transfer(performative)
                case p.Disposition():
                    channel.on_disposition(performative)
                case p.Flow():
                    channel.on_flow(performative)
                case p.Attach():
                    self._on_attach(channel, performative, body)
                case p.Detach():
                    channel.on_detach(performative)
                case _:
                    self._end_channel(channel, None)
        except ServiceBusError:
            raise
        except AmqpError as error:
            if not error.condition.startswith("amqp:session:"):
                raise
            self._end_channel(channel, error)

    def _end_channel(self, channel: Channel, error: AmqpError | None) -> None:
        del self.channels[channel.number]
        channel.close()
        channel.send(out.end(error))

    def _on_attach(self, channel: Channel, attach: p.Attach, body: bytes) -> None:
        links = sum(len(each.links) for each in self.channels.values())
        if links >= self.host.limits.links_per_connection_max or attach.handle > _HANDLE_MAX:
            raise AmqpError("amqp:resource-limit-exceeded", "The connection has as many links as it may have.")
        if attach.snd_settle_mode > _SETTLE_MODE_MAX or attach.rcv_settle_mode > _SETTLE_MODE_MAX:
            raise AmqpError("amqp:invalid-field", "A settle mode that does not exist.")
        # Echoed byte for byte: re-encoding would lose which kind of integer the client chose.
        _, list_at = decode(body, 1)
        fields = list_fields(body, list_at, _TARGET_FIELD + 1)
        source, target = (
            Raw(fields[index]) if index < len(fields) else Raw(b"\x40") for index in (_SOURCE_FIELD, _TARGET_FIELD)
        )
        open_link(channel, attach, source, target)

    def _claims_expired(self) -> None:
        """Detach the links that no token covers any more: clients must renew theirs in time."""
        for link in self.all_links():
            if link.entity is not None and not self.claims.cover(link.entity):
                details = (
                    "Unauthorized access. 'Send' or 'Listen' claim(s) are required to perform this operation."
                    f" Resource: '{link.entity}'."
                )
                error = force_detached(link, "RenewToken", details)
                (link.detach if link.is_open else link.refuse)(error)

    def links_changed(self) -> None:
        """A link came or went."""
        if self.is_open:
            self._unlinked.look()

    def all_links(self) -> list[Link]:
        """Every link of every session."""
        return [link for channel in self.channels.values() for link in channel.links.values()]

    # --- flow control towards the peer ---

    @property
    def can_deliver(self) -> bool:
        """Whether deliveries should be taken from queues for this peer."""
        return self._is_writable and self.is_open

    def set_writable(self, *, writable: bool) -> None:
        """The peer reads, or does not."""
        self._is_writable = writable
        self.unblocked()

    def unblocked(self) -> None:
        """Room may have appeared: let receivers go on."""
        for link in self.all_links():
            link.channel_changed()

    # --- the end ---

    def fail(self, error: AmqpError) -> None:
        """Close with an error; before the open frame there is nothing to say it in, so the line is cut."""
        if self.stage is Stage.CLOSED:
            return
        log.info("servicebus.connection-failed", condition=error.condition, reason=error.description)
        if self.stage is Stage.OPEN:
            self.send(frame(0, out.close(error)))
        self._end(gracefully=True)

    def mute(self) -> None:
        """Send nothing from now on."""
        self._is_muted = True

    def drop(self) -> None:
        """Cut the line: nothing more is sent or received."""
        self.mute()
        self._end(gracefully=False)

    def lost(self) -> None:
        """The line is gone."""
        self.mute()
        self._close()

    def _end(self, *, gracefully: bool) -> None:
        if self.stage is not Stage.CLOSED:
            self._close()
            self._finish(gracefully)

    def _close(self) -> None:
        if self.stage is Stage.CLOSED:
            return
        self.stage = Stage.CLOSED
        self._timer.cancel()
        self._lane.close()
        channels, self.channels = list(self.channels.values()), {}
        for channel in channels:
            channel.close()
        self.claims.close()
        self._unlinked.stop()

    # --- time ---

    def _handshake_timed_out(self) -> None:
        log.info("servicebus.handshake-timed-out", stage=self.stage.value)
        self._end(gracefully=False)

    def _beat_s(self) -> float:
        idle_s = self.host.limits.idle_timeout_s
        return min(idle_s, self._peer_idle_s or idle_s) / 3

    def _beat(self) -> None:
        """Show that we are there, and see whether the peer is."""
        idle_s = self.host.limits.idle_timeout_s * 1.5
        if self.host.time_s() - self._last_received_s > idle_s:
            self.fail(
                AmqpError("amqp:connection:forced", f"The connection was inactive for the allowed {idle_s:g} seconds.")
            )
            return
        if self.stage is Stage.OPEN:
            self.send(EMPTY_FRAME)
        self._timer = self.host.later(self._beat_s(), self._beat)

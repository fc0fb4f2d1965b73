"""Links: the ends that a client attaches. Here what all have in common; what they do with messages is elsewhere."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from emulator.servicebus.amqp import frames_out as out
from emulator.servicebus.amqp import performatives as p
from emulator.servicebus.amqp.types import AmqpError, Described, Raw, Symbol
from emulator.servicebus.engine.errors import ServiceBusError, message_too_large
from emulator.servicebus.front.host import Lane
from emulator.servicebus.front.idleness import LinkUse

if TYPE_CHECKING:
    from emulator.servicebus.front.channel import Channel

BATCH_FORMAT = 0x80013700
ENVELOPE_BYTES_MAX = 1_024
CREDIT = 1_000
SERVICE_CREDIT_DELAY_S = 0.02


def address_of(terminus: Any) -> str | None:
    """The address of a source or a target; None where it has none."""
    fields = terminus.value if isinstance(terminus, Described) else None
    address = fields[0] if isinstance(fields, list) and fields else None
    return address if isinstance(address, str) else None


class Link:
    """One attached link, by the handle that the client gave it; the server uses the same number.

    `entity` is the path of what it is about, None for the links of `$cbs`: these need no token and are never idle.
    `kind` is what the service calls such a link when it ends one.
    """

    kind: ClassVar[tuple[str, str]] = ("client", "AmqpControlProtocolClient")

    def __init__(self, channel: "Channel", attach: p.Attach, source: Raw, target: Raw) -> None:
        self.channel = channel
        self.attach = attach
        self.source = source
        self.target = target
        self.handle = attach.handle
        self.lane = Lane(channel.connection)
        self.is_open = False
        self.entity: str | None = None
        self._use: LinkUse | None = None

    def open(self) -> None:
        """Answer the client's attach, now or later."""
        self.confirm()

    def confirm(
        self,
        *,
        source: Any = None,
        max_message_size: int | None = None,
        properties: dict[Symbol, Any] | None = None,
    ) -> None:
        """Answer the client's attach."""
        self.is_open = True
        if self.entity is not None:
            self._use = LinkUse(self)
        self._attach(self.source if source is None else source, self.target, max_message_size, properties)

    def refuse(self, error: AmqpError) -> None:
        """Answer the client's attach by one without source and target, and detach with the reason."""
        if not self.channel.is_current(self):
            return
        self._attach(None, None)
        self.detach(error)

    def _attach(
        self,
        source: Any,
        target: Any,
        max_message_size: int | None = None,
        properties: dict[Symbol, Any] | None = None,
    ) -> None:
        self.channel.send(
            out.attach(
                name=self.attach.name,
                handle=self.handle,
                role=not self.attach.role,
                snd_settle_mode=self.attach.snd_settle_mode,
                rcv_settle_mode=self.attach.rcv_settle_mode,
                source=source,
                target=target,
                max_message_size=max_message_size,
                properties=properties,
            )
        )

    def detach(self, error: AmqpError) -> None:
        """Close the link from this side. What the client still sends on it is ignored."""
        if not self.channel.is_current(self):
            return
        self.close()
        self.channel.expel(self)
        self.channel.send(out.detach(self.handle, error))

    def close(self) -> None:
        """The link is gone. Idempotent."""
        self.is_open = False
        self.lane.close()
        if self._use is not None:
            self._use.stop()

    def touch(self) -> None:
        """Something happened on the link, so it is not idle."""
        if self._use is not None:
            self._use.touch()

    def on_flow(self, flow: p.Flow) -> None:
        """The client's view of credit."""

    def channel_changed(self) -> None:
        """The connection can send again, or no longer."""


class InboundLink(Link, ABC):
    """A link on which the client sends. Puts the frames of a delivery together, never more than a message may have."""

    def __init__(self, channel: "Channel", attach: p.Attach, source: Raw, target: Raw) -> None:
        super().__init__(channel, attach, source, target)
        self._parts: list[bytes] = []
        self._size = 0
        self._delivery_id: int | None = None
        self._format = 0
        self._settled = False
        self._count = 0
        self._credit = 0

    @property
    def size_max(self) -> int:
        """The largest delivery."""
        return self.channel.connection.host.limits.message_bytes_max

    @property
    def _allowed(self) -> int:
        """The clients fill a batch up to the limit without counting what its envelope repeats of the first message."""
        return self.size_max + (ENVELOPE_BYTES_MAX if self._format == BATCH_FORMAT else 0)

    def give_credit(self) -> None:
        """Let the client send: some clients wait for it, others assume it."""
        if self.is_open:
            self._credit = CREDIT
            self.channel.send_flow(self.handle, self._count, CREDIT)

    def give_credit_if_idle(self) -> None:
        """For service links: a client that did not wait for credit is spared the frame."""
        if self._count == 0:
            self.give_credit()

    def on_transfer(self, transfer: p.Transfer) -> None:
        """One frame of a delivery."""
        if not self.is_open:
            return
        if self._delivery_id is None:
            if transfer.delivery_id is None:
                raise AmqpError("amqp:invalid-field", "The first transfer of a delivery has no delivery-id.")
            self._delivery_id = transfer.delivery_id
            self._format = transfer.message_format or 0
            self._settled = False
        self._settled = self._settled or transfer.settled is True
        self._size += len(transfer.payload)
        if transfer.aborted:
            self._reset()
            return
        if self._size > self._allowed:
            self._parts = []  # counted on to its end, and refused then
        else:
            self._parts.append(transfer.payload)
        if not transfer.more:
            self._finish_delivery(self._delivery_id)

    def _finish_delivery(self, delivery_id: int) -> None:
        payload = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        size, settled, message_format = self._size, self._settled, self._format
        allowed = self._allowed
        self._reset()
        self._count += 1
        self._credit -= 1
        if size > allowed:
            self.reject(delivery_id, message_too_large(size, self.size_max), settled=settled)
        else:
            self.on_delivery(delivery_id, payload, message_format, settled=settled)
        if self._count % (CREDIT // 2) == 0 or self._credit == 0:
            self.give_credit()

    def _reset(self) -> None:
        self._parts = []
        self._size = 0
        self._delivery_id = None

    @abstractmethod
    def on_delivery(self, delivery_id: int, payload: bytes, message_format: int, *, settled: bool) -> None:
        """A whole delivery."""

    def on_flow(self, flow: p.Flow) -> None:
        """Answer a client that asks how much it may send."""
        if flow.echo:
            self.give_credit()

    def accept(self, delivery_id: int, *, settled: bool) -> None:
        """Tell the client that the delivery was taken."""
        if not settled:
            self.channel.send(out.disposition(p.ROLE_RECEIVER, delivery_id, out.ACCEPTED_STATE))

    def reject(self, delivery_id: int, error: AmqpError, *, settled: bool) -> None:
        """Tell the client that the delivery was refused and why."""
        if not settled:
            self.channel.send(out.disposition(p.ROLE_RECEIVER, delivery_id, out.rejected_state(error)))


class OutboundLink(Link):
    """A link on which the client receives. Counts deliveries as AMQP's credit wants it."""

    def __init__(self, channel: "Channel", attach: p.Attach, source: Raw, target: Raw) -> None:
        super().__init__(channel, attach, source, target)
        self.sent = 0

    def credit_of(self, flow: p.Flow) -> int:
        """How many further deliveries the client lets through, whatever is still on its way to it."""
        credit = ((flow.delivery_count or 0) + (flow.link_credit or 0) - self.sent) & 0xFFFFFFFF
        return credit if credit < 1 << 31 else 0  # it already has more than it asked for

    def drained(self, leftover: int) -> None:
        """Use up the credit that is left, as the client asked, and say so."""
        self.sent = (self.sent + leftover) & 0xFFFFFFFF
        self.channel.send_flow(self.handle, self.sent, 0, drain=True)

    def transmit(self, tag: bytes, payload: bytes, *, settled: bool) -> int:
        """Send one delivery in as many frames as it needs; returns its id."""
        self.touch()
        self.sent = (self.sent + 1) & 0xFFFFFFFF
        return self.channel.send_delivery(self.handle, tag, payload, settled=settled)

    def on_settled(self, tokens: list[bytes], delivery_ids: list[int], disposition: p.Disposition) -> None:
        """The client settled deliveries of this link."""


def unauthorized(path: str) -> ServiceBusError:
    """No token covers the entity."""
    return ServiceBusError(
        "amqp:unauthorized-access", f"Unauthorized access. 'Send' or 'Listen' claims are required for '{path}'.", 401
    )

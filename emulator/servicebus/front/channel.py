"""One AMQP session (2.5): windows, handles and delivery ids. Called a channel here: sessions are the queue's."""

from collections import deque
from typing import TYPE_CHECKING

from emulator.servicebus.amqp import frames_out as out
from emulator.servicebus.amqp import performatives as p
from emulator.servicebus.amqp.framing import HEADER_BYTES, frame
from emulator.servicebus.amqp.types import AmqpError
from emulator.servicebus.front.links import InboundLink, Link, OutboundLink

if TYPE_CHECKING:
    from emulator.servicebus.front.connection import Connection

# Far from where clients begin to count: one widely used client matches dispositions by number alone.
FIRST_ID = 0x40000000
WINDOW = 0x7FFFFFFF
_U32 = 0xFFFFFFFF


class Channel:
    """The links of one AMQP session, and what it may send."""

    def __init__(self, connection: "Connection", number: int, begin: p.Begin) -> None:
        self.connection = connection
        self.number = number
        self.links: dict[int, Link] = {}
        self._expelled: set[int] = set()
        self._next_incoming_id = begin.next_outgoing_id
        self._next_outgoing_id = FIRST_ID
        self._next_delivery_id = FIRST_ID
        self._window = begin.incoming_window
        self._held_back: deque[bytes] = deque()
        self._unsettled: dict[int, tuple[OutboundLink, bytes]] = {}

    # --- out ---

    def send(self, body: bytes) -> None:
        """Send one frame."""
        self.connection.send(frame(self.number, body))

    def send_flow(self, handle: int, delivery_count: int, credit: int, *, drain: bool = False) -> None:
        """Send the state of a link and of this session."""
        self.send(
            out.flow(
                next_incoming_id=self._next_incoming_id,
                window=WINDOW,
                next_outgoing_id=self._next_outgoing_id,
                handle=handle,
                delivery_count=delivery_count,
                link_credit=credit,
                drain=drain,
            )
        )

    def send_delivery(self, handle: int, tag: bytes, payload: bytes, *, settled: bool) -> int:
        """Send a delivery; frames that the client's window has no room for wait until it has."""
        delivery_id = self._next_delivery_id
        self._next_delivery_id = (delivery_id + 1) & _U32
        room = self.connection.peer_frame_bytes_max - HEADER_BYTES - out.TRANSFER_OVERHEAD_BYTES
        if len(payload) <= room:
            self._send_transfer(out.transfer(handle, delivery_id, tag, 0, settled=settled, more=False) + payload)
            return delivery_id
        first = out.transfer(handle, delivery_id, tag, 0, settled=settled, more=True)
        self._send_transfer(first + payload[:room])
        for start in range(room, len(payload), room):
            more = start + room < len(payload)
            self._send_transfer(out.transfer_next(handle, more=more) + payload[start : start + room])
        return delivery_id

    def _send_transfer(self, body: bytes) -> None:
        if self._window <= 0 or self._held_back:
            self._held_back.append(body)
            return
        self._window -= 1
        self._next_outgoing_id = (self._next_outgoing_id + 1) & _U32
        self.send(body)

    @property
    def is_blocked(self) -> bool:
        """Whether deliveries wait for the client's window: no more should be taken from a queue."""
        return bool(self._held_back)

    def await_settlement(self, delivery_id: int, link: OutboundLink, token: bytes) -> None:
        """Remember what a disposition of this number is about; beyond the limit the oldest is forgotten.

        That one has most probably lost its lock; clients settle what is not confirmed through management.
        """
        self._unsettled[delivery_id] = link, token
        if len(self._unsettled) > self.connection.host.limits.unsettled_deliveries_max:
            del self._unsettled[next(iter(self._unsettled))]

    # --- links ---

    def is_current(self, link: Link) -> bool:
        """Whether the link still has its handle."""
        return self.links.get(link.handle) is link

    def expel(self, link: Link) -> None:
        """Take a link's handle away; what the client sends on it before it knows is ignored."""
        del self.links[link.handle]
        self._expelled.add(link.handle)
        self._forget_deliveries(link)
        self.connection.links_changed()

    def _forget_deliveries(self, link: Link) -> None:
        if isinstance(link, OutboundLink):
            self._unsettled = {key: entry for key, entry in self._unsettled.items() if entry[0] is not link}

    def on_attach(self, link: Link) -> None:
        """Register a link. Raises AmqpError when its handle is taken."""
        if link.handle in self.links:
            raise AmqpError("amqp:session:handle-in-use", f"The handle {link.handle} is in use.")
        self._expelled.discard(link.handle)
        self.links[link.handle] = link
        self.connection.links_changed()

    def on_detach(self, detach: p.Detach) -> None:
        """The client closed a link, or acknowledges that we did."""
        link = self.links.pop(detach.handle, None)
        if link is None:
            self._expelled.discard(detach.handle)
            return
        link.close()
        self._forget_deliveries(link)
        self.send(out.detach(detach.handle))
        self.connection.links_changed()

    def on_transfer(self, transfer: p.Transfer) -> None:
        """A frame of a delivery from the client."""
        self._next_incoming_id = (self._next_incoming_id + 1) & _U32
        link = self.links.get(transfer.handle)
        if isinstance(link, InboundLink):
            link.touch()
            link.on_transfer(transfer)
        elif transfer.handle not in self._expelled:
            raise AmqpError("amqp:session:unattached-handle", f"The handle {transfer.handle} takes no transfers.")

    def on_flow(self, flow: p.Flow) -> None:
        """Credit, and room in the client's window."""
        base = FIRST_ID if flow.next_incoming_id is None else flow.next_incoming_id
        window = (base + flow.incoming_window - self._next_outgoing_id) & _U32
        self._window = window if window < 1 << 31 else 0
        if self._held_back:
            self._release_held_back()
        if flow.handle is not None:
            link = self.links.get(flow.handle)
            if link is not None:
                link.touch()
                link.on_flow(flow)
        elif flow.echo:
            self.send(
                out.flow(
                    next_incoming_id=self._next_incoming_id, window=WINDOW, next_outgoing_id=self._next_outgoing_id
                )
            )

    def _release_held_back(self) -> None:
        while self._held_back and self._window > 0:
            self._window -= 1
            self._next_outgoing_id = (self._next_outgoing_id + 1) & _U32
            self.send(self._held_back.popleft())
        if not self._held_back:
            self.connection.unblocked()

    def on_disposition(self, disposition: p.Disposition) -> None:
        """The client settles deliveries: grouped by link, so that a range is one piece of work."""
        if disposition.role is p.ROLE_SENDER:
            return  # about what it sent us: we settle at once, so there is nothing to learn
        first, last = disposition.first, disposition.last
        if first == last:
            entry = self._unsettled.pop(first, None)
            if entry is not None:
                entry[0].touch()
                entry[0].on_settled([entry[1]], [first], disposition)
            return
        if last - first < len(self._unsettled):
            numbers = [number for number in range(first, last + 1) if number in self._unsettled]
        else:
            numbers = sorted(number for number in self._unsettled if first <= number <= last)
        groups: dict[OutboundLink, tuple[list[bytes], list[int]]] = {}
        for number in numbers:
            link, token = self._unsettled.pop(number)
            tokens, ids = groups.setdefault(link, ([], []))
            tokens.append(token)
            ids.append(number)
        for link, (tokens, ids) in groups.items():
            link.touch()
            link.on_settled(tokens, ids, disposition)

    def close(self) -> None:
        """The session is over: so are its links. Idempotent."""
        links, self.links = list(self.links.values()), {}
        self._unsettled.clear()
        self._held_back.clear()
        for link in links:
            link.close()
        self.connection.links_changed()

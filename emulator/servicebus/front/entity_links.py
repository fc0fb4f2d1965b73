"""Links to entities: producers' and receivers'."""

from typing import TYPE_CHECKING, Any

from emulator.servicebus.amqp import frames_out as out
from emulator.servicebus.amqp import performatives as p
from emulator.servicebus.amqp.decode import skip
from emulator.servicebus.amqp.encode import encode, encode_list
from emulator.servicebus.amqp.message import list_fields, split
from emulator.servicebus.amqp.types import AmqpError, Described, Raw, Symbol, UInt
from emulator.servicebus.engine.errors import ServiceBusError, invalid_field
from emulator.servicebus.engine.message import Message, encode_for_receiver, read_message
from emulator.servicebus.engine.receivers import Delivery, Receiver
from emulator.servicebus.engine.sessions import Acceptor
from emulator.servicebus.front import operations
from emulator.servicebus.front.links import BATCH_FORMAT, InboundLink, OutboundLink
from emulator.servicebus.front.states import outcome_of

if TYPE_CHECKING:
    from emulator.servicebus.front.channel import Channel

SESSION_FILTER = "com.microsoft:session-filter"
_FILTER_FIELD = 7
_TICKS_AT_EPOCH = 621_355_968_000_000_000
_TICKS_PER_S = 10_000_000
_SETTLED_BY_SENDER = 1


class SendLink(InboundLink):
    """A producer's link to a queue or topic."""

    kind = ("publisher", "AmqpMessagePublisher")

    def __init__(self, channel: "Channel", attach: p.Attach, source: Raw, target: Raw, path: str) -> None:
        super().__init__(channel, attach, source, target)
        self.path = path

    def open(self) -> None:
        """Answer the attach."""
        self.lane.run(operations.OPEN_SENDER, {"entity": self.path}, self._open, self.refuse)

    def _open(self) -> None:
        try:
            target = self.channel.connection.host.engine.target(self.path)
            target.check_open()
        except ServiceBusError as error:
            self.refuse(error)
            return
        self.path = target.path
        size_max = self.size_max
        self.confirm(
            max_message_size=size_max, properties={Symbol("com.microsoft:max-message-batch-size"): UInt(size_max)}
        )
        self.give_credit()

    def on_delivery(self, delivery_id: int, payload: bytes, message_format: int, *, settled: bool) -> None:
        """A message, or a batch of them."""
        try:
            messages = _read(payload, message_format)
        except AmqpError as error:
            self.reject(delivery_id, error, settled=settled)
            return

        def apply() -> None:
            try:
                self.channel.connection.host.engine.send(self.path, messages)
            except AmqpError as error:
                self.reject(delivery_id, error, settled=settled)
            else:
                self.accept(delivery_id, settled=settled)

        def refuse(error: ServiceBusError) -> None:
            self.reject(delivery_id, error, settled=settled)

        self.lane.run(operations.SEND, _facts(self.path, messages), apply, refuse)


def _read(payload: bytes, message_format: int) -> list[Message]:
    if message_format != BATCH_FORMAT:
        return [read_message(payload)]
    return [read_message(body) for body in split(payload).bodies()]


def _facts(path: str, messages: list[Message]) -> dict[str, str]:
    """What fault rules can ask about a send; those of the first message stand for a batch."""
    facts = {"entity": path, "messages": str(len(messages))}
    if messages:
        first = messages[0]
        if first.session_id is not None:
            facts["session_id"] = first.session_id
        if first.message_id is not None:
            facts["message_id"] = first.message_id
    return facts


class ReceiveLink(OutboundLink):
    """A receiver's link to a queue, subscription or dead-letter queue, with or without a session."""

    kind = ("consumer", "AmqpMessageConsumer")

    def __init__(self, channel: "Channel", attach: p.Attach, source: Raw, target: Raw, path: str) -> None:
        super().__init__(channel, attach, source, target)
        self.path = path
        self.owner: object = channel.connection
        self._deletes = attach.snd_settle_mode == _SETTLED_BY_SENDER
        self._receiver: Receiver | None = None
        self._acceptor: Acceptor | None = None
        self._facts = {"entity": path}

    # --- opening ---

    def open(self) -> None:
        """Answer the attach; for the next session, once there is one."""
        try:
            wants_session, session_id = _session_filter(self.attach.source)
        except ServiceBusError as error:
            self.refuse(error)
            return
        if not wants_session:
            self.lane.run(operations.OPEN_RECEIVER, self._facts, self._open, self.refuse)
            return
        if isinstance(session_id, str):
            self._facts["session_id"] = session_id
        self.lane.run(operations.ACCEPT_SESSION, self._facts, lambda: self._accept(session_id), self.refuse)

    def _open(self) -> None:
        try:
            self.channel.connection.host.engine.open_receiver(self.path, self, deletes=self._deletes)
        except ServiceBusError as error:
            self.refuse(error)

    def _accept(self, session_id: object) -> None:
        if not self.channel.is_current(self):
            return  # the client went away while an injected latency held this back
        try:
            accepted = self.channel.connection.host.engine.accept_session(
                self.path, session_id, self, deletes=self._deletes, timeout_s=_timeout_s(self.attach.properties)
            )
        except ServiceBusError as error:
            self.refuse(error)
            return
        if isinstance(accepted, Acceptor):
            self._acceptor = accepted

    def granted(self, receiver: Receiver) -> None:
        """The engine opened the receiver: tell the client, with the session that it got."""
        self._acceptor = None
        self._receiver = receiver
        receiver.paused = not self._can_deliver
        session = receiver.session
        if session is None:
            self.confirm()
            return
        self._facts["session_id"] = session.id
        locked_until = _TICKS_AT_EPOCH + int(session.locked_until_s * _TICKS_PER_S)
        self.confirm(
            source=_with_session(self.source, session.id),
            properties={Symbol("com.microsoft:locked-until-utc"): locked_until},
        )

    def refused(self, error: ServiceBusError) -> None:
        """No session in time."""
        self._acceptor = None
        self.refuse(error)

    def lost(self, error: ServiceBusError) -> None:
        """The engine took the receiver away."""
        self._receiver = None
        self.detach(error)

    def close(self) -> None:
        """The client is gone: free what it held."""
        super().close()
        acceptor, self._acceptor = self._acceptor, None
        if acceptor is not None:
            acceptor.cancel()
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.close()

    # --- delivering ---

    @property
    def _can_deliver(self) -> bool:
        return self.channel.connection.can_deliver and not self.channel.is_blocked

    def channel_changed(self) -> None:
        """Go on, or hold back."""
        receiver = self._receiver
        if receiver is not None and receiver.paused is self._can_deliver:
            receiver.set_paused(paused=not self._can_deliver)

    def on_flow(self, flow: p.Flow) -> None:
        """The client asks for messages, or takes back what it asked."""
        receiver = self._receiver
        if receiver is None:
            return
        if self.credit_of(flow) == 0 and not flow.drain:
            receiver.set_credit(0)
            return

        def apply() -> None:
            receiver.set_credit(self.credit_of(flow))
            if flow.drain and receiver.is_open:
                leftover = receiver.credit
                receiver.set_credit(0)
                self.drained(leftover)

        self.lane.run(operations.RECEIVE, self._facts, apply, self.detach)

    def deliver(self, delivery: Delivery) -> None:
        """Send a message."""
        payload = encode_for_receiver(delivery.message, delivery.locked_until_s)
        delivery_id = self.transmit(delivery.token, payload, settled=self._deletes)
        if not self._deletes:
            self.channel.await_settlement(delivery_id, self, delivery.token)
        receiver = self._receiver
        if receiver is not None and not self._can_deliver:
            receiver.paused = True

    # --- settling ---

    def on_settled(self, tokens: list[bytes], delivery_ids: list[int], disposition: p.Disposition) -> None:
        """Carry out an outcome; the answer is one disposition for each delivery, in order, never a range."""
        try:
            outcome, echo = outcome_of(disposition.state)
        except AmqpError as error:
            self._answer(delivery_ids, out.rejected_state(error), disposition)
            return
        receiver = self._receiver

        def apply() -> None:
            try:
                queue = self.channel.connection.host.engine.queue(self.path)
                queue.settle([queue.find_lock(token, receiver) for token in tokens], outcome)
            except AmqpError as error:
                self._answer(delivery_ids, out.rejected_state(error), disposition)
            else:
                self._answer(delivery_ids, echo, disposition)

        def refuse(error: ServiceBusError) -> None:
            self._answer(delivery_ids, out.rejected_state(error), disposition)

        facts = {**self._facts, "outcome": type(outcome).__name__.lower()}
        self.lane.run(operations.SETTLE, facts, apply, refuse)

    def _answer(self, delivery_ids: list[int], state: bytes, disposition: p.Disposition) -> None:
        if not disposition.settled:
            for delivery_id in delivery_ids:
                self.channel.send(out.disposition(p.ROLE_SENDER, delivery_id, state))


def _session_filter(source: Any) -> tuple[bool, object]:
    """Whether a session is wanted, and which: None for the next one."""
    fields = source.value if isinstance(source, Described) else None
    filters = fields[_FILTER_FIELD] if isinstance(fields, list) and len(fields) > _FILTER_FIELD else None
    if not isinstance(filters, dict) or SESSION_FILTER not in filters:
        return False, None
    session_id = filters[SESSION_FILTER]
    if session_id is not None and type(session_id) is not str:
        raise invalid_field(f"The session filter ({SESSION_FILTER}) is neither a string nor null.")
    return True, session_id


def _with_session(source: Raw, session_id: str) -> Raw:
    """The client's source, byte for byte, but for the session that was granted."""
    start = skip(source, 1)
    fields = list_fields(source, start, 64)
    fields[_FILTER_FIELD] = encode({Symbol(SESSION_FILTER): session_id})
    return Raw(source[:start] + encode_list(fields))


def _timeout_s(properties: Any) -> float | None:
    timeout_ms = properties.get("com.microsoft:timeout") if isinstance(properties, dict) else None
    return timeout_ms / 1_000 if isinstance(timeout_ms, int) and not isinstance(timeout_ms, bool) else None

"""The engine of the embedded Service Bus on a clock that stands still, with receivers that only note what they get."""

from collections.abc import Iterable, Sequence
from typing import Any

from emulator.clock import ManualClock
from emulator.config import QueueConfig, ServiceBusConfig, TopicConfig
from emulator.journal import Change, Journal, MemoryJournal
from emulator.servicebus import Limits
from emulator.servicebus.amqp.encode import encode, encode_list
from emulator.servicebus.amqp.message import (
    APPLICATION_PROPERTIES,
    DATA,
    GROUP_ID,
    HEADER,
    MESSAGE_ANNOTATIONS,
    MESSAGE_ID,
    PROPERTIES,
    SUBJECT,
    section,
    split,
)
from emulator.servicebus.amqp.types import Symbol, Timestamp, UInt
from emulator.servicebus.engine.errors import ServiceBusError
from emulator.servicebus.engine.message import Message, read_message
from emulator.servicebus.engine.namespace import Namespace
from emulator.servicebus.engine.outcomes import Outcome
from emulator.servicebus.engine.receivers import Delivery, Receiver
from emulator.servicebus.engine.sessions import Acceptor


def raw_message(
    body: bytes = b"",
    *,
    session_id: Any = None,
    message_id: Any = None,
    subject: str | None = None,
    ttl_s: float | None = None,
    at_s: float | None = None,
    properties: dict[str, Any] | None = None,
) -> bytes:
    """A message as a client would encode it."""
    fields: list[Any] = [None] * (GROUP_ID + 1)
    fields[MESSAGE_ID], fields[SUBJECT], fields[GROUP_ID] = message_id, subject, session_id
    parts = []
    if ttl_s is not None:
        parts.append(section(HEADER, encode_list([encode(None), encode(None), encode(UInt(int(ttl_s * 1000)))])))
    if at_s is not None:
        annotations = {Symbol("x-opt-scheduled-enqueue-time"): Timestamp(int(at_s * 1000))}
        parts.append(section(MESSAGE_ANNOTATIONS, encode(annotations)))
    parts.append(section(PROPERTIES, encode(fields)))
    if properties is not None:
        parts.append(section(APPLICATION_PROPERTIES, encode(properties)))
    parts.append(section(DATA, encode(body)))
    return b"".join(parts)


def made(body: str = "", **fields: Any) -> Message:
    """A message as the engine takes it."""
    return read_message(raw_message(body.encode(), **fields))


class Taker:
    """A receiver's other end."""

    def __init__(self, engine: Namespace, owner: object = None) -> None:
        self._engine = engine
        self._owner = owner if owner is not None else self
        self.receiver: Receiver | None = None
        self.acceptor: Acceptor | None = None
        self.deliveries: list[Delivery] = []
        self.error: ServiceBusError | None = None

    @property
    def owner(self) -> object:
        return self._owner

    def granted(self, receiver: Receiver) -> None:
        self.receiver = receiver

    def refused(self, error: ServiceBusError) -> None:
        self.error = error

    def lost(self, error: ServiceBusError) -> None:
        self.error = error

    def deliver(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)

    def open(self, path: str, credit: int = 0, *, deletes: bool = False) -> "Taker":
        """Open a receiver without a session."""
        self._engine.open_receiver(path, self, deletes=deletes)
        return self.ask(credit)

    def accept(self, path: str, session_id: object = None, credit: int = 0, timeout_s: float = 60.0) -> "Taker":
        """Accept a session, or wait for one."""
        found = self._engine.accept_session(path, session_id, self, deletes=False, timeout_s=timeout_s)
        if isinstance(found, Acceptor):
            self.acceptor = found
        return self.ask(credit)

    def ask(self, credit: int) -> "Taker":
        """Give credit."""
        if credit and self.receiver is not None:
            self.receiver.set_credit(credit)
        return self

    def settle(self, outcome: Outcome, *indexes: int) -> None:
        """Settle deliveries by the order in which they came."""
        assert self.receiver is not None
        queue = self.receiver.queue
        queue.settle([queue.find_lock(self.deliveries[each].token, self.receiver) for each in indexes], outcome)

    def close(self) -> None:
        """Go away."""
        assert self.receiver is not None
        self.receiver.close()

    @property
    def session_id(self) -> str | None:
        """The session it holds."""
        return self.receiver.session.id if self.receiver is not None and self.receiver.session is not None else None

    @property
    def bodies(self) -> list[str]:
        """What came, in order."""
        return [text_of(delivery.message) for delivery in self.deliveries]


def text_of(message: Message) -> str:
    """The body of a message made here."""
    return b"".join(split(message.bare).bodies()).decode()


class RowJournal(MemoryJournal):
    """Keeps rows in memory, so that a restart costs nothing and what is left can be looked at."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], bytes] = {}

    def load(self, space: str) -> Iterable[tuple[str, bytes]]:
        return sorted((key, value) for (each, key), value in self.rows.items() if each == space)

    def commit(self, changes: Sequence[Change]) -> None:
        for space, key, value in changes:
            if value is None:
                self.rows.pop((space, key), None)
            else:
                self.rows[space, key] = value


class Bench:
    """An engine, its clock and its journal; `restart` is a new process on the same journal."""

    def __init__(
        self,
        *queues: QueueConfig,
        topics: tuple[TopicConfig, ...] = (),
        journal: Journal | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.config = ServiceBusConfig(queues=queues, topics=topics)
        self.clock = ManualClock()
        self.journal = journal or MemoryJournal()
        self.limits = limits
        self.engine = self._start()

    def _start(self) -> Namespace:
        return Namespace(self.config, clock=self.clock, journal=self.journal, limits=self.limits)

    def restart(self) -> None:
        """Forget everything but the journal."""
        self.engine = self._start()

    def send(self, path: str, *messages: Message) -> None:
        """Send messages in one batch."""
        self.engine.send(path, list(messages))

    def taker(self, owner: object = None) -> Taker:
        """A new receiver's end."""
        return Taker(self.engine, owner)

    def pass_s(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.jump_s(seconds)
        self.engine.advance()

    def state(self, path: str) -> list[tuple[str, int, bool]]:
        """Body, delivery count and whether it is locked, of each message."""
        queue = self.engine.queue(path)
        return [
            (text_of(message), message.delivery_count, queue.is_locked(message.sequence))
            for message in queue.peek(0, len(queue.messages) + len(queue.scheduled))
        ]

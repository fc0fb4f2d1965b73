"""Those who take messages out: receivers with credit, acceptors that wait for a session, and where both report to."""

from typing import TYPE_CHECKING, NamedTuple, Protocol

from emulator.servicebus.engine.errors import ServiceBusError
from emulator.servicebus.engine.message import Message

if TYPE_CHECKING:
    from emulator.servicebus.engine.queue import Queue
    from emulator.servicebus.engine.sessions import Session


class Delivery(NamedTuple):
    """A message on its way to a receiver. `locked_until_s` is None when it was deleted on delivery."""

    message: Message
    token: bytes
    locked_until_s: float | None


class Sink(Protocol):
    """The front's side of a receiver. Called in the middle of engine work: it must only note, never call back."""

    @property
    def owner(self) -> object:
        """Whose it is: the connection, by identity. A session lock belongs to it for management requests."""
        ...

    def granted(self, receiver: "Receiver") -> None:
        """The receiver is open; for an acceptor, `receiver.session` says which session it got."""
        ...

    def refused(self, error: ServiceBusError) -> None:
        """The acceptor waited in vain."""
        ...

    def deliver(self, delivery: Delivery) -> None:
        """A message. Its receiver's credit is already lower by one."""
        ...

    def lost(self, error: ServiceBusError) -> None:
        """The receiver was closed by the service."""
        ...


class Receiver:
    """An open receiver of one queue or of one session."""

    __slots__ = ("credit", "deletes", "is_open", "paused", "queue", "session", "sink")

    def __init__(self, queue: "Queue", sink: Sink, *, deletes: bool, session: "Session | None" = None) -> None:
        self.queue = queue
        self.sink = sink
        self.deletes = deletes
        self.session = session
        self.credit = 0
        self.paused = False
        self.is_open = True

    @property
    def wants(self) -> bool:
        """Whether a message may be handed to it now."""
        return self.credit > 0 and not self.paused and self.is_open

    def set_credit(self, credit: int) -> None:
        """Let the queue send `credit` further messages."""
        self.credit = credit
        if self.is_open:
            self.queue.receiver_changed(self)

    def set_paused(self, *, paused: bool) -> None:
        """Hold deliveries back while the peer does not read."""
        self.paused = paused
        if self.is_open:
            self.queue.receiver_changed(self)

    def close(self) -> None:
        """The peer is gone. A session is free at once and its messages come again; other locks run on."""
        if self.is_open:
            self.is_open = False
            self.queue.receiver_closed(self)

"""The engine: all entities of one namespace, and everything that a front or a test can ask of them."""

from collections.abc import Sequence
from typing import NamedTuple

from emulator.clock import Clock
from emulator.journal import Journal
from emulator.servicebus.engine import rows
from emulator.servicebus.engine.errors import ServiceBusError, argument_error, invalid_field, not_allowed
from emulator.servicebus.engine.message import Message, State, utf16_length
from emulator.servicebus.engine.queue import Queue
from emulator.servicebus.engine.receivers import Receiver, Sink
from emulator.servicebus.engine.registry import Registry
from emulator.servicebus.engine.sessions import Acceptor, Session
from emulator.servicebus.engine.topic import Topic
from emulator.servicebus.engine.work import RETRY_S, Context, Work
from emulator.servicebus.entities import ServiceBusConfig
from emulator.servicebus.limits import Limits


class MessageView(NamedTuple):
    """A message as tests and operators see it."""

    sequence: int
    message_id: str | None
    session_id: str | None
    state: State
    delivery_count: int
    is_locked: bool
    enqueued_s: float
    expires_s: float | None
    properties: dict[str, object]


class Counts(NamedTuple):
    """How many messages an entity has, by what they are doing."""

    active: int
    deferred: int
    scheduled: int
    dead_lettered: int
    locked: int
    """Of the active and deferred ones."""


class Namespace:
    """Pure: it changes only when a method is called, and time passes only in `advance`."""

    def __init__(
        self, config: ServiceBusConfig, *, clock: Clock, journal: Journal, limits: Limits | None = None
    ) -> None:
        self.config = config
        self.limits = limits or Limits()
        self.context = Context(clock=clock, journal=journal, limits=self.limits)
        self.entities = Registry(config, self.context)

    # --- entities ---

    def queue(self, path: str) -> Queue:
        """What messages are received from at `path`. Raises ServiceBusError."""
        return self.entities.queue(path)

    def target(self, path: str) -> Queue | Topic:
        """What messages are sent to at `path`. Raises ServiceBusError."""
        return self.entities.target(path)

    # --- producers ---

    def send(self, path: str, messages: list[Message]) -> None:
        """Take messages in: all, or none when one is refused."""
        target = self.target(path)
        work = Work(self.context)
        target.plan_send(work, messages)
        work.commit()

    def schedule(self, path: str, messages: list[Message]) -> list[int]:
        """Keep messages until their `scheduled_s`; returns their numbers."""
        target = self.target(path)
        work = Work(self.context)
        sequences = target.plan_schedule(work, messages)
        work.commit()
        return sequences

    def cancel_scheduled(self, path: str, sequences: list[int]) -> None:
        """Take scheduled messages away."""
        target = self.target(path)
        work = Work(self.context)
        target.plan_cancel(work, sequences)
        work.commit()

    # --- consumers ---

    def open_receiver(self, path: str, sink: Sink, *, deletes: bool) -> Receiver:
        """Open a receiver of an entity without sessions."""
        queue = self.queue(path)
        receiver = Receiver(queue, sink, deletes=deletes)
        queue.attach(receiver)
        return receiver

    def accept_session(
        self, path: str, session_id: object, sink: Sink, *, deletes: bool, timeout_s: float | None = None
    ) -> Receiver | Acceptor:
        """Lock a named session now, or (`session_id` None) the next that is available, waiting for one if need be.

        Raises:
            ServiceBusError: no such entity, no sessions there, the session is held by somebody, or its id is no
                string or too long.
        """
        queue = self.queue(path)
        if queue.sessions is None:
            raise not_allowed(
                "A sessionful message receiver cannot be created on an entity that does not require sessions."
                f" Entity: '{path}'."
            )
        if session_id is None:
            wait_s = self.limits.session_accept_timeout_s if timeout_s is None else timeout_s
            bounded_s = min(wait_s, self.limits.session_accept_timeout_max_s)
            return queue.sessions.accept_next(sink, deletes=deletes, timeout_s=bounded_s)
        if type(session_id) is not str:
            raise invalid_field("The session filter (com.microsoft:session-filter) is neither a string nor null.")
        if utf16_length(session_id) > self.limits.session_id_chars_max:
            raise argument_error(f"The session id has more than {self.limits.session_id_chars_max} characters.")
        return queue.sessions.accept(session_id, sink, deletes=deletes)

    def session_ids(self, path: str, *, updated_after_s: float | None = None) -> list[str]:
        """Sessions with messages or state, oldest first; with a time, those whose state was set after it."""
        queue = self.queue(path)
        if queue.sessions is None:
            raise not_allowed(f"The entity '{path}' has no sessions.")
        return [
            session.id
            for session in queue.sessions.all()
            if (
                bool(session.sequences) or session.state is not None
                if updated_after_s is None
                else session.updated_s is not None and session.updated_s > updated_after_s
            )
        ]

    def set_session_state(self, queue: Queue, session: Session, state: bytes | None) -> None:
        """Keep the state of a session that is held; None or empty forgets it."""
        state_max = self.limits.session_state_bytes_max
        if state is not None and len(state) > state_max:
            raise argument_error(f"The session state has {len(state)} bytes; at most {state_max} are allowed.")
        work = Work(self.context)
        kept = state or None
        work.rows.append(rows.put_session_state(queue.key, session.id, kept, work.now_s))
        work.then(lambda: session.set_state(kept, work.now_s))
        work.commit()

    # --- time ---

    def next_deadline_s(self) -> float | None:
        """When `advance` must be called next, in the clock's time; None when nothing is waiting."""
        return self.context.timers.next_s()

    def advance(self) -> None:
        """Carry out everything whose time has come, the earliest first."""
        while (due := self.context.timers.pop_due(self.context.clock.now_s())) is not None:
            try:
                due.on_timer(self.context.clock.now_s())
            except BaseException:
                self.context.timers.set(due, self.context.clock.now_s() + RETRY_S)  # the disk may be full: not lost
                raise

    # --- for tests and operators ---

    def take_session_lock(self, path: str, session_id: str) -> None:
        """Take a session from its holder, as when its lock expires."""
        queue = self.queue(path)
        session = queue.sessions.find(session_id) if queue.sessions is not None else None
        if queue.sessions is None or session is None or session.holder is None:
            raise ServiceBusError("amqp:not-found", f"Nobody holds session '{session_id}' of '{path}'.", 404)
        queue.sessions.take_lock(session)

    def session_holder(self, path: str, session_id: str) -> object | None:
        """The owner (connection) that holds the session; None when it is free."""
        queue = self.queue(path)
        session = queue.sessions.find(session_id) if queue.sessions is not None else None
        return None if session is None or session.holder is None else session.holder.sink.owner

    def messages(self, path: str) -> Sequence[MessageView]:
        """All messages of an entity, scheduled ones included, by number."""
        queue = self.queue(path)
        total = len(queue.messages) + len(queue.scheduled)
        return [
            MessageView(
                sequence=message.sequence,
                message_id=message.message_id,
                session_id=message.session_id,
                state=message.state,
                delivery_count=message.delivery_count,
                is_locked=queue.is_locked(message.sequence),
                enqueued_s=message.enqueued_s,
                expires_s=message.expires_s,
                properties=message.application_properties(),
            )
            for message in queue.peek(0, total)
        ]

    def counts(self, path: str) -> Counts:
        """How many messages an entity has. Costs one pass over them."""
        queue = self.queue(path)
        deferred = sum(message.state is State.DEFERRED for message in queue.messages.values())
        return Counts(
            active=len(queue.messages) - deferred,
            deferred=deferred,
            scheduled=len(queue.scheduled),
            dead_lettered=len(queue.dead_letters.messages) if queue.dead_letters is not None else 0,
            locked=queue.locked_count,
        )
